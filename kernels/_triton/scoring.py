"""The device functions that every kernel shares: one score, its key, its error bound.

The score is summed in the one order of `kernels/score.py`: products rounded to float32, then by
halves over the padded width. Kernels that call it are launched with `enable_fp_fusion=False`.

A key is one int64 per hit, larger = better: the score's bits, made to sort as integers, above
the complement of the row. So "score descending, row ascending" is one comparison, and no two
rows of one query have the same key.
"""

# ruff: noqa: N803, N806 - kernel arguments carry the shape letters of the contract
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["NO_KEY", "error_bound", "fold", "fp8_or_same", "hit_keys", "ordered_bits",
           "row_scores", "unordered_bits", "wide",
           "write_best"]  # fmt: skip

NO_KEY = tl.constexpr(-(2**63))  # below every hit


@triton.jit
def fp8_or_same(x, FP8: tl.constexpr):
    """float8_e4m3fn comes in as bytes, so that a masked load needs no float8 zero."""
    if FP8:
        x = x.to(tl.float8e4nv, bitcast=True)
    return x


@triton.jit
def wide(n):
    """n as int64, so that no product for an address is 32-bit (a loop counter may be an int)."""
    return tl.full([], 0, tl.int64) + n


@triton.jit
def fold(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """[ROWS, WIDTH] -> [ROWS, WIDTH / 2]: entry j takes entry j + WIDTH / 2."""
    low, high = tl.split(tl.permute(tl.reshape(x, [ROWS, 2, WIDTH // 2]), (0, 2, 1)))
    return low + high


@triton.jit
def _chunk_terms(
    query, items, offsets, valid, start, d, stride_qd, stride_xd, CHUNK: tl.constexpr,
    FP8: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Products [ROWS, CHUNK] of entries start ... start + CHUNK; zero where there is none."""
    j = (start + tl.arange(0, CHUNK)).to(tl.int64)
    q = tl.load(query + j * stride_qd, mask=j < d, other=0)
    at = offsets[:, None] + (j * stride_xd)[None, :]
    x = tl.load(items + at, mask=valid[:, None] & (j < d)[None, :], other=0)
    return fp8_or_same(x, FP8).to(WIDE) * fp8_or_same(q, FP8).to(WIDE)[None, :]


@triton.jit
def row_scores(
    query, items, rows, valid, d, stride_qd, stride_xn, stride_xd,
    ROWS: tl.constexpr, PAD: tl.constexpr, FP8: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Scores [ROWS] float32 of `rows` (int64) in the fixed order; PAD >= d, a power of two >= 64.

    Eight chunks: the three outer halvings are sums of whole chunks, so nothing crosses a lane
    until CHUNK = PAD / 8 columns are left.
    """
    CHUNK: tl.constexpr = PAD // 8
    at = rows * stride_xn
    c0 = _chunk_terms(query, items, at, valid, 0, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c1 = _chunk_terms(query, items, at, valid, CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c2 = _chunk_terms(query, items, at, valid, 2 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c3 = _chunk_terms(query, items, at, valid, 3 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c4 = _chunk_terms(query, items, at, valid, 4 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c5 = _chunk_terms(query, items, at, valid, 5 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c6 = _chunk_terms(query, items, at, valid, 6 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    c7 = _chunk_terms(query, items, at, valid, 7 * CHUNK, d, stride_qd, stride_xd, CHUNK, FP8, WIDE)
    total = ((c0 + c4) + (c2 + c6)) + ((c1 + c5) + (c3 + c7))
    for level in tl.static_range(11):  # CHUNK <= 2^11 columns, so PAD <= 16384
        if (CHUNK >> level) > 1:
            total = fold(total, ROWS, CHUNK >> level)
    score = tl.reshape(total, [ROWS]).to(tl.float32)
    return tl.where(score == 0, 0.0, score)  # -0.0 and +0.0 are one score


@triton.jit
def ordered_bits(score):
    """float32 -> int32 that compares as the float does."""
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered_bits(bits):
    """The float32 back from `ordered_bits`: the map is its own inverse."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def hit_keys(score, row, valid):
    """Keys of hits; NO_KEY where invalid, and where the score is NaN or -inf."""
    key = (ordered_bits(score).to(tl.int64) << 32) | (0xFFFFFFFF - row.to(tl.int64))
    return tl.where(valid & (score > -float("inf")), key, NO_KEY)


@triton.jit
def write_best(best, scores, rows, at, k, WIDTH: tl.constexpr):
    """The first k of the descending keys `best` to scores[at ...] and rows[at ...]."""
    i = tl.arange(0, WIDTH)
    hit = best != NO_KEY
    score = unordered_bits((best >> 32).to(tl.int32))
    row = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    tl.store(scores + at + i, tl.where(hit, score, -float("inf")), mask=i < k)
    tl.store(rows + at + i, tl.where(hit, row, -1), mask=i < k)


@triton.jit
def error_bound(reach, peak, GAMMA: tl.constexpr):
    """How far the fast product may lie from the score of `row_scores`.

    reach >= the sum of |query|, peak >= every |item| entry of the span; see the note 0003 for GAMMA.
    2^-100 stands for what underflows. Infinite or NaN where no bound is known.
    """
    error = (reach * peak) * GAMMA + (reach + peak + 1.0) * 7.9e-31
    return tl.where(reach == 0, 0.0, tl.where(peak == 0, 0.0, error))
