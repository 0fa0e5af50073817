"""`coarse_topk` and `rerank_topk` by shape and dtype. d = 64, k = 128; D = 768, k = 10."""

from functools import cache

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import Timed, device
from benchmarks.units import units
from kernels import coarse_topk, rerank_topk

FULL, QUICK = 1 << 20, 1 << 16
D, K = 64, 128
WIDTH, BEST = 768, 10


@cache
def stored(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    return (vectors * 127).round().to(dtype) if dtype == torch.int8 else vectors.to(dtype)


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_coarse_topk(timed: Timed, quick: bool, dtype: torch.dtype, batch: int) -> None:
    count = QUICK if quick else FULL
    items, queries = (
        stored(units(n, D, seed=seed, device=device()), dtype)
        for n, seed in ((count, 0), (batch, 1))
    )
    norm = 200.0 if dtype == torch.int8 else 1.01
    found = timed(
        lambda: coarse_topk(queries, items, K, max_norm=norm),
        nbytes=items.nbytes, flops=2.0 * batch * count * D,
        op="coarse_topk", N=count, d=D, B=batch, k=K, dtype=str(dtype),
    )  # fmt: skip
    assert bool((found.rows >= 0).all())


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("listed", [128, 1024])
def test_rerank_topk(timed: Timed, listed: int, batch: int) -> None:
    items = stored(units(QUICK, WIDTH, seed=2, device=device()), torch.float16)
    queries = stored(units(batch, WIDTH, seed=3, device=device()), torch.float16)
    generator = torch.Generator().manual_seed(4)
    candidates = torch.randint(0, QUICK, (batch, listed), generator=generator).to(device())
    found = timed(
        lambda: rerank_topk(queries, items, candidates, BEST),
        nbytes=2.0 * batch * listed * WIDTH, flops=2.0 * batch * listed * WIDTH,
        op="rerank_topk", C=listed, D=WIDTH, B=batch, k=BEST, dtype="torch.float16",
    )  # fmt: skip
    assert bool((found.rows >= 0).all())
