"""The PyTorch engine's own branches: every way to cut a search up gives the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from kernels import coarse_topk
from kernels._torch import coarse as engine
from kernels._torch import product
from kernels._torch.coarse import Cuts, cuts_for
from kernels._torch.product import Tiles, fast_dtype, group_maxima, int8_is_exact, step_in_group
from kernels._torch.survivors import Survivors
from kernels.coarse import coarse_topk_reference
from kernels.score import score_pairs
from kernels.topk import TopK
from tests.kernels.oracle import LIMITS, Case, assert_same, cases, run_cases

FAST = [torch.bfloat16, torch.float32]


def same_as_the_reference(case: Case, cuts: Cuts) -> None:
    queries, items, mask = (t if t is None else t.cpu() for t in case.tensors())
    assert queries is not None
    assert items is not None
    expected = coarse_topk_reference(queries, items, case.k, mask=mask)
    found = engine.coarse_topk(queries, items, case.k, mask, cuts=cuts)
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())
    if items.dtype == torch.int8 and items.shape[1] <= product.EXACT_WIDTH and int8_is_exact():
        found = engine.coarse_topk(
            queries, items, case.k, mask, cuts=replace(cuts, fast=torch.int8)
        )
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


def test_any_plan_gives_the_same_bits() -> None:
    plans = st.builds(
        Cuts,
        queries=st.sampled_from([1, 2, 3, 256]),
        rows=st.sampled_from([1, 7, 16, 64, 100, 1000]),
        group=st.sampled_from([1, 2, 8, 16, 64]),
        fast=st.sampled_from(FAST),
        guess=st.booleans(),
        pending=st.sampled_from([0, 5, 100, 1 << 21]),
    )
    run_cases(st.tuples(cases(LIMITS["torch"]), plans), 300, lambda it: same_as_the_reference(*it))


def test_little_is_scored_outright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LITTLE", 1 << 62)
    monkeypatch.delattr(engine, "_search")

    def same(case: Case) -> None:
        queries, items, mask = (t if t is None else t.cpu() for t in case.tensors())
        assert queries is not None
        assert items is not None
        expected = coarse_topk_reference(queries, items, case.k, mask=mask)
        found = coarse_topk(queries, items, case.k, mask=mask, backend="torch")
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())

    run_cases(cases(LIMITS["torch"]), 300, same)


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn"])
@pytest.mark.parametrize("spread", ["floats", "spread"])
def test_no_product_is_further_off_than_its_slack(
    dtype: str, fast: torch.dtype, spread: str
) -> None:
    case = Case(dtype, 33, 1000, 77, 1, spread, 0.0, "none", "plain", 0, 21)
    queries, items, _ = (t if t is None else t.cpu() for t in case.tensors())
    assert queries is not None
    assert items is not None
    tiles = Tiles(queries, 1000, 16, fast)
    tile, loud = tiles.of(items)
    assert loud is None
    assert (tile[1000:] == -torch.inf).all()
    scores = score_pairs(queries[None], items[:, None])  # [N, B]
    rounding = tile[:1000].float().abs() * (2.0**-8 if fast == torch.bfloat16 else 2.0**-24)
    assert ((tile[:1000].float() - scores).abs() <= tiles.slack + rounding).all()
    longest = float(items.float().norm(dim=1).max())
    promised = Tiles(queries, 1000, 16, fast, max_norm=longest)
    assert torch.equal(promised.of(items)[0], tile)
    assert ((tile[:1000].float() - scores).abs() <= promised.slack + rounding).all()
    assert (promised.slack <= 1.1 * tiles.slack).all()


def test_the_slack_is_tight_enough_to_be_of_use() -> None:
    case = Case("float32", 8, 4096, 64, 1, "floats", 0.0, "none", "plain", 0, 2)
    queries, items, _ = case.tensors()
    tiles = Tiles(queries.cpu(), 4096, 16, torch.bfloat16)
    tiles.of(items.cpu())
    reach = queries.cpu().norm(dim=1) * items.cpu().norm(dim=1).max()
    assert (tiles.slack <= 0.01 * reach).all()


@pytest.fixture
def reduced_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("reduced_products")
def test_float32_products_that_may_run_in_bfloat16_get_the_wider_slack() -> None:
    vectors = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    wide = Tiles(vectors, 64, 1, torch.float32, max_norm=10.0)
    torch.set_float32_matmul_precision("highest")
    narrow = Tiles(vectors, 64, 1, torch.float32, max_norm=10.0)
    assert (wide.slack > 100 * narrow.slack).all()


@pytest.mark.parametrize("fast", FAST)
def test_near_ties_that_the_product_cannot_tell_apart(fast: torch.dtype) -> None:
    """Items that differ by single float32 bits: bfloat16 sees one vector 3,000 times."""
    rng = np.random.default_rng(0)
    bits = np.full((3000, 16), np.float32(0.7)).view(np.int32) + rng.integers(-2, 3, (3000, 16))
    items = torch.from_numpy(bits.astype(np.int32).view(np.float32))
    expected = coarse_topk_reference(items[:2], items, 40)
    for pending in (10, 1 << 21):
        cuts = Cuts(queries=2, rows=256, group=4, fast=fast, pending=pending)
        found = engine.coarse_topk(items[:2], items, 40, None, cuts=cuts)
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


@pytest.mark.parametrize("rows", [3, 50, 400])
@pytest.mark.parametrize("fast", FAST)
def test_loud_rows_are_scored_by_themselves(rows: int, fast: torch.dtype) -> None:
    """NaN, inf and norms past 2^60, beside ordinary rows, under both kinds of mask."""
    rng = np.random.default_rng(3)
    items = torch.from_numpy(rng.standard_normal((300, 8)).astype(np.float32))
    items[::7] *= 1e30
    items[5::11, 2] = torch.nan
    items[6::13, 1] = torch.inf
    queries = items[1:5]  # none of them loud: else the whole block would be scanned plainly
    assert queries.isfinite().all()
    assert queries.norm(dim=1).max() < 100
    cuts = Cuts(queries=4, rows=rows, group=8, fast=fast)
    generator = torch.Generator().manual_seed(1)
    for mask in (
        None,
        torch.rand(300, generator=generator) < 0.5,
        torch.rand(4, 300, generator=generator) < 0.5,
    ):
        expected = coarse_topk_reference(queries, items, 60, mask=mask)
        found = engine.coarse_topk(queries, items, 60, mask, cuts=cuts)
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


@pytest.mark.parametrize("pending", [0, 1 << 21])
def test_loud_rows_and_others_of_equal_score_come_in_row_order(pending: int) -> None:
    """Orthogonal to the query, however long: 40 scores of zero."""
    items = torch.tensor([[0.0, 1.0], [0.0, 2.0**70]]).repeat(20, 1)
    queries = torch.tensor([[1.0, 0.0]])
    cuts = Cuts(queries=1, rows=7, group=2, fast=torch.bfloat16, pending=pending)
    found = engine.coarse_topk(queries, items, 30, None, cuts=cuts)
    assert found.rows.tolist() == [list(range(30))]


def test_queries_too_large_for_a_bound_are_scanned_plainly() -> None:
    rng = np.random.default_rng(3)
    items = torch.from_numpy(rng.standard_normal((300, 8)).astype(np.float32))
    queries = items[:4] * torch.tensor([[1.0], [1e25], [3e37], [0.0]])
    expected = coarse_topk_reference(queries, items, 20)
    assert_same(coarse_topk(queries, items, 20), expected.scores.numpy(), expected.rows.numpy())


def test_tiny_vectors_whose_squares_underflow() -> None:
    """Their norms come out as 0, their scores do not: the slack must not be 0 either."""
    generator = torch.Generator().manual_seed(4)
    items = (1 + torch.rand(500, 64, generator=generator) / 50) * 1e-30
    queries = (1 + torch.rand(9, 64, generator=generator)) * 1e15
    assert (items.norm(dim=1) == 0).all()
    scores = score_pairs(queries[None], items[:, None])
    expected = coarse_topk_reference(queries, items, 20)
    for fast in FAST:
        tiles = Tiles(queries, 500, 1, fast)
        tile, _ = tiles.of(items)
        tile = tile[: len(items)]
        rounding = tile.float().abs() * (2.0**-8 if fast == torch.bfloat16 else 2.0**-24)
        assert ((tile.float() - scores).abs() <= tiles.slack + rounding).all()
        cuts = Cuts(queries=9, rows=100, group=4, fast=fast)
        found = engine.coarse_topk(queries, items, 20, None, cuts=cuts)
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


@pytest.mark.parametrize("fast", FAST)
def test_the_floor_is_never_above_the_kth_score(fast: torch.dtype) -> None:
    """Rounding moves the k-th product above the k-th score as often as below it."""
    generator = torch.Generator().manual_seed(0)
    items = 1 + torch.rand(2000, 64, generator=generator) / 50  # scores close together
    queries = 1 + torch.rand(40, 64, generator=generator)
    kth = score_pairs(queries[:, None], items[None]).topk(10).values[:, -1]
    survivors = Survivors(queries, items, 10, fast, torch.full((40,), -torch.inf))
    tiles = Tiles(queries, 2000, 1, fast)
    tile, _ = tiles.of(items)
    survivors.offer(tile, tiles.slack, 0, 1)
    assert (survivors.floor > 0).all()
    assert (survivors.floor <= kth).all()
    survivors.prune()
    assert (survivors.floor <= kth).all()
    survivors.settle()
    assert torch.equal(survivors.floor, kth)


def test_ties_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All items equal: products cannot drop a row, so pairs are scored and cut to the best k."""
    held = []
    offer = Survivors.offer

    def watched(self: Survivors, *arguments: object) -> None:
        held.append(self.pending)
        offer(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Survivors, "offer", watched)
    items = torch.ones(2000, 8)
    cuts = Cuts(queries=3, rows=100, group=4, fast=torch.bfloat16, pending=150)
    found = engine.coarse_topk(items[:3], items, 7, None, cuts=cuts)
    assert found.rows.tolist() == [list(range(7))] * 3
    assert len(held) == 20
    assert max(held) <= 150


