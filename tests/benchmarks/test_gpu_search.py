"""The search section of the GPU report, on a CPU: recall, what its check sees, peers, and what stops it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_search, peers
from benchmarks.gpu_search import TINY, Sizes, exact_topk, fault, heads, recall
from engine import Embeddings, Retriever
from engine.result import SearchResult
from kernels import TopK, coarse_topk, rerank_topk

CPU = torch.device("cpu")
SIZES = replace(TINY, pools=((400, 32),), batches=(1, 5), candidates=(12, 40))


@pytest.fixture(autouse=True)
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retriever searches with PyTorch here: the dry run's test is of the interpreted kernels."""
    build = Retriever.from_embeddings
    plain = staticmethod(lambda *args, **named: build(*args, **{**named, "backend": "torch"}))
    monkeypatch.setattr(Retriever, "from_embeddings", plain)


@pytest.fixture(scope="module")
def pool() -> gpu_search.Pool:
    return gpu_search.pool_of(400, 32, 8, 5, CPU)


def searched(sizes: Sizes = SIZES, seconds: float = 100) -> dict[str, Any]:
    report: dict[str, Any] = {"wrong": [], "not_reached": [], "search": []}
    gpu_search.run(report, sizes, CPU, time.monotonic() + seconds)
    return report


def test_every_row_has_the_recall_that_numpy_finds() -> None:
    report = searched()
    assert (report["wrong"], report["not_reached"]) == ([], [])
    figures = ("p50", "not_installed")
    assert all(any(name in row for name in figures) for row in report["search"])
    heads_of = [
        {key: row[key] for key in head}
        for row, head in zip(report["search"], heads(SIZES), strict=True)
    ]
    assert heads_of == list(heads(SIZES))
    pool = gpu_search.pool_of(400, 32, TINY.coarse, 5, CPU)
    fine, asked = (one.fine.double().numpy() for one in (pool.items, pool.queries))
    coarse, asked_coarse = (one.coarse.double().numpy() for one in (pool.items, pool.queries))  # type: ignore[union-attr]
    found = {(row["method"], row["B"], row["candidates"]): row for row in report["search"]}
    for batch in SIZES.batches:
        scores = asked[:batch] @ fine.T
        exact = np.argsort(-scores, axis=1, kind="stable")[:, :4]
        assert found["ours, exact", batch, None]["recall"] == 1
        for candidates in SIZES.candidates:
            listed = np.argsort(-(asked_coarse[:batch] @ coarse.T), axis=1, kind="stable")
            left = np.full_like(scores, -9)
            np.put_along_axis(left, listed[:, :candidates], 0, 1)
            best = np.argsort(-(scores + left), axis=1, kind="stable")[:, :4]
            expected = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(best, exact, strict=True)])
            assert found["ours", batch, candidates]["recall"] == pytest.approx(expected)


def test_recall_is_the_share_of_the_exact_rows() -> None:
    exact = torch.tensor([[5, 2, 9, 7], [1, 0, 3, 4]])
    assert recall(exact.flip(1), exact) == 1
    assert recall(torch.tensor([[2, 5, 1, 0], [8, 8, 8, 4]]), exact) == 3 / 8


def answer(pool: gpu_search.Pool, candidates: int | None) -> TopK:
    queries, items = pool.queries, pool.items
    if candidates is None:
        return coarse_topk(queries.fine, items.fine, 4)
    listed = coarse_topk(queries.coarse, items.coarse, candidates)  # type: ignore[arg-type]
    return rerank_topk(queries.fine, items.fine, listed.rows, 4)


@pytest.mark.parametrize("candidates", [None, 12])
def test_the_check_sees_what_can_be_wrong(pool: gpu_search.Pool, candidates: int | None) -> None:
    queries, items = pool.queries, pool.items
    best, _ = exact_topk(queries.fine, items.fine, 4)

    def found_wrong(scores: torch.Tensor, rows: torch.Tensor) -> str:
        return fault(TopK(scores, rows), queries, items, best, candidates)

    good = answer(pool, candidates)
    assert found_wrong(good.scores, good.rows) == ""
    assert found_wrong(good.scores, good.rows + 400) == "rows outside 0 ... N - 1"
    assert found_wrong(good.scores, good.rows - 401) == "rows outside 0 ... N - 1"
    assert found_wrong(good.scores, good.rows[:, :1].expand(-1, 4)) == "a row twice"
    assert found_wrong(good.scores + 1e-3, good.rows) == "scores are not those of the rows"
    assert found_wrong(good.scores.flip(1), good.rows.flip(1)) == "not in order"
    more = rerank_topk(queries.fine, items.fine, all_rows(pool, candidates), 5)
    lesser = found_wrong(more.scores[:, 1:], more.rows[:, 1:])
    assert lesser == ("not the best there are" if candidates is None else "not the best candidates")


def all_rows(pool: gpu_search.Pool, candidates: int | None) -> torch.Tensor:
    """What an answer is chosen from."""
    return coarse_topk(pool.queries.coarse, pool.items.coarse, candidates or 400).rows  # type: ignore[arg-type]


