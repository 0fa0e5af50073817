"""Launches the rerank: one program per tile of candidates scores them, one per query sorts.

No host synchronisation, no allocation that depends on values. Memory beside inputs and outputs:
8 bytes per candidate, rounded up to a power of two of them. Items in pinned host memory are read
where they lie, over PCIe.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from kernels._triton.candidates import rerank_keys, rerank_sort
from kernels._triton.device import capability_of, on_device, unwritten
from kernels._triton.launch import RerankLaunch, power, rerank_launch, sort_warps
from kernels.backends import TRITON_MAX_K
from kernels.topk import TopK, no_hits

__all__ = ["rerank_topk"]


def _held(candidates: Tensor, k: int) -> int:
    """Keys a query's scratch holds: its candidates, and at least one sort's worth."""
    return max(candidates.shape[1], _width(candidates, k))


def _width(candidates: Tensor, k: int) -> int:
    """Keys that are sorted at a time; at least two, or Triton 3.6 takes them for a number."""
    return max(power(min(candidates.shape[1], TRITON_MAX_K)), power(k), 2)


def _without_repeats(candidates: Tensor) -> Tensor:
    """Each query's candidates in ascending order, repeats turned to -1."""
    ordered = candidates.sort(dim=1).values
    repeated = ordered[:, 1:] == ordered[:, :-1]
    ordered[:, 1:].masked_fill_(repeated, -1)
    return ordered


def rerank_topk(
    queries: Tensor,
    items: Tensor,
    candidates: Tensor,
    k: int,
    *,
    launch: RerankLaunch | None = None,
) -> TopK:
    """The Triton version of `kernels.rerank.rerank_topk`; `launch` is for tests and tuning."""
    batch, listed = candidates.shape
    count, d = items.shape
    if batch == 0 or listed == 0:
        return no_hits(batch, k, queries.device)
    launch = launch or rerank_launch(capability_of(queries), batch, listed, d, items.dtype)
    width = _width(candidates, k)
    if listed > width:  # merged part by part: repeats must not crowd out others
        candidates = _without_repeats(candidates)
    held = _held(candidates, k)
    keys = torch.empty(batch * held, dtype=torch.int64, device=queries.device)
    out = unwritten(batch, k, queries.device)
    fp8 = items.dtype == torch.float8_e4m3fn
    if fp8:
        queries, items = queries.view(torch.uint8), items.view(torch.uint8)
    strides = (*queries.stride(), *items.stride(), *candidates.stride(), held)
    score = {
        "ROWS": launch.rows, "PAD": max(power(d), 64), "FP8": fp8, "enable_fp_fusion": False,
        "WIDE": tl.int32 if items.dtype == torch.int8 else tl.float32,
    }  # fmt: skip
    with on_device(queries):
        tiles = -(-listed // launch.rows)
        rerank_keys[(batch * tiles,)](
            queries, items, candidates, keys, count, listed, d, *strides,
            num_warps=launch.warps, **score,
        )  # fmt: skip
        rerank_sort[(batch,)](
            keys, *out, listed, k, held,
            WIDTH=width, num_warps=sort_warps(width), enable_fp_fusion=False,
        )  # fmt: skip
    return out
