"""Kernels of the rerank: the keys of a query's candidates, and the best k of them, each row once.

Equal rows of one query have equal keys (the score is the same bits), so after the sort
duplicates stand side by side.
"""

# ruff: noqa: N803 - kernel arguments carry the shape letters of the contract
from __future__ import annotations

import triton
import triton.language as tl

from kernels._triton.scoring import NO_KEY, hit_keys, row_scores, unordered_bits, wide

__all__ = ["rerank_keys", "rerank_sort"]


@triton.jit(do_not_specialize=["N", "C"])
def rerank_keys(
    # inputs
    queries, items, candidates,
    # output
    keys,
    # shapes
    N, C, d, stride_qb, stride_qd, stride_xn, stride_xd, stride_cb, stride_cc, stride_kb,
    # constants
    ROWS: tl.constexpr, PAD: tl.constexpr, FP8: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One program per ROWS candidates of a query; keys [B, stride_kb]."""
    tiles = tl.cdiv(C, ROWS)
    pid = tl.program_id(0)
    b = (pid // tiles).to(tl.int64)
    c = wide(pid % tiles) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(candidates + b * stride_cb + c * stride_cc, mask=c < C, other=-1)
    live = (rows >= 0) & (rows < N)
    score = row_scores(
        queries + b * stride_qb, items, rows, live, d, stride_qd, stride_xn, stride_xd,
        ROWS, PAD, FP8, WIDE,
    )  # fmt: skip
    tl.store(keys + b * stride_kb + c, hit_keys(score, rows, live), mask=c < C)


@triton.jit(do_not_specialize=["C", "k"])
def rerank_sort(keys, scores, rows, C, k, stride_kb, WIDTH: tl.constexpr):
    """One program per query: keys [B, stride_kb] -> scores, rows [B, k], each row once.

    keys[b] holds at least WIDTH entries, and is used up.
    """
    b = tl.program_id(0).to(tl.int64)
    keys += b * stride_kb
    i = tl.arange(0, WIDTH)
    best = tl.sort(tl.load(keys + i, mask=i < C, other=NO_KEY), descending=True)
    for start in range(WIDTH, C, WIDTH):
        more = tl.sort(tl.load(keys + start + i, mask=start + i < C, other=NO_KEY))
        best = tl.bitonic_merge(tl.maximum(best, more), descending=True)
    tl.debug_barrier()
    tl.store(keys + i, best)
    tl.debug_barrier()  # the neighbour is another thread's
    before = tl.load(keys + i - 1, mask=i > 0, other=NO_KEY)
    first = (best != NO_KEY) & (best != before)
    place = tl.cumsum(first.to(tl.int32), 0) - 1
    at = b * k
    kept = first & (place < k)
    tl.store(scores + at + place, unordered_bits((best >> 32).to(tl.int32)), mask=kept)
    tl.store(rows + at + place, 0xFFFFFFFF - (best & 0xFFFFFFFF), mask=kept)
    missing = (i >= tl.sum(first.to(tl.int32), 0)) & (i < k)
    tl.store(scores + at + i, tl.full([WIDTH], -float("inf"), tl.float32), mask=missing)
    tl.store(rows + at + i, tl.full([WIDTH], -1, tl.int64), mask=missing)