def test_the_floor_drops_almost_everything() -> None:
    """Exact would be easy with every row kept: of 40,000 rows few may reach the last step."""
    generator = torch.Generator().manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(40_000, 64, generator=generator))
    queries = torch.nn.functional.normalize(torch.randn(8, 64, generator=generator))
    survivors = Survivors(queries, items, 10, torch.bfloat16, torch.full((8,), -torch.inf))
    tiles = Tiles(queries, 5000, 8, torch.bfloat16)
    for first in range(0, 40_000, 5000):
        tile, _ = tiles.of(items[first : first + 5000])
        survivors.offer(tile, tiles.slack, first, 8)
    survivors.prune()
    assert 80 <= survivors.pending < 8 * 30


def watched_searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each pass over the items is for."""
    passes: list[int] = []
    search = engine._search

    def watched(queries: Tensor, *arguments: object) -> TopK:
        passes.append(len(queries))
        return search(queries, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_search", watched)
    return passes


GUESSING = Cuts(queries=8, rows=4000, group=2, fast=torch.bfloat16, guess=True)


def test_a_good_guess_lets_few_rows_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items in random order: one pass, and few pairs from the first tile on."""
    generator = torch.Generator().manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(40_000, 64, generator=generator))
    queries = torch.nn.functional.normalize(torch.randn(8, 64, generator=generator))
    passes = watched_searches(monkeypatch)
    pending: list[int] = []
    best = Survivors.best

    def counted(self: Survivors, more: TopK) -> TopK:
        pending.append(self.pending)
        return best(self, more)

    monkeypatch.setattr(Survivors, "best", counted)
    monkeypatch.setattr(Survivors, "prune", lambda _self: None)
    found = engine.coarse_topk(queries, items, 20, None, cuts=GUESSING)
    expected = coarse_topk_reference(queries, items, 20)
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())
    assert passes == [8]
    assert pending[0] < 8 * 300  # of 8 * 40,000, with no floor raised on the way