def test_the_check_sees_rows_that_were_no_candidates(pool: gpu_search.Pool) -> None:
    best, _ = exact_topk(pool.queries.fine, pool.items.fine, 4)
    wide = answer(pool, None)
    found = fault(wide, pool.queries, pool.items, best, 4)
    assert found == "rows that are no candidates"


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3]])
def test_candidates_that_tie_may_be_any_of_them(order: list[int]) -> None:
    """Two items with one coarse vector, of which one fits among the candidates: either answer is right."""
    coarse = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]]).half()
    fine = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.8, 0, 0.6], [0, 1.0, 0]]).half()[order]
    items, queries = Embeddings(coarse, fine), Embeddings(coarse[:1], fine[:1])
    best, _ = exact_topk(queries.fine, items.fine, 1)
    for rows, right in (([0, 1], True), ([0, 2], True), ([0, 3], False)):
        picked = torch.tensor([rows])
        scores = (fine[picked].float() * fine[:1].float()).sum(-1)
        found = fault(TopK(scores, picked), queries, items, best, 2)
        assert (found == "") == right, (rows, found)


def test_a_wrong_answer_removes_every_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = Retriever.search

    def shifted(self: Retriever, *args: Any, **named: Any) -> SearchResult:
        found = search(self, *args, **named)
        wrong = named.get("mode") == "two_stage" and len(found.rows) > 1
        return replace(found, rows=(found.rows + 1) % 400) if wrong else found

    def only_search(report: dict[str, Any], *_: object) -> list[Callable[[], None]]:
        report["cases"].append("a case")
        return [partial(gpu_search.run, report, SIZES, CPU, time.monotonic() + 100)]

    monkeypatch.setattr(Retriever, "search", shifted)
    monkeypatch.setattr(gpu, "sections", only_search)
    monkeypatch.setattr(gpu, "available_backends", lambda: {"triton": "ok"})
    assert searched()["search"] == []  # not of what was right either
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert (report["cases"], report["search"]) == ([], [])
    assert [(row["B"], row["candidates"], row["fault"]) for row in report["wrong"]] == [
        (5, 12, "scores are not those of the rows"),
        (5, 40, "scores are not those of the rows"),
    ]


def test_what_the_time_does_not_reach_is_listed() -> None:
    report = searched(seconds=-1)
    assert report["search"] == []
    assert report["not_reached"] == [{"section": "search", **head} for head in heads(SIZES)]


def test_peers_return_the_rows_that_they_should(pool: gpu_search.Pool) -> None:
    queries, items = pool.queries, pool.items
    exact = peers.EXACT_PEERS["matmul + topk"](queries, items, 4, None)()
    assert recall(exact, answer(pool, None).rows) > 0.9  # its scores are rounded to float16
    listed = peers.TWO_STAGE_PEERS["matmul + topk, gather"](queries, items, 4, 12)()
    assert recall(listed, answer(pool, 12).rows) > 0.9


def test_peers_that_only_a_gpu_runs_are_called_as_their_interfaces_say(
    monkeypatch: pytest.MonkeyPatch, pool: gpu_search.Pool
) -> None:
    """Stand-ins with the signatures of flashlib 0.4, cuVS 26.10 and faiss-gpu 1.15; they compute the truth."""

    def knn(queries: torch.Tensor, items: torch.Tensor, k: int) -> torch.Tensor:
        return coarse_topk(queries[0], items[0], k).rows.int()[None]

    def refine(
        dataset: torch.Tensor,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        *,
        k: int,
        metric: str,
    ) -> TopK:
        assert metric == "inner_product"
        return rerank_topk(queries, dataset, candidates, k)

    class Flat:
        def __init__(self, _: object, width: int, settings: Any) -> None:
            assert settings.useFloat16
            self.items = torch.empty(0, width)

        def add(self, part: torch.Tensor) -> None:
            self.items = torch.cat([self.items, part])

        def search(self, queries: torch.Tensor, k: int) -> TopK:
            return coarse_topk(queries, self.items, k)

    modules = {
        "flashlib.primitives.knn": SimpleNamespace(flash_knn_triton=knn),
        "cuvs.neighbors.brute_force": SimpleNamespace(
            build=lambda items, metric: (items, metric),
            search=lambda index, queries, k: coarse_topk(queries, index[0], k),
        ),
        "cuvs.neighbors": SimpleNamespace(refine=refine),
        "faiss": SimpleNamespace(
            GpuIndexFlatIP=Flat,
            GpuIndexFlatConfig=SimpleNamespace,
            StandardGpuResources=object,
        ),
        "faiss.contrib.torch_utils": SimpleNamespace(),
    }
    monkeypatch.setattr(peers, "need", lambda name, _: modules[name])
    for name in ("flashlib flash_knn, gather", "cuvs brute_force, refine"):
        rows = peers.TWO_STAGE_PEERS[name](pool.queries, pool.items, 4, 12)()
        assert rows.dtype == torch.int64
        assert recall(rows, answer(pool, 12).rows) > 0.9, name
    rows = peers.EXACT_PEERS["FAISS GpuIndexFlatIP"](pool.queries, pool.items, 4, None)()
    assert torch.equal(rows, answer(pool, None).rows)


def test_what_ours_launches_is_known_beforehand() -> None:
    launches = list(gpu_search.launches(gpu_search.FULL))
    assert ("coarse", 256, 10_000_000, 64, 1024) in launches
    assert ("rerank", 1, 128, 768, 10) in launches
    assert len(launches) == 5 * 3 * 2 * 2
