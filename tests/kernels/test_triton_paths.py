"""Every branch of the Triton launchers, and the same bits from all of them.

Each test names the branch it holds and fails when that branch is taken out (tried by hand when
it was written; the mutants of test_triton_mutants.py hold the rest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import kernels
from kernels.coarse import coarse_topk_reference
from kernels.rerank import rerank_topk_reference
from kernels.topk import TopK
from tests.kernels.oracle import DEVICE, DTYPES

REASON = kernels.available_backends()["triton"]
pytestmark = pytest.mark.skipif(REASON != "ok", reason=f"triton: {REASON}")

if REASON == "ok":
    from kernels._triton import coarse, rerank
    from kernels._triton.launch import CoarseLaunch, RerankLaunch, rows_at_a_time

    GROUPS = CoarseLaunch(
        direct=False, block_b=16, block_n=16, tiles=4, warps=4, stages=1, bundle=1, part=64
    )
    BUNDLES = replace(GROUPS, bundle=4)
    DIRECT = replace(GROUPS, direct=True, tiles=1)


def vectors(count: int, d: int, dtype: str, seed: int, *, ints: bool = False) -> Tensor:
    """Random rows on the device under test: integers -3 ... 3, or floats (int8: -120 ... 120)."""
    generator = torch.Generator().manual_seed(seed)
    if ints:
        values = torch.randint(-3, 4, (count, d), generator=generator).float()
    else:
        values = torch.randn(count, d, generator=generator)
        values = (values * 30).clamp(-120, 120) if dtype == "int8" else values
    return values.to(DTYPES[dtype]).to(DEVICE)


def assert_equal(found: TopK, expected: TopK) -> None:
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores.view(torch.int32), expected.scores.view(torch.int32))


@pytest.mark.parametrize("ints", [False, True], ids=["floats", "ties"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_launch_gives_the_references_bits(dtype: str, ints: bool) -> None:
    queries, items = vectors(3, 20, dtype, 1, ints=ints), vectors(705, 20, dtype, 2, ints=ints)
    expected = coarse_topk_reference(queries, items, 7)
    launches = [GROUPS, replace(BUNDLES, block_n=32, tiles=2), replace(GROUPS, bundle=16), DIRECT]
    for launch in launches:
        assert_equal(coarse.coarse_topk(queries, items, 7, None, launch=launch), expected)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_promise_changes_no_bit(dtype: str) -> None:
    """Bounds from `max_norm`, as `Retriever` gives it, instead of peaks; with scores that nearly tie."""
    queries = vectors(3, 20, dtype, 1)
    near = queries[:1].float() + 1e-3 * vectors(705, 20, "float32", 2)
    items = near.to(DTYPES[dtype])
    longest = float(torch.linalg.vector_norm(items.float(), dim=1).max())
    expected = coarse_topk_reference(queries, items, 7)
    for launch in (GROUPS, BUNDLES):
        found = coarse.coarse_topk(queries, items, 7, None, max_norm=longest, launch=launch)
        assert_equal(found, expected)


@pytest.mark.parametrize(("d", "ints"), [(257, True), (600, False)], ids=["ties", "floats"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_vectors_too_long_to_hold_go_in_chunks(dtype: str, d: int, ints: bool) -> None:
    """Groups, bundles, no group maxima; columns that are no neighbours; a mask; with and without a promise."""
    queries = vectors(3, 2 * d, dtype, 1, ints=ints)[:, ::2]
    items = vectors(259, 2 * d, dtype, 2, ints=ints)[:, 1::2]
    longest = float(torch.linalg.vector_norm(items.float(), dim=1).max())
    mask = (torch.rand(3, 259, generator=torch.Generator().manual_seed(3)) < 0.5).to(DEVICE)
    for launch, shown, promise in (
        (GROUPS, None, None), (GROUPS, mask, longest), (BUNDLES, None, longest), (DIRECT, mask, None),
    ):  # fmt: skip
        expected = coarse_topk_reference(queries, items, 7, mask=shown)
        found = coarse.coarse_topk(queries, items, 7, shown, max_norm=promise, launch=launch)
        assert_equal(found, expected)


def test_long_vectors_that_tie_are_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `test_lists_that_overflow_are_scanned`; a span is walked in parts, as its rows are long."""
    items = vectors(1000, 700, "float16", 9)
    items[::2] = items[0]
    queries = torch.stack([items[0], -items[0]])
    expected = coarse_topk_reference(queries, items, 3)
    launch = replace(GROUPS, block_n=64, tiles=2)

    def search() -> None:
        assert_equal(coarse.coarse_topk(queries, items, 3, None, launch=launch), expected)

    buffers = counted(monkeypatch, search)
    cap = coarse._sizes(launch, 1000, 3, items.dtype).cap
    assert buffers["group_count"][0] > cap >= buffers["group_count"][1]
    assert rows_at_a_time(700) < launch.block_n


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kind", ["groups", "bundles", "direct"])
def test_masks_in_every_launch(kind: str, axes: int) -> None:
    launch = {"groups": GROUPS, "bundles": BUNDLES, "direct": DIRECT}[kind]
    queries, items = vectors(3, 40, "float16", 3), vectors(500, 40, "float16", 4)
    shape = (500,) if axes == 1 else (3, 500)
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.1).to(DEVICE)
    for k in (5, 80):  # 80 is more than the mask allows
        expected = coarse_topk_reference(queries, items, k, mask=mask)
        assert bool((expected.rows == -1).any()) == (k == 80)
        assert_equal(coarse.coarse_topk(queries, items, k, mask, launch=launch), expected)


