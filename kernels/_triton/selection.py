"""Kernels of the second and third step: which groups can hold a hit, their scores, the best k.

`group_max` and `bundle_max` are the fast product's; every decision leaves room for its error, so
what is kept always contains the answer. Where a list would overflow, `finish` does without.
"""

# ruff: noqa: N803, N806 - kernel arguments carry the shape letters of the contract
from __future__ import annotations

import triton
import triton.language as tl

from kernels._triton.scoring import (
    NO_KEY,
    error_bound,
    fp8_or_same,
    hit_keys,
    ordered_bits,
    row_scores,
    unordered_bits,
    wide,
    write_best,
)

__all__ = ["finish", "rescore", "select_groups"]


@triton.jit
def _lower(value, peak, reach, GAMMA: tl.constexpr):
    """Below the best score of a group or bundle whose fast maximum is `value`."""
    if GAMMA == 0:  # int8: the fast product is exact
        bound = value
    else:
        error = error_bound(reach, peak, GAMMA)
        bound = tl.where(error < float("inf"), value - error, -float("inf"))
    return bound


@triton.jit
def _upper(value, peak, reach, GAMMA: tl.constexpr):
    """Above the best score of a group or bundle whose fast maximum is `value`."""
    if GAMMA == 0:
        bound = value
    else:
        error = error_bound(reach, peak, GAMMA)
        bound = tl.where(error < float("inf"), value + error, float("inf"))
    return bound


