"""One query of floats on a CPU: bounds leave nothing out, and what they cannot say goes the longer way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels._torch import coarse as engine
from kernels._torch import one_query, product
from kernels._torch.coarse import cuts_for
from kernels._torch.one_query import best_of_one_by_bounds
from kernels._torch.product import Tiles
from kernels.coarse import coarse_topk_reference
from tests.kernels.oracle import DTYPES, assert_same

FLOATS = sorted(set(DTYPES) - {"int8"})
FAST = [torch.float32, torch.bfloat16]


def vectors(count: int, d: int, dtype: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, d, generator=generator).to(DTYPES[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fast", FAST, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 7, 63, 64, 65, 129, 1000])
def test_it_finds_what_the_reference_does(dtype: str, fast: torch.dtype, count: int) -> None:
    """With and without masks and a promise, in one tile and in several, for more results than there are items."""
    query, items = vectors(1, 20, dtype, 1), vectors(count, 40, dtype, 2)[:, ::2]
    longest = float(torch.linalg.vector_norm(items.float(), dim=1).max()) * 1.01
    some = torch.rand(count, generator=torch.Generator().manual_seed(3)) < 0.4
    for mask in (None, some, some[None], torch.zeros_like(some)):
        for k in (1, 10, 200):
            expected = coarse_topk_reference(query, items, k, mask=mask)
            for rows, promise in (
                (1 << 21, None),
                (1 << 21, longest),
                (64, longest),
                (100, None),
                (7, None),
            ):
                found = best_of_one_by_bounds(query, items, k, mask, rows, fast, promise)
                assert found is not None
                assert_same(found, expected.scores.numpy(), expected.rows.numpy())


@pytest.fixture(params=[1, 2, 3, 7])
def threads(request: pytest.FixtureRequest) -> int:
    torch.set_num_threads(request.param)
    count: int = request.param
    return count


@pytest.mark.parametrize("count", [0, 1, 6, 7, 63, 1000, 1001])
@pytest.mark.parametrize("d", [1, 5, 64])
@pytest.mark.parametrize("cached", [0, 1 << 23])
def test_any_number_of_threads_multiplies_every_item(
    monkeypatch: pytest.MonkeyPatch, threads: int, count: int, d: int, cached: int
) -> None:
    monkeypatch.setattr(product, "CACHED", cached)
    query, items = vectors(1, d, "float32", 1), vectors(count, d, "float32", 2)
    tile, _ = Tiles(query, max(count, 1), 4, torch.float32, max_norm=100.0).of(items)
    assert threads == torch.get_num_threads()
    expected = items.double() @ query[0].double()
    torch.testing.assert_close(tile[:count, 0].double(), expected, rtol=0, atol=1e-5)
    assert (tile[count:] == -torch.inf).all()


@pytest.mark.parametrize("dtype", FAST, ids=["float32", "bfloat16"])
def test_a_number_below(dtype: torch.dtype) -> None:
    """Held by the dtype, below, and by few steps; of what is no number, some number."""
    below = torch.full((), -torch.inf, dtype=dtype)
    for exponent in (-110, -20, -1, 0, 1, 100):
        for fraction in (-1.99999, -1.5, -1.0 - 2**-9, -1.0, 1.0, 1.0 + 2**-30, 1.5, 1.99999):
            value = fraction * 2.0**exponent
            found = one_query._under(value, dtype)
            held = torch.tensor(found, dtype=dtype)
            assert float(held) == found < value
            step = torch.tensor(value, dtype=dtype)
            for _ in range(3):
                step = torch.nextafter(step, below)
            assert held >= step
    assert 0 > one_query._under(0.0, dtype) > -(2.0**-100)
    for odd in (torch.nan, torch.inf, -torch.inf):
        assert abs(one_query._under(odd, dtype)) < 3.1e38


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_promise_that_does_not_hold_ends_no_search(value: float) -> None:
    items = vectors(5000, 64, "float32", 7)
    items[::100, 3] = value
    found = engine.coarse_topk(vectors(1, 64, "float32", 6), items, 10, None, max_norm=20.0)
    assert found.rows.shape == (1, 10)


@pytest.mark.parametrize("fast", FAST, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1 << 21, 200])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_scores_that_nearly_tie_are_told_apart(fast: torch.dtype, rows: int, k: int) -> None:
    """Of long vectors nearly at right angles: what the fast product loses is more than what it gives."""
    centre, query = vectors(1, 64, "float32", 4), vectors(1, 64, "float32", 5)
    query -= (query @ centre.T) / (centre @ centre.T) * centre
    step = 1e-3 if fast == torch.bfloat16 else 1e-6
    items = 16 * (centre + step * vectors(3000, 64, "float32", 6))
    items[::50] = items[0]
    expected = coarse_topk_reference(query, items, k)
    found = best_of_one_by_bounds(query, items, k, None, rows, fast, None)
    assert found is not None
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())


def test_what_has_no_bound_goes_the_longer_way(monkeypatch: pytest.MonkeyPatch) -> None:
    query, items = vectors(1, 64, "float32", 6), vectors(9000, 64, "float32", 7)
    cuts = cuts_for(1, items, 10)
    for value in (torch.nan, torch.inf, 1e30):
        odd = items.clone()
        odd[5000, 3] = value
        huge = query.clone() if value == torch.nan else query * 1e30
        for asked, rows in ((query, odd), (huge, items)):
            bounded = best_of_one_by_bounds(asked, rows, 10, None, cuts.rows, cuts.fast, None)
            assert (bounded is None) == ((asked is huge and value != torch.nan) or rows is odd)
            expected = coarse_topk_reference(asked, rows, 10)
            found = engine.coarse_topk(asked, rows, 10, None)
            assert_same(found, expected.scores.numpy(), expected.rows.numpy())
    monkeypatch.setattr(one_query, "MAX_PENDING", 500)
    same = items[:1].expand(9000, -1).contiguous()
    assert best_of_one_by_bounds(query, same, 10, None, cuts.rows, cuts.fast, None) is None
    expected = coarse_topk_reference(query, same, 10)
    assert_same(
        engine.coarse_topk(query, same, 10, None), expected.scores.numpy(), expected.rows.numpy()
    )