def test_a_batch_goes_in_parts() -> None:
    """`part` < B: each part's queries, mask rows and results are its own."""
    queries, items = vectors(7, 16, "float32", 6), vectors(300, 16, "float32", 7)
    mask = (torch.rand(7, 300, generator=torch.Generator().manual_seed(8)) < 0.5).to(DEVICE)
    expected = coarse_topk_reference(queries, items, 5, mask=mask)
    found = coarse.coarse_topk(queries, items, 5, mask, launch=replace(GROUPS, part=3))
    assert_equal(found, expected)


def counted(monkeypatch: pytest.MonkeyPatch, launch: Callable[[], object]) -> dict[str, Tensor]:
    """The buffers of the one pass that `launch` runs."""
    kept: dict[str, Tensor] = {}
    original = coarse.take_workspace  # type: ignore[attr-defined]

    def keep(*args: object) -> dict[str, Tensor]:
        kept.update(original(*args))  # type: ignore[arg-type]
        return kept

    monkeypatch.setattr(coarse, "take_workspace", keep)
    launch()
    return kept


@pytest.mark.parametrize("bundle", [1, 8])
def test_lists_that_overflow_are_scanned(monkeypatch: pytest.MonkeyPatch, bundle: int) -> None:
    """More ties than the lists hold: the items are walked; its query alone, not its neighbours."""
    items = vectors(1000, 16, "float16", 9)
    items[::2] = items[0]  # 500 equal items, on top for query 0 only
    queries = torch.stack([items[0], -items[0]])
    expected = coarse_topk_reference(queries, items, 3)

    def search() -> None:
        launch = replace(GROUPS, bundle=bundle, tiles=2)
        assert_equal(coarse.coarse_topk(queries, items, 3, None, launch=launch), expected)

    buffers = counted(monkeypatch, search)
    cap = coarse._sizes(GROUPS, 1000, 3, items.dtype).cap
    assert buffers["group_count"][0] > cap >= buffers["group_count"][1]


def test_hits_that_overflow_are_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few groups, but more good rows in them than the list of hits holds."""
    items = vectors(16 * 64 * 3, 16, "float16", 10)
    items[::16] = items[0]  # the same place of every tile: three groups of 64 equal items
    queries = items[:1]
    expected = coarse_topk_reference(queries, items, 3)

    def search() -> None:
        launch = replace(GROUPS, tiles=64)
        assert_equal(coarse.coarse_topk(queries, items, 3, None, launch=launch), expected)

    buffers = counted(monkeypatch, search)
    sizes = coarse._sizes(GROUPS, len(items), 3, items.dtype)
    assert buffers["hit_count"][0] > sizes.hit_cap
    assert buffers["group_count"][0] <= sizes.cap


@pytest.mark.parametrize("byte", [0, 255])
def test_nothing_in_the_workspace_is_read_before_it_is_written(
    byte: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kind: empty(*size, **kind).fill_(byte))
    queries, items = vectors(2, 16, "float16", 11), vectors(600, 16, "float16", 12)
    expected = coarse_topk_reference(queries, items, 4)
    assert_equal(coarse.coarse_topk(queries, items, 4, None, launch=BUNDLES), expected)


@pytest.mark.parametrize("rows", [4, 16, 64])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_rerank_in_tiles_of_any_size(dtype: str, rows: int) -> None:
    queries, items = vectors(2, 100, dtype, 13, ints=True), vectors(90, 100, dtype, 14, ints=True)
    candidates = torch.randint(-1, 90, (2, 41), generator=torch.Generator().manual_seed(15))
    candidates = candidates.to(DEVICE)
    for k in (6, 70):  # fewer than C, more than C
        expected = rerank_topk_reference(queries, items, candidates, k)
        launch = RerankLaunch(rows, 4)
        assert_equal(rerank.rerank_topk(queries, items, candidates, k, launch=launch), expected)


def test_candidates_past_one_sort_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """C > the widest sort: parts are merged, and repeats in different parts are returned once."""
    monkeypatch.setattr(rerank, "TRITON_MAX_K", 32)
    queries, items = vectors(2, 16, "float32", 16), vectors(60, 16, "float32", 17)
    candidates = torch.randint(-1, 60, (2, 150), generator=torch.Generator().manual_seed(18))
    candidates = candidates.to(DEVICE)
    expected = rerank_topk_reference(queries, items, candidates, 20)
    launch = RerankLaunch(16, 4)
    assert_equal(rerank.rerank_topk(queries, items, candidates, 20, launch=launch), expected)


@pytest.mark.parametrize("d", [65, 600, 2048, 2100])
def test_wide_rows(d: int) -> None:
    queries, items = vectors(1, d, "float16", 19), vectors(20, d, "float16", 20)
    candidates = torch.arange(20, device=DEVICE)[None]
    expected = rerank_topk_reference(queries, items, candidates, 5)
    assert_equal(rerank.rerank_topk(queries, items, candidates, 5), expected)
