"""The contract of rerank_topk, over every backend, against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import rerank_topk
from kernels._torch import survivors
from kernels.rerank import rerank_topk_reference
from tests.kernels.oracle import (
    BACKENDS,
    DEVICE,
    DTYPES,
    Case,
    assert_ordinary,
    assert_same,
    crowd,
    fixed_order_scores,
    ranked,
    try_cases,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()


def expected_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    queries, items, _ = case.tensors()
    scores = fixed_order_scores(numbers(queries), numbers(items), case.dtype == "int8")
    asked = np.zeros((case.batch, case.items), bool)
    for b, rows in enumerate(case.rows().tolist()):
        asked[b, [row for row in rows if row >= 0]] = True
    return ranked(scores, asked, case.k)


def test_any_case_has_the_oracles_rows_and_bits(backend: str) -> None:
    def check(case: Case) -> None:
        queries, items, _ = case.tensors()
        candidates = case.rows()
        before = candidates.clone()
        found = rerank_topk(queries, items, candidates, case.k, backend=backend)
        assert_same(found, *expected_of(case))
        assert torch.equal(before, candidates)

    try_cases(backend, 700, check)


@pytest.mark.parametrize("width", [1, 100, 768, 2048, 2050])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_wide_vectors(backend: str, dtype: str, width: int) -> None:
    case = Case(dtype, 2, 90, width, 11, "floats", 0.3, "none", "plain", 33, 4)
    queries, items, _ = case.tensors()
    found = rerank_topk(queries, items, case.rows(), 11, backend=backend)
    assert_same(found, *expected_of(case))


@pytest.mark.parametrize("count", [1, 127, 1025, 4096])
def test_many_candidates(backend: str, count: int) -> None:
    case = Case("float16", 1, 5000, 9, 70, "integers", 0.3, "none", "plain", count, 8)
    queries, items, _ = case.tensors()
    found = rerank_topk(queries, items, case.rows(), 70, backend=backend)
    assert_same(found, *expected_of(case))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_one_query_is_the_same_bits_alone_and_among_many(backend: str, dtype: str) -> None:
    batch, _ = crowd(backend, dtype)
    case = Case(dtype, batch, 300, 40, 5, "floats", 0.3, "none", "plain", 9, 6)
    queries, items, _ = case.tensors()
    rows = case.rows()
    together = rerank_topk(queries, items, rows, 5, backend=backend)
    for b in (0, batch // 8, batch - 1):
        one = slice(b, b + 1)
        alone = rerank_topk(queries[one], items, rows[one].flip(1), 5, backend=backend)
        assert torch.equal(alone.rows[0], together.rows[b])
        assert torch.equal(alone.scores[0].view(torch.int32), together.scores[b].view(torch.int32))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_reference_agrees(backend: str, dtype: str) -> None:
    case = Case(dtype, 5, 60, 33, 20, "floats", 0.3, "none", "steps", 64, 12)
    queries, items, _ = case.tensors()
    expected = rerank_topk_reference(queries, items, case.rows(), 20)
    found = rerank_topk(queries, items, case.rows(), 20, backend=backend)
    assert_same(found, expected.scores.cpu().numpy(), expected.rows.cpu().numpy())


def test_duplicates_come_back_once_and_none_is_skipped(backend: str) -> None:
    items = torch.eye(4, device=DEVICE)
    candidates = torch.tensor([[2, -1, 2, 1, 2, 1], [-1] * 6], device=DEVICE)
    found = rerank_topk(items[2:], items, candidates, 4, backend=backend)
    assert found.rows.tolist() == [[2, 1, -1, -1], [-1] * 4]
    assert found.scores.tolist() == [[1.0, 0.0, -torch.inf, -torch.inf], [-torch.inf] * 4]


def test_candidates_with_nan_are_no_hits(backend: str) -> None:
    items = torch.ones(6, 8, device=DEVICE)
    items[3] = torch.nan
    items[4] = -torch.inf
    candidates = torch.tensor([[5, 4, 3, 2]], device=DEVICE)
    found = rerank_topk(torch.ones(1, 8, device=DEVICE), items, candidates, 4, backend=backend)
    assert found.rows.tolist() == [[2, 5, -1, -1]]


@pytest.mark.parametrize(("batch", "count", "wide"), [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)])
def test_nothing_to_rerank(backend: str, batch: int, count: int, wide: int) -> None:
    found = rerank_topk(
        torch.ones(batch, 8, device=DEVICE),
        torch.ones(count, 8, device=DEVICE),
        torch.full((batch, wide), -1, device=DEVICE),
        4,
        backend=backend,
    )
    assert found.rows.tolist() == [[-1] * 4] * batch
    assert found.scores.tolist() == [[-torch.inf] * 4] * batch


@pytest.mark.parametrize("pairs", [1, 7, 44, 45, 46])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_blocks_of_pairs_do_not_show(
    backend: str, dtype: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks, a last one cut short, and one that holds all."""
    monkeypatch.setattr(survivors, "TERMS", pairs * 33)
    case = Case(dtype, 5, 60, 33, 8, "floats", 0.3, "none", "plain", 9, 4)
    queries, items, _ = case.tensors()
    found = rerank_topk(queries, items, case.rows(), 8, backend=backend)
    assert_same(found, *expected_of(case))


def test_vectors_that_ask_for_a_gradient_are_reranked_without_one(backend: str) -> None:
    case = Case("float32", 3, 129, 16, 7, "floats", 0.3, "none", "plain", 40, 9)
    queries, items, _ = case.tensors()
    expected = expected_of(case)
    queries, items = queries.requires_grad_(), items.requires_grad_()
    found = rerank_topk(queries, items, case.rows(), 7, backend=backend)
    assert not found.scores.requires_grad
    assert_same(found, *expected)


def test_reranked_results_are_ordinary_tensors(backend: str) -> None:
    case = Case("float32", 3, 129, 16, 7, "floats", 0.3, "none", "plain", 40, 9)
    with torch.inference_mode():
        queries, items, _ = case.tensors()
    found = rerank_topk(queries, items, case.rows(), 7, backend=backend)
    assert_ordinary(found.scores, found.rows)
