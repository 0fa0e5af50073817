"""Kernel of the first step: multiply, and keep only the maximum of each group of items.

A span is TILES tiles of BLOCK_N consecutive items. A group is one column of it: the items that
stand at the same place in each of its tiles. So the running maximum is one elementwise
instruction per score, nothing crosses a lane, and consecutive rows (often alike) fall in
different groups. Also written: the maximum of each bundle, BUNDLE neighbouring groups of a span, from
which the selection starts, and each span's largest |entry| (`peaks`).
"""

# ruff: noqa: N803, N806 - kernel arguments carry the shape letters of the contract
from __future__ import annotations

import triton
import triton.language as tl

from kernels._triton.scoring import fp8_or_same, wide

__all__ = ["dot_max", "dot_max_long", "span_peaks"]


@triton.jit
def _allowed(
    mask, b, live_b, n, live_n, stride_mb, stride_mn, MASK: tl.constexpr,
):  # fmt: skip
    """May item n be returned to query b? [n, b], or [n, 1] where all queries share the answer."""
    if MASK == 2:
        live = live_n[:, None] & live_b[None, :]
        at = (n * stride_mn)[:, None] + (b * stride_mb)[None, :]
        allowed = tl.load(mask + at, mask=live, other=0) != 0
    elif MASK == 1:
        allowed = (tl.load(mask + n * stride_mn, mask=live_n, other=0) != 0)[:, None]
    else:
        allowed = live_n[:, None]
    return allowed


