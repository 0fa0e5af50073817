"""int8 items multiplied as int8: the products are the scores, and are used only where they are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels._torch import coarse as engine
from kernels._torch import product
from kernels._torch.coarse import Cuts, cuts_for
from kernels._torch.one_query import best_of_one
from kernels._torch.product import Tiles, fast_dtype, int8_is_exact, multiplies_int8
from kernels.coarse import coarse_topk_reference
from tests.kernels.oracle import assert_same


@pytest.mark.skipif(not int8_is_exact(), reason="this CPU's int8 products are not exact")
@pytest.mark.parametrize("pending", [0, 60, 1 << 21])
def test_int8_where_all_scores_are_negative(pending: int) -> None:
    """Integers sort as they are, where the bits of negative floats sort the other way."""
    rng = np.random.default_rng(5)
    items = torch.from_numpy(rng.integers(-128, 0, (3000, 8), dtype=np.int8))
    queries = torch.from_numpy(rng.integers(1, 128, (9, 8), dtype=np.int8))
    expected = coarse_topk_reference(queries, items, 30)
    assert (expected.scores < 0).all()
    cuts = Cuts(queries=9, rows=100, group=4, fast=torch.int8, pending=pending)
    found = engine.coarse_topk(queries, items, 30, None, cuts=cuts)
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())


def test_int8_is_multiplied_as_it_is_where_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    few, wide = torch.zeros(9, 64, dtype=torch.int8), torch.zeros(9, 1025, dtype=torch.int8)
    monkeypatch.setattr(engine, "multiplies_int8", lambda: True)
    assert cuts_for(32, few, 1).fast == torch.int8
    assert cuts_for(32, few, 1).queries == 32
    assert cuts_for(2, few, 1).queries == 1
    assert cuts_for(32, wide, 1).fast == fast_dtype()
    assert cuts_for(32, few.float(), 1).fast == fast_dtype()
    monkeypatch.setattr(engine, "multiplies_int8", lambda: False)
    assert cuts_for(32, few, 1).fast == fast_dtype()


def test_int8_products_that_are_wrong_or_missing_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(product, "int8_is_exact", lambda: False)
    assert not multiplies_int8.__wrapped__()

    def saturating(items: Tensor, columns: Tensor) -> Tensor:
        """As a CPU without VNNI: pairs are added in int16, which holds less than 2 * 128 * 128."""
        terms = (items[:, None].int() * columns.t()[None].int()).view(len(items), -1, 32, 2)
        pairs = terms.sum(3).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(2).view(len(items), columns.shape[1], -1).sum(2).int()

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not int8_is_exact.__wrapped__()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int())
    assert int8_is_exact.__wrapped__()
    monkeypatch.delattr(torch, "_int_mm")
    assert not int8_is_exact.__wrapped__()


@pytest.mark.parametrize("has", [False, True])
@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64", "arm64"])
def test_what_is_fast_follows_the_instructions_that_there_are(
    machine: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an x86 oneDNN says that it does bfloat16 where it only emulates it."""
    x86 = machine in ("x86_64", "AMD64")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(product, "int8_is_exact", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has and x86)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has or x86)
    for built in (True, False):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda built=built: built)
        quick = torch.bfloat16 if built and has else torch.float32
        assert fast_dtype.__wrapped__() == quick
        assert multiplies_int8.__wrapped__() == (built and x86)


@pytest.mark.skipif(not int8_is_exact(), reason="this CPU's int8 products are not exact")
@pytest.mark.parametrize("width", [1, 2, 3, 16, 63, 64, 129, 1024])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 17, 33])
def test_int8_products_are_the_scores(width: int, batch: int) -> None:
    """Whatever the strides: of one row, of one column, broadcast, every other."""
    rng = np.random.default_rng(width * 100 + batch)
    base = torch.from_numpy(rng.integers(-128, 128, (200, 2 * width), dtype=np.int8))
    queries = torch.from_numpy(rng.integers(-128, 128, (batch, width), dtype=np.int8))
    base[:9] = -128
    queries[0] = -128
    for items in (
        base[:, :width],
        base[:, ::2],
        base[:1, :width],
        base[:1, :width].expand(150, width),
        base.t().contiguous().t()[:, :width],
    ):
        tiles = Tiles(queries, len(items), 4, torch.int8)
        tile, loud = tiles.of(items)
        assert loud is None
        true = items.numpy().astype(np.int64) @ queries.numpy().astype(np.int64).T
        assert torch.equal(tile[: len(items)].long(), torch.from_numpy(true))
        assert (tile[len(items) :] == torch.iinfo(torch.int32).min).all()
        again = Tiles(queries.t().contiguous().t(), len(items), 4, torch.int8).of(items)[0]
        assert torch.equal(again, tile)


@pytest.mark.skipif(not int8_is_exact(), reason="this CPU's int8 products are not exact")
@pytest.mark.parametrize("count", [1, 7, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("largest", [1, 2, 128], ids=["ties", "some ties", "all values"])
@pytest.mark.parametrize("masked", ["no", "row", "query", "all"])
def test_one_query_finds_what_the_reference_does(count: int, largest: int, masked: str) -> None:
    """In one tile and in several, for fewer and for more results than there are items, whatever the strides."""
    rng = np.random.default_rng(count)
    base = torch.from_numpy(rng.integers(-largest, largest, (count, 40), dtype=np.int8))
    query = torch.from_numpy(rng.integers(-largest, largest, (1, 20), dtype=np.int8))
    items = base[:, ::2] if count % 2 else base[:, :20]
    mask = None
    if masked != "no":
        mask = torch.from_numpy(rng.random(count) < (0.3 if masked != "all" else 0.0))
        mask = mask[None] if masked == "query" else mask
    for k in (1, 4, 10, 64, 200):
        expected = coarse_topk_reference(query, items, k, mask=mask)
        for rows in (1 << 21, 64, 100, 7):
            found = best_of_one(query, items, k, mask, rows)
            assert_same(found, expected.scores.numpy(), expected.rows.numpy())


@pytest.mark.skipif(not int8_is_exact(), reason="this CPU's int8 products are not exact")
def test_the_largest_scores_of_one_query_are_exact() -> None:
    """2^24 and its negative are the last whole numbers that float32 and the keys must hold."""
    items = torch.full((300, 1024), -128, dtype=torch.int8)
    items[::2] = 127
    items[7, 0] = -127
    query = torch.full((1, 1024), -128, dtype=torch.int8)
    expected = coarse_topk_reference(query, items, 160)
    assert expected.scores[0, 0] == 2**24
    found = best_of_one(query, items, 160, None)
    assert_same(found, expected.scores.numpy(), expected.rows.numpy())
