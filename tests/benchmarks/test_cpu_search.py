"""`benchmarks.cpu_search`: every method finds what float64 finds; rows are resumed; tables say what they hold."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cpu_peers, cpu_search
from benchmarks.cpu_peers import METHODS, Built, Method, faiss_refined
from benchmarks.peers import NotInstalled
from benchmarks.vectors import enlarged, vectors

ITEMS, QUERIES = vectors("clusters", 1200, 96, 8)
SCORES = QUERIES.double().numpy() @ ITEMS.double().numpy().T
TRUTH = np.argsort(-SCORES, axis=1, kind="stable")[:, :10]


def test_exact_finds_what_float64_finds() -> None:
    assert np.array_equal(cpu_search.exact(QUERIES, ITEMS).numpy(), TRUTH)


def test_recall_counts_what_was_found_wherever_it_stands() -> None:
    rows = torch.tensor([[3, 1, 2], [9, 8, 7]])
    assert cpu_search.recall(rows, torch.tensor([[1, 2, 3], [7, 0, 1]])) == pytest.approx(4 / 6)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_finds_the_best(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_peers, "THREADS", 1)  # a graph built by two is another each time
    if "IVF" in method.name:
        pytest.skip("1,024 lists want 40,000 vectors to learn from: the next test has fewer lists")
    built = method.build(ITEMS)
    rows = built.ask(QUERIES, method.efforts[-1])
    if (
        method.name == "torch matmul + topk, bfloat16"
    ):  # scores rounded to 8 bits tie, and any may come first
        reached = np.take_along_axis(SCORES, rows.numpy(), axis=1)
        assert (reached >= np.take_along_axis(SCORES, TRUTH[:, 9:], axis=1) - 2**-7).all()
    else:
        assert cpu_search.recall(rows, torch.from_numpy(TRUTH)) >= 0.98
    assert built.nbytes >= ITEMS.nbytes // 2


def test_lists_visited_and_candidates_reach_faiss() -> None:
    built = faiss_refined("PCA32,IVF16,Flat")(ITEMS)
    few, all_of_it = (
        cpu_search.recall(built.ask(QUERIES, effort), torch.from_numpy(TRUTH))
        for effort in ((1, 10), (16, 1200))
    )
    assert few < all_of_it == 1.0


def test_what_is_real_comes_first_and_the_rest_lies_between() -> None:
    seen = torch.nn.functional.normalize(
        torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1
    )
    made = enlarged(seen, 500, seed=3)
    assert torch.equal(made[:40], seen)
    assert torch.allclose(made.norm(dim=1), torch.ones(500))
    assert torch.equal(made, enlarged(seen, 500, seed=3))
    assert not torch.equal(made[40:], enlarged(seen, 500, seed=4)[40:])


# ------------------------------------------------------------------ runs


def small(monkeypatch: pytest.MonkeyPatch, methods: tuple[Method, ...]) -> None:
    monkeypatch.setattr(cpu_search, "METHODS", methods)
    monkeypatch.setattr(cpu_search, "PATIENT", cpu_search.Patience(0.01, 3))
    monkeypatch.setattr(cpu_search, "BATCHES", (1, 4))
    monkeypatch.setattr(cpu_search, "QUERIES", 8)


def run(file: Path, *more: str) -> list[dict[str, Any]]:
    cpu_search.main(
        ["--kind", "clusters", "--count", "300", "--width", "16", "--out", str(file), *more]
    )
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def flat(name: str, built: list[str]) -> Method:
    def build(items: torch.Tensor) -> Built:
        built.append(name)
        return Built(lambda queries, _: (queries @ items.T).topk(10).indices, items.nbytes)

    return Method(name, "", (None,), build)


def test_a_slow_peer_has_its_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ask(queries: torch.Tensor, _: Any) -> torch.Tensor:
        time.sleep(0.05)  # longer than a turn
        return torch.zeros(len(queries), 10, dtype=torch.int64)

    slow = Method("slow", "", (None,), lambda items: Built(ask, items.nbytes))
    small(monkeypatch, (slow,))
    monkeypatch.setattr(cpu_search, "PATIENT", cpu_search.Patience(0.01, 4))
    assert {row["runs"] for row in run(tmp_path / "rows.json")} == {4}


def test_a_run_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[str] = []
    small(monkeypatch, (flat("ours", built), flat("one", built)))
    first = run(tmp_path / "rows.json", "--method", "ours")
    assert {row["method"] for row in first} == {"ours"}
    both = run(tmp_path / "rows.json")
    assert [row for row in both if row["method"] == "ours"] == first
    assert {row["method"] for row in both} == {"ours", "one"}
    built.clear()
    assert run(tmp_path / "rows.json") == both
    assert built == []
    run(tmp_path / "rows.json", "--again", "--method", "one")
    assert built == ["ours", "one"]  # the yardstick, and what was asked for


def test_what_is_missing_or_fails_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_: torch.Tensor) -> Built:
        raise NotInstalled("pip install it")

    def failing(_: torch.Tensor) -> Built:
        raise MemoryError("no room")

    small(
        monkeypatch,
        (
            flat("ours", []),
            Method("gone", "", (None,), missing),
            Method("ill", "", (None,), failing),
        ),
    )
    found = run(tmp_path / "rows.json")
    rows = {row["method"]: row for row in found}
    assert rows["gone"]["not_installed"] == "pip install it"
    assert rows["ill"]["failed"] == "MemoryError: no room"
    table = cpu_search.tables(found)
    assert "| gone | not installed: pip install it |" in table
    assert "| ill | failed: MemoryError: no room |" in table


# ------------------------------------------------------------------ tables


def row(**given: Any) -> dict[str, Any]:
    return {
        "kind": "real", "N": 9, "D": 4, "method": "ours", "effort": 64, "effort_is": "candidates", "recall": 1.0,
        "B": 1, "p50": 2.0, "p99": 3.0, "ratio": 1.0, "build_s": 5.0, "bytes": 7e6,
        "date": "2026-01-02", "commit": "abc", "dirty": False, "device": "a box",
    } | given  # fmt: skip


def test_the_table_takes_the_least_effort_that_is_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_search, "BATCHES", (1,))
    rows = [
        row(effort=64, recall=0.9, p50=1.0),
        row(effort=128, recall=0.99, p50=2.0),
        row(effort=256, recall=1.0, p50=4.0),
        row(method="never", effort=[8, 32], recall=0.7, p50=8.0, ratio=4.0),
    ]
    lines = cpu_search.table(rows).splitlines()
    assert lines[2] == "| ours | 128 candidates | 0.990 | 2.0 (1.0) | 3.0 | 5 | 7 |"
    assert (
        lines[3] == "| never | 8, 32 candidates | 0.700 (not reached) | 8.0 (4.0) | 3.0 | 5 | 7 |"
    )


def test_the_table_keeps_the_order_of_the_methods_whenever_they_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_search, "BATCHES", (1,))
    rows = [row(method=name) for name in ("usearch HNSW", "never", "FAISS flat")]
    lines = cpu_search.table(rows).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| FAISS flat", "| usearch HNSW", "| never"]


def test_runs_of_several_commits_are_said_to_be_mixed() -> None:
    assert cpu_search.provenance([row(), row()]) == "2026-01-02, commit abc, a box"
    mixed = cpu_search.provenance([row(), row(commit="def", dirty=True)])
    assert mixed.startswith("MIXED RUNS: ")
    assert "commit def+" in mixed