@triton.jit
def _store_maxima(
    best, group_max, bundle_max, span, n_spans, b, live_b,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BUNDLE: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """best [BLOCK_N, b] -> group_max [B, n_spans, BLOCK_N], bundle_max [B, n_spans, BLOCK_N / BUNDLE]."""
    if INTEGER:
        best = tl.where(best == -(2**31), -float("inf"), best.to(tl.float32))
    j = tl.arange(0, BLOCK_N)
    block = b * n_spans + span
    at = block[None, :] * BLOCK_N + j[:, None]
    tl.store(group_max + at, best, mask=live_b[None, :])
    if BUNDLE > 1:
        BUNDLES: tl.constexpr = BLOCK_N // BUNDLE
        largest = tl.max(tl.reshape(best, [BUNDLES, BUNDLE, BLOCK_B]), 1)
        at = block[None, :] * BUNDLES + tl.arange(0, BUNDLES)[:, None]
        tl.store(bundle_max + at, largest, mask=live_b[None, :])


@triton.jit(do_not_specialize=["B", "N", "n_spans", "TILES", "most"])
def dot_max(
    # inputs
    queries, items, mask,
    # outputs
    group_max, bundle_max, peaks,
    # shapes, and what no |entry| exceeds, where the caller knows that
    B, N, d, n_spans, TILES, most,
    stride_qb, stride_qd, stride_xn, stride_xd, stride_mb, stride_mn,
    # constants
    PAD: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BUNDLE: tl.constexpr,
    MASK: tl.constexpr, FULL_D: tl.constexpr, FP8: tl.constexpr, INTEGER: tl.constexpr,
    FACTOR: tl.constexpr, STAGES: tl.constexpr, PEAKS: tl.constexpr,
):  # fmt: skip
    """Items along the rows of the product, queries along its columns. Programs that share a span
    are neighbours, so its items come from L2. float32 is multiplied as tf32: its bound says so.
    PEAKS: look for each span's peak, else it is `most`."""
    blocks = tl.cdiv(B, BLOCK_B)
    pid = tl.program_id(0)
    span = (pid // blocks).to(tl.int64)
    b = (pid % blocks).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    live_b = b < B
    j = tl.arange(0, PAD)
    live_j = j < d
    j = j.to(tl.int64)
    q = tl.load(
        queries + (b * stride_qb)[:, None] + (j * stride_qd)[None, :],
        mask=live_b[:, None] & live_j[None, :], other=0,
    )  # fmt: skip
    q = tl.trans(fp8_or_same(q, FP8).to(FACTOR))
    kind: tl.constexpr = tl.int32 if INTEGER else tl.float32
    lowest: tl.constexpr = -(2**31) if INTEGER else -float("inf")
    best = tl.full([BLOCK_N, BLOCK_B], lowest, kind)
    if PEAKS:
        peak = tl.zeros([BLOCK_N, PAD], FACTOR)

    place = tl.arange(0, BLOCK_N)
    first = span * TILES * BLOCK_N
    tiles = tl.minimum((N - first) // BLOCK_N, TILES).to(tl.int32)
    at = items + ((first + place) * stride_xn)[:, None] + (j * stride_xd)[None, :]
    step = wide(BLOCK_N) * stride_xn
    if MASK == 0:
        for _ in tl.range(0, tiles, num_stages=STAGES):  # whole tiles: nothing to mask
            if FULL_D:
                x = tl.load(at)
            else:
                x = tl.load(at, mask=live_j[None, :], other=0)
            x = fp8_or_same(x, FP8).to(FACTOR)
            best = tl.maximum(best, tl.dot(x, q, out_dtype=kind, input_precision="tf32"))
            if PEAKS:
                peak = tl.maximum(peak, tl.abs(x)).to(FACTOR)  # Triton 3.6 widens bfloat16
            at += step
        done = tiles
    else:
        done = 0
    for tile in tl.range(done, TILES, num_stages=1):
        n = first + wide(tile) * BLOCK_N + place
        live_n = n < N
        at_n = items + (n * stride_xn)[:, None] + (j * stride_xd)[None, :]
        x = tl.load(at_n, mask=live_n[:, None] & live_j[None, :], other=0)
        x = fp8_or_same(x, FP8).to(FACTOR)
        scores = tl.dot(x, q, out_dtype=kind, input_precision="tf32")
        if PEAKS:
            peak = tl.maximum(peak, tl.abs(x)).to(FACTOR)
        ok = _allowed(mask, b, live_b, n, live_n, stride_mb, stride_mn, MASK)
        best = tl.maximum(best, tl.where(ok, scores, lowest))
    _store_maxima(
        best, group_max, bundle_max, span, n_spans, b, live_b, BLOCK_N, BLOCK_B, BUNDLE, INTEGER
    )

    if not INTEGER:
        if PEAKS:  # every program of the span writes the same
            most = tl.max(tl.max(peak.to(tl.float32), 1), 0)
        tl.store(peaks + span, most)


@triton.jit(do_not_specialize=["B", "N", "n_spans", "TILES", "most"])
def dot_max_long(
    # inputs
    queries, items, mask,
    # outputs
    group_max, bundle_max, peaks,
    # shapes, and what no |entry| exceeds, where the caller knows that
    B, N, d, n_spans, TILES, most,
    stride_qb, stride_qd, stride_xn, stride_xd, stride_mb, stride_mn,
    # constants
    CHUNK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BUNDLE: tl.constexpr,
    MASK: tl.constexpr, FP8: tl.constexpr, INTEGER: tl.constexpr,
    FACTOR: tl.constexpr, STAGES: tl.constexpr, PEAKS: tl.constexpr,
):  # fmt: skip
    """`dot_max` for vectors that are too long to hold: CHUNK dims at a time, of the queries too.
    PEAKS: `span_peaks` has looked for them. Not here: Triton 3.6 gives items that are also read for
    anything but the product one buffer too few, and the next overwrite them while it reads."""
    blocks = tl.cdiv(B, BLOCK_B)
    pid = tl.program_id(0)
    span = (pid // blocks).to(tl.int64)
    b = (pid % blocks).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    live_b = b < B
    kind: tl.constexpr = tl.int32 if INTEGER else tl.float32
    lowest: tl.constexpr = -(2**31) if INTEGER else -float("inf")
    best = tl.full([BLOCK_N, BLOCK_B], lowest, kind)
    first = span * TILES * BLOCK_N
    tiles = tl.minimum(tl.cdiv(N - first, BLOCK_N), TILES).to(tl.int32)
    for tile in tl.range(0, tiles):
        n = first + wide(tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        live_n = n < N
        scores = tl.zeros([BLOCK_N, BLOCK_B], kind)
        for chunk in tl.range(0, tl.cdiv(d, CHUNK), num_stages=STAGES):
            j = wide(chunk) * CHUNK + tl.arange(0, CHUNK)
            live_j = j < d
            x = tl.load(
                items + (n * stride_xn)[:, None] + (j * stride_xd)[None, :],
                mask=live_n[:, None] & live_j[None, :], other=0,
            )  # fmt: skip
            q = tl.load(
                queries + (b * stride_qb)[:, None] + (j * stride_qd)[None, :],
                mask=live_b[:, None] & live_j[None, :], other=0,
            )  # fmt: skip
            x = fp8_or_same(x, FP8).to(FACTOR)
            q = tl.trans(fp8_or_same(q, FP8).to(FACTOR))
            scores = tl.dot(x, q, scores, out_dtype=kind, input_precision="tf32")
        ok = _allowed(mask, b, live_b, n, live_n, stride_mb, stride_mn, MASK)
        best = tl.maximum(best, tl.where(ok, scores, lowest))
    _store_maxima(
        best, group_max, bundle_max, span, n_spans, b, live_b, BLOCK_N, BLOCK_B, BUNDLE, INTEGER
    )
    if not (INTEGER or PEAKS):
        tl.store(peaks + span, most)


@triton.jit(do_not_specialize=["N", "TILES"])
def span_peaks(
    # input
    items,
    # output
    peaks,
    # shapes
    N, d, TILES, stride_xn, stride_xd,
    # constants
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """The largest |entry| of each span, a program a span; NaN is none."""
    span = tl.program_id(0).to(tl.int64)
    first = span * TILES * BLOCK_N
    rows = tl.minimum(N - first, wide(TILES) * BLOCK_N)
    peak = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    for start in range(0, rows, BLOCK_N):
        n = first + start + tl.arange(0, BLOCK_N)
        for chunk in range(0, tl.cdiv(d, CHUNK)):
            j = wide(chunk) * CHUNK + tl.arange(0, CHUNK)
            x = tl.load(
                items + (n * stride_xn)[:, None] + (j * stride_xd)[None, :],
                mask=(n < N)[:, None] & (j < d)[None, :], other=0,
            )  # fmt: skip
            peak = tl.maximum(peak, tl.abs(fp8_or_same(x, FP8).to(tl.float32)))
    tl.store(peaks + span, tl.max(tl.max(peak, 1), 0))