@triton.jit
def _load_maxima(
    values, peaks, listed, i, count,
    WIDTH: tl.constexpr, SPAN: tl.constexpr, GAMMA: tl.constexpr,
):  # fmt: skip
    """Entry i of `count`: its place, its value, its span's peak. A span has SPAN entries.

    WIDTH > 1: of blocks of so many values, block i // WIDTH being the one that `listed` names.
    """
    live = i < count
    place = i.to(tl.int64)
    if WIDTH > 1:
        block = tl.load(listed + i // WIDTH, mask=live, other=0).to(tl.int64)
        place = block * WIDTH + i % WIDTH
    value = tl.load(values + place, mask=live, other=-float("inf"))
    if GAMMA > 0:
        peak = tl.load(peaks + place // SPAN, mask=live, other=0.0)
    else:
        peak = tl.zeros_like(value)
    return place, value, peak


@triton.jit
def _kth_lower(
    values, peaks, listed, count, k, reach,
    WIDTH: tl.constexpr, SPAN: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k-th largest lower bound (-inf where there are fewer): 8 bits of it a pass."""
    digits = tl.arange(0, 256)
    prefix = tl.full([], 0, tl.int64)
    need = k + tl.full([], 0, tl.int32)
    for step in range(4):
        shift = 24 - 8 * step
        histogram = tl.zeros([256], tl.int32)
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            _place, value, peak = _load_maxima(values, peaks, listed, i, count, WIDTH, SPAN, GAMMA)
            key = ordered_bits(_lower(value, peak, reach, GAMMA)).to(tl.int64) + 2**31
            same = (i < count) & ((key >> (shift + 8)) == (prefix >> (shift + 8)))
            digit = ((key >> shift) & 255).to(tl.int32)
            histogram += tl.histogram(digit, 256, mask=same)
        above = tl.cumsum(histogram, 0, reverse=True)  # how many have this digit or a larger one
        chosen = tl.maximum(tl.sum((above >= need).to(tl.int32), 0) - 1, 0)
        need -= tl.sum(tl.where(digits == chosen, above - histogram, 0), 0)
        prefix += chosen.to(tl.int64) << shift
    found = unordered_bits((prefix - 2**31).to(tl.int32))
    return tl.where(count >= k, found, -float("inf"))


@triton.jit
def _collect(
    values, peaks, listed, count, low, reach, kept, CAP,
    WIDTH: tl.constexpr, SPAN: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the places whose upper bound reaches `low`, in order; returns how many there are."""
    total = tl.full([], 0, tl.int32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        place, value, peak = _load_maxima(values, peaks, listed, i, count, WIDTH, SPAN, GAMMA)
        upper = _upper(value, peak, reach, GAMMA)
        keep = (i < count) & (upper > -float("inf")) & (upper >= low)
        at = total + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(kept + at, place.to(tl.int32), mask=keep & (at < CAP))
        total += tl.sum(keep.to(tl.int32), 0)
    return total


@triton.jit(do_not_specialize=["k", "n_spans", "CAP"])
def select_groups(
    # inputs
    queries, group_max, bundle_max, peaks,
    # outputs
    reaches, lows, bundles, groups, group_count, hit_count,
    # shapes
    k, d, n_spans, stride_qb, stride_qd, CAP,
    # constants
    PAD: tl.constexpr, BLOCK_N: tl.constexpr, BUNDLE: tl.constexpr, FP8: tl.constexpr,
    NORM: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per query: a score that k groups reach for certain (`lows`), and the list of
    the groups that may reach it. BUNDLE > 1: k bundles give a first such score, which is as a
    rule good enough; only groups of bundles that may reach it are looked at.
    NORM: the peaks bound whole items, not entries; so the query's norm is its reach."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, PAD).to(tl.int64)
    q = tl.load(queries + b * stride_qb + j * stride_qd, mask=j < d, other=0)
    q = fp8_or_same(q, FP8).to(tl.float32)
    reach = tl.sum(tl.abs(q), 0)
    if NORM:
        norm = tl.sqrt(tl.sum(q * q, 0))
        reach = tl.where(norm > 1e-15, norm, reach)  # smaller squares may underflow
    reach *= 1.01
    BUNDLES: tl.constexpr = BLOCK_N // BUNDLE
    bundle_max += b * n_spans * BUNDLES
    group_max += b * n_spans * BLOCK_N
    bundles += b * CAP
    groups += b * CAP
    low = tl.full([], -float("inf"), tl.float32)
    count = n_spans * BLOCK_N
    total = CAP + 1
    lost = tl.full([], 0, tl.int1)
    if BUNDLE > 1:
        every = n_spans * BUNDLES
        low = _kth_lower(bundle_max, peaks, bundles, every, k, reach, 1, BUNDLES, GAMMA, BLOCK)
        count = _collect(
            bundle_max, peaks, bundles, every, low, reach, bundles, CAP, 1, BUNDLES, GAMMA, BLOCK
        )
        lost = count > CAP
        count = tl.minimum(count, CAP) * BUNDLE
        tl.debug_barrier()  # the list is read by other threads than wrote it
        total = _collect(
            group_max, peaks, bundles, count, low, reach, groups, CAP, BUNDLE, BLOCK_N, GAMMA, BLOCK
        )
    if total > CAP:
        found = _kth_lower(
            group_max, peaks, bundles, count, k, reach, BUNDLE, BLOCK_N, GAMMA, BLOCK
        )
        low = tl.maximum(low, found)
        tl.debug_barrier()  # the list may have been written before, by other threads
        total = _collect(
            group_max, peaks, bundles, count, low, reach, groups, CAP, BUNDLE, BLOCK_N, GAMMA, BLOCK
        )
    tl.store(reaches + b, reach)
    tl.store(lows + b, low)
    tl.store(group_count + b, tl.where(lost, CAP + 1, total))
    tl.store(hit_count + b, 0)


@triton.jit
def _mask_at(mask, b, rows, live, stride_mb, stride_mn, MASK: tl.constexpr):
    """live, and allowed by the mask: for one query b and its rows."""
    if MASK > 0:
        at = rows * stride_mn
        if MASK == 2:
            at += b * stride_mb
        live = live & (tl.load(mask + at, mask=live, other=0) != 0)
    return live


@triton.jit(do_not_specialize=["N", "CAP", "HIT_CAP", "TILES"])
def rescore(
    # inputs
    queries, items, mask, lows, groups, group_count,
    # outputs
    hits, hit_count,
    # shapes
    N, d, stride_qb, stride_qd, stride_xn, stride_xd, stride_mb, stride_mn, CAP, HIT_CAP, TILES,
    # constants
    PAD: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
    MASK: tl.constexpr, FP8: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Programs (part, query): the scores of the part's share of the listed groups; the keys that
    reach `low` are appended to hits [B, HIT_CAP] (in any order: keys are unique, and sorted later)."""
    b = tl.program_id(1).to(tl.int64)
    count = tl.load(group_count + b)
    if count > CAP:
        return
    low = tl.load(lows + b)
    i = tl.arange(0, ROWS)
    share = ROWS // TILES  # groups at a time
    for first in range(tl.program_id(0) * share, count, tl.num_programs(0) * share):
        slot = first + i // TILES
        live = slot < count
        group = tl.load(groups + b * CAP + slot, mask=live, other=0).to(tl.int64)
        rows = ((group // BLOCK_N) * TILES + i % TILES) * BLOCK_N + group % BLOCK_N
        live = _mask_at(mask, b, rows, live & (rows < N), stride_mb, stride_mn, MASK)
        score = row_scores(
            queries + b * stride_qb, items, rows, live, d, stride_qd, stride_xn, stride_xd,
            ROWS, PAD, FP8, WIDE,
        )  # fmt: skip
        key = hit_keys(score, rows, live & (score >= low))
        keep = (key != NO_KEY).to(tl.int32)
        start = tl.atomic_add(hit_count + b, tl.sum(keep, 0))
        at = start + tl.cumsum(keep, 0) - 1
        tl.store(hits + b * HIT_CAP + at, key, mask=(keep > 0) & (at < HIT_CAP))


@triton.jit
def _with_more(best, keys, count, WIDTH: tl.constexpr):
    """The best WIDTH, in order, of `best` (in order) and of the first `count` <= WIDTH keys."""
    i = tl.arange(0, WIDTH)
    more = tl.sort(tl.load(keys + i, mask=i < count, other=NO_KEY))
    return tl.bitonic_merge(tl.maximum(best, more), descending=True)


@triton.jit(do_not_specialize=["N", "k", "n_spans", "CAP", "HIT_CAP", "TILES"])
def finish(
    # inputs
    queries, items, mask, group_max, peaks, reaches, lows, group_count,
    # outputs
    hits, hit_count, scores, rows_out,
    # shapes
    N, k, d, n_spans,
    stride_qb, stride_qd, stride_xn, stride_xd, stride_mb, stride_mn, CAP, HIT_CAP, TILES,
    # constants
    PAD: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr, MASK: tl.constexpr,
    FP8: tl.constexpr, WIDE: tl.constexpr, GAMMA: tl.constexpr, WIDTH: tl.constexpr,
    DIRECT: tl.constexpr,
):  # fmt: skip
    """One program per query writes its best k: it sorts its hits, WIDTH >= k at a time.

    DIRECT (few items), and where the query's lists overflowed, it walks the items instead, ROWS
    groups of a span at a time, with the best WIDTH keys so far: all items, or only the groups that
    may still reach the k-th best. What ties decide is decided here, by whole keys. `hits` then holds
    the keys that wait, and behind them the best. WIDTH >= k and >= 2 * ROWS.
    """
    b = tl.program_id(0).to(tl.int64)
    hits += b * HIT_CAP
    limit = tl.full([], NO_KEY, tl.int64)  # a key must be above it
    reach = tl.full([], 0.0, tl.float32)
    if not DIRECT:
        if (tl.load(hit_count + b) <= HIT_CAP) & (tl.load(group_count + b) <= CAP):
            best = tl.full([WIDTH], NO_KEY, tl.int64)
            count = tl.load(hit_count + b)
            for start in range(0, count, WIDTH):
                best = _with_more(best, hits + start, count - start, WIDTH)
            write_best(best, scores, rows_out, b * k, k, WIDTH)
            return
        limit = tl.maximum(limit, (ordered_bits(tl.load(lows + b)).to(tl.int64) << 32) - 1)
        reach = tl.load(reaches + b)
    best_at = hits + WIDTH
    i = tl.arange(0, WIDTH)
    tl.store(best_at + i, tl.full([WIDTH], NO_KEY, tl.int64))
    waiting = tl.full([], 0, tl.int32)
    parts = n_spans * (BLOCK_N // ROWS)
    for part in range(0, parts + 1):  # the last, empty one merges what still waits
        span = part // (BLOCK_N // ROWS)
        place = part % (BLOCK_N // ROWS) * ROWS + tl.arange(0, ROWS)
        first = wide(span) * TILES * BLOCK_N
        inside = wide(span) < n_spans
        tiles = tl.where(inside, TILES, 1)
        peak = reach  # with GAMMA = 0 the error is 0 whatever the peak
        reachable = tl.full([ROWS], 1, tl.int1)
        if not DIRECT:
            if GAMMA > 0:
                peak = tl.load(peaks + span, mask=inside, other=0.0)
            at = (b * n_spans + span) * BLOCK_N + place
            maxima = tl.load(group_max + at, mask=first + place < N, other=-float("inf"))
            most = _upper(maxima, peak, reach, GAMMA)
            reachable = hit_keys(most, first + place, most > -float("inf")) > limit
            some = tl.sum(reachable.to(tl.int32), 0) > 0
            tiles = tl.where(some | (wide(span) >= n_spans), tiles, 0)
        for tile in range(0, tiles):
            rows = first + wide(tile) * BLOCK_N + place
            live = reachable & (rows < N)  # none in the last, empty span
            live = _mask_at(mask, b, rows, live, stride_mb, stride_mn, MASK)
            score = row_scores(
                queries + b * stride_qb, items, rows, live, d, stride_qd, stride_xn, stride_xd,
                ROWS, PAD, FP8, WIDE,
            )  # fmt: skip
            key = hit_keys(score, rows, live)
            keep = (key > limit).to(tl.int32)
            tl.store(hits + waiting + tl.cumsum(keep, 0) - 1, key, mask=keep > 0)
            waiting += tl.sum(keep, 0)
            if (waiting + ROWS > WIDTH) | (part == parts):
                tl.debug_barrier()  # the lists are read by other threads than wrote them
                merged = _with_more(tl.load(best_at + i), hits, waiting, WIDTH)
                limit = tl.maximum(limit, tl.max(tl.where(i == k - 1, merged, NO_KEY), 0))
                waiting = tl.full([], 0, tl.int32)
                tl.debug_barrier()
                tl.store(best_at + i, merged)
    tl.debug_barrier()
    write_best(tl.load(best_at + i), scores, rows_out, b * k, k, WIDTH)
