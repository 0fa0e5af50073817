"""The contract of coarse_topk, over every backend, against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import coarse_topk
from kernels.coarse import coarse_topk_reference
from tests.kernels.oracle import (
    BACKENDS,
    DEVICE,
    DTYPES,
    Case,
    assert_ordinary,
    assert_same,
    crowd,
    exact_scores,
    fixed_order_scores,
    ranked,
    try_cases,
)

SHIPPED = pytest.param("torch", id="torch as shipped", marks=pytest.mark.shipped)
pytestmark = pytest.mark.parametrize("backend", [*BACKENDS, SHIPPED])


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()


def allowed_by(mask: Tensor | None, batch: int, count: int) -> np.ndarray:
    if mask is None:
        return np.ones((batch, count), bool)
    return np.broadcast_to(mask.cpu().numpy(), (batch, count))


def check(case: Case, backend: str) -> None:
    queries, items, mask = case.tensors()
    before = numbers(queries), numbers(items)
    found = coarse_topk(queries, items, case.k, mask=mask, backend=backend)
    scores = fixed_order_scores(*before, case.dtype == "int8")
    allowed = allowed_by(mask, case.batch, case.items)
    assert_same(found, *ranked(scores, allowed, case.k))
    assert np.array_equal(before[0], numbers(queries))
    assert np.array_equal(before[1], numbers(items))


def test_any_case_has_the_oracles_rows_and_bits(backend: str) -> None:
    try_cases(backend, 1300, lambda case: check(case, backend))


def test_scores_are_those_of_float64(backend: str) -> None:
    """The promised bits are also right: within the rounding of a float32 sum, and no better
    item left out by more than that."""

    def check_values(case: Case) -> None:
        queries, items, mask = case.tensors()
        found = coarse_topk(queries, items, case.k, mask=mask, backend=backend)
        exact = exact_scores(numbers(queries), numbers(items))
        reach = exact_scores(np.abs(numbers(queries)), np.abs(numbers(items)))
        slack = (np.ceil(np.log2(case.width)) + 3) * 2.0**-24 * reach.max(initial=0) + 1e-30
        allowed = allowed_by(mask, case.batch, case.items)
        for b in range(case.batch):
            rows = found.rows[b].cpu().numpy()
            hits = rows[rows >= 0]
            assert len(hits) == len(set(hits.tolist())) == min(case.k, allowed[b].sum())
            assert allowed[b, hits].all()
            got = found.scores[b, : len(hits)].cpu().numpy()
            assert np.abs(got - exact[b, hits]).max(initial=0) <= slack
            left = np.setdiff1d(np.flatnonzero(allowed[b]), hits)
            if len(left):
                assert exact[b, left].max() <= got.min() + 2 * slack

    try_cases(backend, 300, check_values)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_one_query_is_the_same_bits_alone_and_among_many(backend: str, dtype: str) -> None:
    batch, count = crowd(backend, dtype)
    case = Case(dtype, batch, count, 40, 19, "floats", 0.3, "none", "plain", 0, 5)
    queries, items, _ = case.tensors()
    together = coarse_topk(queries, items, 19, backend=backend)
    for b in (0, batch // 8, batch - 1):
        alone = coarse_topk(queries[b : b + 1], items, 19, backend=backend)
        assert torch.equal(alone.rows[0], together.rows[b])
        assert torch.equal(alone.scores[0].view(torch.int32), together.scores[b].view(torch.int32))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_reference_agrees(backend: str, dtype: str) -> None:
    case = Case(dtype, 4, 129, 33, 20, "floats", 0.3, "query", "columns", 0, 11)
    queries, items, mask = case.tensors()
    expected = coarse_topk_reference(queries, items, 20, mask=mask)
    found = coarse_topk(queries, items, 20, mask=mask, backend=backend)
    assert_same(found, expected.scores.cpu().numpy(), expected.rows.cpu().numpy())


@pytest.mark.parametrize("k", [1, 3, 63, 64, 65, 129, 130, 4096])
def test_k_up_to_n_and_past_it(backend: str, k: int) -> None:
    check(
        Case("float32", 1 if k > 1000 else 2, 129, 16, k, "floats", 0.3, "none", "plain", 0, 3),
        backend,
    )


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_all_items_equal_gives_the_first_rows(backend: str, dtype: str) -> None:
    items = torch.ones(777, 12, device=DEVICE).to(DTYPES[dtype])
    found = coarse_topk(items[:3], items, 50, backend=backend)
    assert found.rows.tolist() == [list(range(50))] * 3
    assert (found.scores == 12).all()


def test_zero_vectors_score_plus_zero(backend: str) -> None:
    queries = torch.tensor([[0.0, 0.0], [-1.0, -0.0]], device=DEVICE)
    items = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.0, -0.0]], device=DEVICE)
    found = coarse_topk(queries, items, 3, backend=backend)
    assert found.rows.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.scores.view(torch.int32)[:, 1:].tolist() == [[0, 0], [0, 0]]


def test_items_with_nan_or_minus_infinity_are_no_hits(backend: str) -> None:
    items = torch.ones(200, 8, device=DEVICE)
    items[3] = torch.nan
    items[7] = -torch.inf
    items[150] = torch.inf
    items[5, 0], items[5, 1] = torch.inf, -torch.inf
    queries = torch.ones(2, 8, device=DEVICE)
    found = coarse_topk(queries, items, 200, backend=backend)
    good = [150] + [n for n in range(200) if n not in (3, 5, 7, 150)]
    assert found.rows.tolist() == [good + [-1] * 3] * 2
    assert (found.scores[:, -3:] == -torch.inf).all()
    assert found.scores[0, 0] == torch.inf


def test_scores_that_overflow_float16_and_float32(backend: str) -> None:
    half = torch.full((70, 64), 60000.0, dtype=torch.float16, device=DEVICE)
    half[30:] *= -1
    found = coarse_topk(half[:1], half, 64, backend=backend)
    assert found.rows[0].tolist() == list(range(64))
    assert found.scores[0, 0].item() == 64 * float(half[0, 0]) ** 2
    single = torch.full((70, 4), 3e38, device=DEVICE)  # products are inf
    single[30:] *= -1
    found = coarse_topk(single[:1], single, 64, backend=backend)
    assert found.rows[0].tolist() == [*range(30), *[-1] * 34]


def test_int8_beyond_float32s_integers_is_ordered_by_its_float32_score(backend: str) -> None:
    width = 256 if backend == "triton" else 8191  # past 2^26: several float32 sums would round
    rng = np.random.default_rng(0)
    items = torch.from_numpy(rng.integers(100, 128, (300, width)).astype(np.int8))
    check_scores = fixed_order_scores(numbers(items[:3]), numbers(items), True)
    found = coarse_topk(items[:3].to(DEVICE), items.to(DEVICE), 300, backend=backend)
    assert_same(found, *ranked(check_scores, np.ones((3, 300), bool), 300))


@pytest.mark.parametrize(("batch", "count"), [(0, 0), (0, 9), (3, 0)])
def test_nothing_to_search(backend: str, batch: int, count: int) -> None:
    queries, items = torch.ones(batch, 8, device=DEVICE), torch.ones(count, 8, device=DEVICE)
    found = coarse_topk(queries, items, 4, backend=backend)
    assert found.rows.tolist() == [[-1] * 4] * batch
    assert found.scores.tolist() == [[-torch.inf] * 4] * batch


def test_vectors_that_ask_for_a_gradient_are_searched_without_one(backend: str) -> None:
    case = Case("float32", 9, 300, 16, 7, "floats", 0.3, "none", "plain", 0, 9)
    queries, items, _ = case.tensors()
    expected = coarse_topk(queries, items, 7, backend=backend)
    found = coarse_topk(queries.requires_grad_(), items.requires_grad_(), 7, backend=backend)
    assert not found.scores.requires_grad
    assert_same(found, expected.scores.cpu().numpy(), expected.rows.cpu().numpy())


@pytest.mark.parametrize("batch", [1, 9])
def test_results_are_ordinary_tensors_whatever_mode_the_vectors_were_made_in(
    backend: str, batch: int
) -> None:
    case = Case("float32", batch, 300, 16, 7, "floats", 0.3, "none", "plain", 0, 9)
    with torch.inference_mode():
        queries, items, _ = case.tensors()
        inside = coarse_topk(queries, items, 7, backend=backend)
    found = coarse_topk(queries, items, 7, backend=backend)
    assert_same(found, inside.scores.cpu().numpy(), inside.rows.cpu().numpy())
    assert_ordinary(found.scores, found.rows)