@pytest.mark.parametrize("masked", ["none", "items", "pairs"])
def test_a_guess_that_is_too_high_is_found_out(
    masked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows looked at are the best ones, for four of eight queries: those are searched again."""
    generator = torch.Generator().manual_seed(0)
    items = torch.rand(3400, 8, generator=generator)
    items[:, 0] = -items[:, 0]
    items[:: engine.SAMPLE, 0] += 50.0  # 200 rows, k = 250
    queries = torch.zeros(8, 8)
    queries[:4, 0], queries[4:, 1] = 1.0, 1.0
    mask = None
    if masked != "none":
        shape = (3400,) if masked == "items" else (8, 3400)
        mask = torch.rand(shape, generator=generator) < 0.5
    passes = watched_searches(monkeypatch)
    found = engine.coarse_topk(queries, items, 250, mask, cuts=GUESSING)
    expected = coarse_topk_reference(queries, items, 250, mask=mask)
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())
    assert passes == [8, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_promised_norm_changes_nothing_but_the_time(dtype: str) -> None:
    case = Case(dtype, 33, 1000, 77, 40, "floats", 0.3, "row", "plain", 0, 21)
    queries, items, mask = (t if t is None else t.cpu() for t in case.tensors())
    assert queries is not None
    assert items is not None
    longest = float(items.float().norm(dim=1).max())
    expected = coarse_topk(queries, items, 40, mask=mask)
    for promise in (longest, 100 * longest, 1e30):
        found = coarse_topk(queries, items, 40, mask=mask, max_norm=promise)
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


def test_the_score_matrix_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor any operation makes, by looking at every one (with small tiles)."""
    monkeypatch.setattr(engine, "TILE", 1 << 18)
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made._base is None:
                self.size = max(self.size, made.numel())
            return made

    generator = torch.Generator().manual_seed(0)
    items = torch.randn(20_000, 16, generator=generator)
    queries = torch.randn(300, 16, generator=generator)
    with Largest() as seen:
        coarse_topk(queries, items, 10)
    assert seen.size <= 1.1 * engine.TILE
    assert seen.size < queries.shape[0] * items.shape[0] / 10


@pytest.mark.parametrize("batch", [1, 3, 31, 64, 100])
@pytest.mark.parametrize("group", [1, 4, 16])
def test_every_row_counts_for_one_maximum(batch: int, group: int) -> None:
    count = 3 * group * step_in_group(batch)
    tile = torch.zeros(count, batch, dtype=torch.int32)
    raised = []
    for row in range(count):
        tile[row, -1] = 1
        maxima = group_maxima(tile, group)
        assert maxima.shape == (count // group, batch)
        assert maxima.sum() == 1
        raised.append(int(maxima[:, -1].argmax()))
        tile[row, -1] = 0
    assert sorted(raised) == sorted(list(range(count // group)) * group)
    apart = torch.tensor(raised).view(3, -1)  # rows of a group are near each other
    assert (apart // step_in_group(batch) == torch.arange(3)[:, None]).all()


@pytest.mark.parametrize("batch", [1, 2, 9, 33, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_ties_keep_their_rows_order_whatever_the_groups(batch: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(batch)
    items = torch.randint(-1, 2, (3001, 5), generator=generator).to(dtype)
    queries = torch.randint(-1, 2, (batch, 5), generator=generator).to(dtype)
    fast = dtype if dtype == torch.int8 else torch.bfloat16
    expected = coarse_topk_reference(queries, items, 40)
    for rows, group in ((3001, 16), (700, 4), (97, 1)):
        cuts = Cuts(queries=batch, rows=rows, group=group, fast=fast)
        found = engine.coarse_topk(queries, items, 40, None, cuts=cuts)
        assert_same(found, expected.scores.numpy(), expected.rows.numpy())


def test_plans() -> None:
    vector = torch.zeros(1, 8)
    for batch in (0, 1, 32, 256, 2048):
        for count in (0, 1, 1000, 10**9):
            for k in (1, 128, 4096):
                for plain in (False, True):
                    cuts = cuts_for(batch, vector.expand(count, 8), k, plain=plain)
                    assert 1 <= cuts.queries <= 256
                    assert cuts.queries * cuts.rows <= engine.TILE
                    groups = k if cuts.guess else 2 * k
                    assert cuts.group == 1 or cuts.rows >= groups * cuts.group
    assert cuts_for(1, vector, 1).fast == torch.float32
    assert cuts_for(9, vector, 1).fast == fast_dtype()
    assert fast_dtype() in FAST


def test_only_items_that_serve_as_they_are_fill_larger_tiles() -> None:
    items = torch.zeros(1 << 18, 128)
    assert cuts_for(1, items, 1, plain=True).rows == 1 << 18
    assert cuts_for(1, items, 1).rows == engine.COPIED // 128
    assert cuts_for(1, items.half(), 1, plain=True).rows == engine.CONVERTED // 128
    assert cuts_for(1, items[:, :64], 1, plain=True).rows == engine.CONVERTED // 64


def test_tiles_are_larger_only_where_no_item_can_be_loud_or_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promise above the largest norm that has a bound is none: loud rows are then looked for, in copies."""
    asked = []

    def watched(batch: int, items: Tensor, k: int, *, plain: bool = False) -> Cuts:
        asked.append(plain)
        return cuts_for(batch, items, k, plain=plain)

    monkeypatch.setattr(engine, "cuts_for", watched)
    items, mask = torch.ones(9000, 64), torch.ones(9000, dtype=torch.bool)
    for promise, allowed in ((1.0, None), (1e30, None), (None, None), (1.0, mask)):
        coarse_topk(items[:1], items, 5, mask=allowed, max_norm=promise)
    coarse_topk(items[:1].char(), items.char(), 5)
    assert asked == [True, False, False, False, True]


def test_threads_do_not_change_a_bit() -> None:
    case = Case("float32", 40, 9000, 64, 50, "floats", 0.3, "none", "plain", 0, 5)
    queries, items, _ = (t if t is None else t.cpu() for t in case.tensors())
    assert queries is not None
    assert items is not None
    one = coarse_topk(queries, items, 50)
    torch.set_num_threads(2)
    two = coarse_topk(queries, items, 50)
    assert_same(two, one.scores.numpy(), one.rows.numpy())


def test_addresses_past_two_to_the_31() -> None:
    """N * d > 2^31: one int8 row broadcast with stride 0, and the last rows told apart."""
    base = torch.zeros(1, 8, dtype=torch.int8)
    items = base.expand(2**28 + 5, 8)
    mask = torch.zeros(2**28 + 5, dtype=torch.bool)
    mask[2**28 :] = True
    found = coarse_topk(base, items, 7, mask=mask)
    assert found.rows.tolist() == [[*range(2**28, 2**28 + 5), -1, -1]]
