"""The GPU report's own logic, on a machine without a GPU: gate, peers, floors, the tuner's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kernels
from benchmarks import encoders, gpu, gpu_search, peers, tune
from benchmarks.units import units
from engine.errors import MissingPackage
from kernels import TopK, coarse_topk

REASON = kernels.available_backends()["triton"]
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.skipif(REASON != "ok", reason=f"triton: {REASON}")
def test_a_dry_run_writes_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry-run", "--out", str(tmp_path), "--seconds", "900", "900", "0"]) == 0
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert report["dry_run"]
    assert report["wrong"] == []
    assert [(one["section"], one["runtime"]) for one in report["not_reached"]] == [
        ("encoders", "torch"), ("encoders", "ONNX Runtime"),
    ] * 2  # fmt: skip
    assert {case["shape"]["op"] for case in report["cases"]} == {"coarse", "rerank"}
    first = report["cases"][0]
    assert 0 < first["ours"]["p50"] <= first["ours"]["p95"] <= first["ours"]["p99"]
    assert first["peers"]["matmul + topk"]["p50"] > 0
    assert first["peers"]["cuvs brute_force"] == {"not_installed": "pip install cuvs-cu13"}
    assert path.name.endswith(f"-{report['machine']['date']}-{report['machine']['commit']}.json")
    assert "wrote" in capsys.readouterr().out
    check_search(report["search"])


def check_search(rows: list[dict[str, Any]]) -> None:
    """Every method has its row: ours with stages, peers with figures or the command that would install them."""
    assert [row["method"] for row in rows] == [
        "ours", "ours, exact", *peers.TWO_STAGE_PEERS, *peers.EXACT_PEERS,
    ]  # fmt: skip
    sizes = gpu_search.TINY
    for row in rows:
        assert ((row["N"], row["D"]), row["d"], row["B"], row["k"]) == (
            sizes.pools[0], sizes.coarse, sizes.batches[0], sizes.k,
        )  # fmt: skip
    found = {row["method"]: row for row in rows}
    for method in ("ours", "ours, exact", "matmul + topk", "matmul + topk, gather"):
        row = found.pop(method)
        assert 0 < row["p50"] <= row["p95"] <= row["p99"]
        assert row["qps"] == pytest.approx(row["B"] / row["p50"] * 1e3)
        assert row["bytes"] == row["N"] * 2 * (
            row["D"] + (row["candidates"] is not None) * row["d"]
        )
        assert set(row.get("stages", ())) == (
            {"encode", "coarse", "rerank"} if "ours" in method else set()
        )
    assert {method: row.get("not_installed") for method, row in found.items()} == {
        "flashlib flash_knn, gather": "pip install --no-deps flashlib==0.4.0",
        "jax approx_max_k, gather": "pip install 'jax[cuda13]'",
        "cuvs brute_force, refine": "pip install cuvs-cu13",
        "FAISS GpuIndexFlatIP": "pip uninstall faiss-cpu; pip install faiss-gpu",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("command", ["benchmarks.gpu", "benchmarks.tune"])
def test_without_a_gpu_nothing_is_measured(command: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", command, "--out", str(tmp_path / "x")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert not list(tmp_path.iterdir())


def empty() -> dict[str, Any]:
    machine = {"device": "none", "date": "d", "commit": "c"}
    lists: dict[str, list[Any]] = {
        name: [] for name in ("wrong", "not_reached", "cases", "search", "encoders")
    }
    return {"machine": machine, "dry_run": True, **lists}


def test_a_wrong_result_stops_every_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    todo = [gpu.Shape("rerank", 2, 16, 64, 4), gpu.Shape("rerank", 3, 16, 64, 4)]
    faults = iter(["", "not in order"])
    monkeypatch.setattr(gpu, "prepare", lambda _shape, items: items)
    monkeypatch.setattr(gpu, "check", lambda _shape, _given: next(faults))
    monkeypatch.setattr(gpu, "measure", lambda shape, *_rest: {"shape": gpu.asdict(shape)})  # type: ignore[attr-defined]
    monkeypatch.setattr(gpu, "line", str)
    report = {**empty(), "search": ["a row"], "encoders": ["a case"]}
    gpu.run(report, todo, CPU, time.monotonic() + 100)
    gpu.write(report, tmp_path)
    written = json.loads((tmp_path / "none-d-c.json").read_text())
    assert [written[name] for name in ("cases", "search", "encoders")] == [[], [], []]
    assert written["wrong"] == [
        {"section": "cases", "shape": gpu.asdict(todo[1]), "fault": "not in order"}  # type: ignore[attr-defined]
    ]


def test_what_the_time_does_not_reach_is_listed() -> None:
    todo = [gpu.Shape("rerank", 2, 16, 64, 4)]
    report = empty()
    gpu.run(report, todo, CPU, time.monotonic() - 1)
    assert report["cases"] == []
    assert report["not_reached"] == [{"section": "cases", "shape": gpu.asdict(todo[0])}]  # type: ignore[attr-defined]


def test_an_error_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def sections(report: dict[str, Any], *_: object) -> list[Callable[[], None]]:
        def broken() -> None:
            report["cases"].append("the first")
            raise RuntimeError("the kernels are broken")

        def sound() -> None:
            (path,) = tmp_path.glob("*.json")  # written in between, for a run that is killed
            assert json.loads(path.read_text())["cases"] == ["the first"]
            report["search"].append("the second")

        return [broken, sound]

    monkeypatch.setattr(gpu, "sections", sections)
    monkeypatch.setattr(gpu, "available_backends", lambda: {"triton": "ok"})
    with pytest.raises(RuntimeError, match="broken"):
        gpu.main(["--dry-run", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert (report["cases"], report["search"]) == (["the first"], ["the second"])


def test_what_a_peer_raises_is_its_result() -> None:
    def raising(error: Exception) -> Callable[[], dict[str, Any]]:
        def measure() -> dict[str, Any]:
            raise error

        return measure

    assert peers.outcome(lambda: {"p50": 1.0}) == {"p50": 1.0}
    assert peers.outcome(raising(peers.NotInstalled("pip install x"))) == {
        "not_installed": "pip install x"
    }
    assert peers.outcome(raising(peers.NotSupported("too wide"))) == {"not_supported": "too wide"}
    assert peers.outcome(raising(ValueError("odd"))) == {"failed": "ValueError: odd"}


def test_the_check_sees_what_can_be_wrong() -> None:
    items, queries = (
        units(500, 32, dtype=torch.float16, seed=0),
        units(3, 32, dtype=torch.float16, seed=1),
    )
    good = coarse_topk(queries, items, 5, backend="torch")
    assert gpu.fault(good, queries, items, 5) == ""
    beyond = TopK(good.scores, good.rows + 500)
    assert gpu.fault(beyond, queries, items, 5) == "rows outside 0 ... N - 1"
    turned = TopK(good.scores.flip(1), good.rows.flip(1))
    assert "not in order" in gpu.fault(turned, queries, items, 5)
    other = TopK(good.scores + 1, good.rows)
    assert "not those of the rows" in gpu.fault(other, queries, items, 5)
    lesser = coarse_topk(queries, items, 9, backend="torch")
    short = TopK(lesser.scores[:, 4:].contiguous(), lesser.rows[:, 4:].contiguous())
    assert "beat the last" in gpu.fault(short, queries, items, 5)


def test_floors_are_the_larger_of_bytes_and_products() -> None:
    ceiling = {"copy_bytes_s": 3e12, "product_flops": 8e14}
    small = gpu.Shape("coarse", 1, 10_000_000, 64, 128)
    assert gpu.floor_ms(small, ceiling) == pytest.approx(1.28e9 / 3e12 * 1e3)
    large = gpu.Shape("coarse", 2048, 10_000_000, 64, 128)
    assert gpu.floor_ms(large, ceiling) == pytest.approx(2 * 2048 * 6.4e8 / 8e14 * 1e3)
    rerank = gpu.Shape("rerank", 256, 128, 768, 10)
    assert gpu.floor_ms(rerank, ceiling) == pytest.approx(256 * 128 * 768 * 2 / 3e12 * 1e3)


def test_every_shape_of_the_issue_is_there_and_those_with_targets_come_first() -> None:
    todo = gpu.shapes(dry=False)
    assert len(set(todo)) == len(todo) == 3 * 3 * 3 * 4 + 2 * 2 * 4
    assert todo[:2] == [
        gpu.Shape("coarse", 1, 10_000_000, 64, 128),
        gpu.Shape("coarse", 256, 10_000_000, 64, 128),
    ]


@pytest.mark.parametrize("chunk", [peers.CHUNK_SCORES, 60])
def test_the_chunked_product_is_a_fair_peer(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(peers, "CHUNK_SCORES", chunk)
    items, queries = torch.randn(100, 16), torch.randn(3, 16)
    _, rows = peers.matmul_topk(queries, items, 7)()
    assert torch.equal(rows, coarse_topk(queries, items, 7, backend="torch").rows)


def test_the_gather_peer_returns_rows() -> None:
    items, queries = torch.randn(100, 16), torch.randn(3, 16)
    candidates = torch.stack([torch.randperm(100)[:20] for _ in range(3)])
    _, rows = peers.gather_topk(queries, items, candidates, 5)()
    expected = kernels.rerank_topk(queries, items, candidates, 5, backend="torch")
    assert torch.equal(rows, expected.rows)


def test_a_written_table_reads_back() -> None:
    table = {
        ((9, 0), "large", 64, 2): (256, 64, 8, 4, 128),
        ((8, 0), "small", 32, 1): (16, 128, 4, 3, 240),
    }
    space: dict[str, object] = {}
    exec(tune.written(table), space)
    assert space["TABLE"] == table
    assert "benchmarks.tune" in str(space["__doc__"])


def test_the_quickest_blocks_that_run_are_chosen() -> None:
    from triton.runtime.errors import OutOfResources

    base = tune.coarse_launch((9, 0), 256, 4_000_000, 64, 128, torch.float16)  # type: ignore[attr-defined]
    tried = list(tune.choices((9, 0), 256, 64, 2))
    assert (128, 64, 4, 4, 168) in tried  # the default is among them
    assert all(64 * 2 * (b + s * n) <= 227 * 1024 for b, n, _, s, _ in tried)

    def time_of(launch: object) -> float:
        if launch.block_n == 64:  # type: ignore[attr-defined]
            raise OutOfResources(512, 256, "threads")
        return 1.0 if launch.block_b == 128 else 2.0  # type: ignore[attr-defined]

    found = tune.best_blocks(base, tried, time_of)
    assert found is not None
    assert found[0] == 128
    assert found[1] != 64
    assert tune.best_blocks(base, [(256, 64, 8, 4, 128)], time_of) is None


def test_a_runtime_that_is_missing_is_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_export(*_: object) -> Path:
        raise MissingPackage.of("onnx", "onnx", "Exporting")

    def tower(*_: object) -> None:
        return None

    encoder = SimpleNamespace(image=tower, text=tower)
    monkeypatch.setattr(encoders, "open_checkpoint", lambda _: None)
    monkeypatch.setattr(encoders, "torch_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(encoders, "inputs", lambda *_: ())
    monkeypatch.setattr(encoders, "exported", no_export)
    found = encoders.cases("example", tmp_path, (1, 8), quick=True)
    assert [(case["tower"], case["batch"]) for case in found] == [
        ("image", 1), ("image", 8), ("text", 1), ("text", 8),
    ]  # fmt: skip
    for case in found:
        assert case["runtimes"]["torch"]["runs"] >= 3
        assert case["runtimes"]["ONNX Runtime"] == {
            "not_installed": "onnx: expected this package to be installed, got none. "
            "Exporting needs it: pip install 'hivlp-engine[onnx]'"
        }
    assert "ONNX" not in encoders.table(found)


def test_on_a_gpu_each_runtime_is_there_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Faked: a GPU, an onnxruntime without CUDA, no TensorRT, a tower that fails."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    encoder = SimpleNamespace(image=broken, text=lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(encoders, "milliseconds", lambda run, *_: [run() or 1.0, 3.0])
    monkeypatch.setattr(encoders, "imported", lambda _: None)
    monkeypatch.setattr(encoders, "open_checkpoint", lambda _: None)
    monkeypatch.setattr(encoders, "torch_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(encoders, "inputs", lambda *_: ())
    monkeypatch.setattr(encoders, "exported", lambda *_: tmp_path)
    image, text = encoders.cases("example", tmp_path, (1,), quick=True)
    missing = {
        "ONNX Runtime": {"not_installed": "pip uninstall onnxruntime; pip install onnxruntime-gpu"},
        "TensorRT": {"not_installed": "pip install 'hivlp-engine[gpu]'"},
    }
    failed = {"failed": "RuntimeError: out of memory"}
    assert image["runtimes"] == {"torch": failed, **missing}
    assert text["runtimes"] == {
        "torch": {"p50": 2.0, "p95": 2.9, "p99": 2.98, "min": 1.0, "runs": 2}, **missing,
    }  # fmt: skip
