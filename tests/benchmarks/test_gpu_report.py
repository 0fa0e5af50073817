"""The GPU report's own logic, on a machine without a GPU: gate, peers, floors, the tuner's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kernels
from benchmarks import gpu, peers, tune
from kernels import TopK, coarse_topk

REASON = kernels.available_backends()["triton"]
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.skipif(REASON not in ("ok",) and "installed" in REASON, reason=f"triton: {REASON}")
def test_a_dry_run_writes_one_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert report["dry_run"]
    assert (report["wrong"], report["not_reached"]) == ([], [])
    assert {case["shape"]["op"] for case in report["cases"]} == {"coarse", "rerank"}
    first = report["cases"][0]
    assert first["ours"]["median_ms"] > 0
    assert first["peers"]["matmul + topk"]["median_ms"] > 0
    assert first["peers"]["cuvs brute_force"] == {
        "not installed": "pip install cuvs-cu13 (NVIDIA's index)"
    }
    assert path.name.endswith(f"-{report['machine']['date']}-{report['machine']['commit']}.json")
    assert "wrote" in done.stdout


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


def test_a_wrong_result_stops_every_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [gpu.Shape("rerank", 2, 16, 64, 4), gpu.Shape("rerank", 3, 16, 64, 4)]
    faults = iter(["", "not in order"])
    monkeypatch.setattr(gpu, "prepare", lambda _shape, items: items)
    monkeypatch.setattr(gpu, "check", lambda _shape, _given: next(faults))
    monkeypatch.setattr(gpu, "measure", lambda shape, *_rest: {"shape": gpu.asdict(shape)})
    monkeypatch.setattr(gpu, "line", str)
    report = gpu.run(todo, CPU, True, time.monotonic() + 100)
    assert report["cases"] == []
    assert report["wrong"] == [{"shape": gpu.asdict(todo[1]), "fault": "not in order"}]


def test_what_the_time_does_not_reach_is_listed() -> None:
    todo = [gpu.Shape("rerank", 2, 16, 64, 4)]
    report = gpu.run(todo, CPU, True, time.monotonic() - 1)
    assert report["cases"] == []
    assert report["not_reached"] == [gpu.asdict(todo[0])]


def test_the_check_sees_what_can_be_wrong() -> None:
    items, queries = gpu.units(500, 32, CPU, 0), gpu.units(3, 32, CPU, 1)
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
    table = {((9, 0), "large", 64, 2): (256, 64, 8, 4), ((8, 0), "small", 32, 1): (16, 128, 4, 3)}
    space: dict[str, object] = {}
    exec(tune.written(table), space)
    assert space["TABLE"] == table
    assert "benchmarks.tune" in str(space["__doc__"])


def test_the_quickest_blocks_that_run_are_chosen() -> None:
    base = tune.coarse_launch((9, 0), 256, 4_000_000, 64, 128, torch.float16)
    tried = list(tune.choices((9, 0), 256, 64, 2))
    assert (256, 64, 8, 4) in tried  # the default is among them
    assert all(64 * 2 * (b + s * n) <= 227 * 1024 for b, n, _, s in tried)

    def time_of(launch: object) -> float:
        if launch.block_n == 64:
            raise RuntimeError("out of resource")
        return 1.0 if launch.block_b == 128 else 2.0

    found = tune.best_blocks(base, tried, time_of)
    assert found is not None
    assert found[0] == 128
    assert found[1] != 64
    assert tune.best_blocks(base, [(256, 64, 8, 4)], time_of) is None
