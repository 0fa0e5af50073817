"""The launch functions: pure, within the limits of each GPU, no Triton needed."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels._triton import launch as module
from kernels._triton.launch import INTERPRETED, SHARED_BYTES, coarse_launch, rerank_launch
from kernels._triton.launch_table import TABLE

DTYPES = (torch.float32, torch.float16, torch.int8)
SHAPES = [
    (batch, count, d, k)
    for batch, count, d, k in itertools.product(
        (1, 16, 17, 128, 129, 2048), (1, 7_000, 1_000_000, 200_000_000),
        (8, 64, 100, 256, 300, 768, 4096), (1, 128, 4096),
    )
]  # fmt: skip


@pytest.mark.parametrize("capability", [*SHARED_BYTES, INTERPRETED, (13, 0)], ids=str)
def test_a_coarse_launch_fits_the_device(capability: tuple[int, int]) -> None:
    for (batch, count, d, k), dtype, masked in itertools.product(SHAPES, DTYPES, (False, True)):
        chosen = coarse_launch(capability, batch, count, d, k, dtype, masked=masked)
        assert chosen == coarse_launch(capability, batch, count, d, k, dtype, masked=masked)
        assert 1 <= chosen.part <= batch
        for size in (chosen.block_b, chosen.block_n, chosen.tiles):
            assert size & (size - 1) == 0  # Triton's blocks are powers of two
        if chosen.direct:
            assert count < 8 * k or count <= 4 * 128
            continue
        assert min(chosen.block_b, chosen.block_n) >= 16  # the least tensor instructions take
        assert chosen.tiles == 2 or count >= 4 * k * chosen.tiles  # groups to leave out
        spans = -(-count // (chosen.block_n * chosen.tiles))
        groups = spans * chosen.block_n
        assert chosen.bundle == 1 or groups >= 2 * k * chosen.bundle
        assert chosen.block_n % chosen.bundle == 0
        maxima = 4 * (groups + groups // chosen.bundle) * chosen.part
        assert maxima <= module.MAXIMA_BYTES or chosen.part <= chosen.block_b
        if capability != INTERPRETED:
            pad = max(module.power(d), 32) * dtype.itemsize
            shared = pad * (chosen.block_b + chosen.stages * chosen.block_n)
            if d > module.HELD_D:
                shared = 128 * chosen.stages * (chosen.block_b + chosen.block_n)
            assert shared <= SHARED_BYTES.get(capability, 99) * 1024


def test_larger_batches_take_more_queries_a_program() -> None:
    blocks = [
        coarse_launch((9, 0), batch, 1_000_000, 64, 10, torch.float16).block_b
        for batch in (1, 16, 17, 128, 129)
    ]
    assert blocks == [16, 16, 64, 64, 128]


def test_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse_launch.cache_clear()
    monkeypatch.setitem(TABLE, ((8, 0), "large", 64, 2), (128, 32, 4, 3, 100))
    chosen = coarse_launch((8, 0), 256, 1_000_000, 64, 10, torch.float16)
    found = chosen.block_b, chosen.block_n, chosen.warps, chosen.stages, chosen.registers
    assert found == (128, 32, 4, 3, 100)
    other = coarse_launch((8, 6), 256, 1_000_000, 64, 10, torch.float16)
    assert (other.block_b, other.block_n) == (128, 64)
    coarse_launch.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_table_has_a_row_for_every_shape(dtype: torch.dtype) -> None:
    for batch, d in itertools.product((1, 17, 129, 5000), (1, 32, 33, 100, 256, 257, 4096)):
        assert (module.TUNED, *module.shape_class(batch, d, dtype)) in TABLE


def test_bundles_are_fewer_where_k_is_large() -> None:
    bundles = [
        coarse_launch((9, 0), 1, count, 64, k, torch.float16).bundle
        for count, k in ((10_000_000, 128), (10_000_000, 1024), (100_000, 128), (9_000, 1024))
    ]
    assert bundles == [128, 64, 32, 1]


def test_few_candidates_are_spread_over_more_programs() -> None:
    rows = [rerank_launch((9, 0), batch, 128, 768, torch.float16).rows for batch in (1, 32, 256)]
    assert rows == [8, 32, 32]
    assert rerank_launch((9, 0), 256, 128, 768, torch.float32).rows == 16
