"""Launches the coarse search: maxima, selection, rescoring, sort.

No host synchronisation, no allocation that depends on values, the current stream throughout:
safe to capture in a CUDA graph. Memory beside inputs and outputs: 4 bytes per group and query
of one pass (at most 1 GiB, or one block of queries where that is more), and about 56 k + 512
bytes per query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from kernels._triton.device import (
    INTERPRETS,
    Layout,
    capability_of,
    on_device,
    take_workspace,
    unwritten,
)
from kernels._triton.launch import (
    MAX_REGISTERS,
    CoarseLaunch,
    chunk_dims,
    coarse_launch,
    power,
    rows_at_a_time,
)
from kernels._triton.maxima import dot_max, dot_max_long, span_peaks
from kernels._triton.selection import finish, rescore, select_groups
from kernels.topk import TopK, no_hits

__all__ = ["coarse_topk", "error_factor"]

MANY_QUERIES = 128  # as many programs, one a query, fill a GPU with few warps each


@dataclass(frozen=True)
class _Sizes:
    """What the kernels are told beside the inputs."""

    k: int
    n_spans: int
    cap: int  # groups (or bundles) a query's list holds
    hit_cap: int  # keys a query's list holds
    width: int  # keys that are sorted at a time


@lru_cache(maxsize=256)
def _sizes(launch: CoarseLaunch, count: int, k: int, dtype: torch.dtype) -> _Sizes:
    width = max(power(k), 2 * launch.block_n)
    n_spans = -(-count // (launch.block_n * launch.tiles))
    cap = 4 * k + 128 if dtype == torch.float32 else 2 * k + 64  # tf32 leaves more in doubt
    return _Sizes(k, n_spans, cap, 2 * width, width)


@lru_cache(maxsize=256)
def _layout(launch: CoarseLaunch, sizes: _Sizes) -> Layout:
    """The buffers of one pass."""
    part, spans, int32, float32 = launch.part, sizes.n_spans, torch.int32, torch.float32
    hits = (part * sizes.hit_cap, torch.int64)
    if launch.direct:
        return Layout.of(hits=hits)
    return Layout.of(
        hits=hits,
        group_max=(part * spans * launch.block_n, float32),
        bundle_max=(part * spans * launch.block_n // launch.bundle, float32),
        peaks=(spans, float32),
        reaches=(part, float32),
        lows=(part, float32),
        bundles=(part * sizes.cap, int32),
        groups=(part * sizes.cap, int32),
        group_count=(part, int32),
        hit_count=(part, int32),
    )


def error_factor(d: int, dtype: torch.dtype) -> float:
    """GAMMA: |fast - exact score| <= GAMMA * sum|q| * max|x|; derived in docs/decisions/0003."""
    if dtype == torch.int8:
        return 0.0
    rounding = 2.0 * (d + 32) * 2.0**-23
    return rounding + (2.05e-3 if dtype == torch.float32 else 0.0)  # tf32: 2 x 2^-10 a product


def _factor(dtype: torch.dtype) -> tl.dtype:
    """What the fast product multiplies: float8 goes as float16, which holds it exactly, because
    Hopper's float8 product keeps too few bits; the interpreter has no bfloat16 product."""
    if dtype == torch.bfloat16:
        return tl.float32 if INTERPRETS else tl.bfloat16
    return {
        torch.float32: tl.float32,
        torch.float16: tl.float16,
        torch.float8_e4m3fn: tl.float16,
        torch.int8: tl.int8,
    }[dtype]


def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    max_norm: float | None = None,
    launch: CoarseLaunch | None = None,
) -> TopK:
    """The Triton version of `kernels.coarse.coarse_topk`; `launch` is for tests and tuning."""
    batch, (count, d) = queries.shape[0], items.shape
    if batch == 0 or count == 0:
        return no_hits(batch, k, queries.device)
    launch = launch or coarse_launch(
        capability_of(queries), batch, count, d, k, items.dtype, masked=mask is not None
    )
    sizes = _sizes(launch, count, k, items.dtype)
    out = unwritten(batch, k, queries.device)
    buffers = take_workspace(_layout(launch, sizes), queries.device)
    with on_device(queries):
        for start in range(0, batch, launch.part):
            part = slice(start, start + launch.part)
            shown = mask[part] if mask is not None and mask.ndim == 2 else mask
            best = TopK(out.scores[part], out.rows[part])
            _search_part(queries[part], items, shown, best, buffers, launch, sizes, max_norm)
    return out


def _search_part(
    queries: Tensor,
    items: Tensor,
    mask: Tensor | None,
    out: TopK,
    buffers: dict[str, Tensor],
    launch: CoarseLaunch,
    sizes: _Sizes,
    max_norm: float | None,
) -> None:
    """One pass over the items for at most launch.part queries, which share one mask shape."""
    batch, (count, d), dtype = queries.shape[0], items.shape, items.dtype
    fp8, integer = dtype == torch.float8_e4m3fn, dtype == torch.int8
    if fp8:
        queries, items = queries.view(torch.uint8), items.view(torch.uint8)
    flags, mode, mask_strides = items, 0, (0, 0)  # without a mask the pointer is not read
    if mask is not None:
        flags, mode = mask.view(torch.uint8), mask.ndim
        mask_strides = (mask.stride(0) if mode == 2 else 0, mask.stride(-1))
    strides = (*queries.stride(), *items.stride(), *mask_strides)
    exact: dict[str, Any] = {
        "PAD": max(power(d), 64), "BLOCK_N": launch.block_n, "MASK": mode,
        "FP8": fp8, "WIDE": tl.int32 if integer else tl.float32, "enable_fp_fusion": False,
    }  # fmt: skip
    gamma, direct, rows = error_factor(d, dtype), launch.direct, rows_at_a_time(d)
    at = {name: buffers.get(name, buffers["hits"]) for name in _NAMES}  # unused where direct
    if not direct:
        pad, chunk = max(power(d), 32 if integer or fp8 else 16), chunk_dims(d, dtype.itemsize)
        blocks = -(-batch // launch.block_b)
        peaks = not integer and max_norm is None
        registers = MAX_REGISTERS if peaks or fp8 else launch.registers
        given = (
            queries, items, flags, at["group_max"], at["bundle_max"], at["peaks"],
            batch, count, d, sizes.n_spans, launch.tiles, 1.02 * (max_norm or 0.0), *strides,
        )  # fmt: skip
        constants: dict[str, Any] = {
            "BLOCK_B": launch.block_b, "BLOCK_N": launch.block_n, "BUNDLE": launch.bundle,
            "MASK": mode, "FP8": fp8, "INTEGER": integer, "FACTOR": _factor(dtype),
            "STAGES": launch.stages, "PEAKS": peaks,
            "num_warps": launch.warps, "maxnreg": registers, "enable_fp_fusion": True,
        }  # fmt: skip
        if chunk and peaks:
            span_peaks[(sizes.n_spans,)](
                items, at["peaks"], count, d, launch.tiles, *items.stride(),
                CHUNK=chunk, BLOCK_N=launch.block_n, FP8=fp8, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
        if chunk:
            dot_max_long[(sizes.n_spans * blocks,)](*given, CHUNK=chunk, **constants)
        else:
            dot_max[(sizes.n_spans * blocks,)](*given, PAD=pad, FULL_D=pad == d, **constants)
        warps = 4 if batch >= MANY_QUERIES else 8
        select_groups[(batch,)](
            queries, at["group_max"], at["bundle_max"], at["peaks"], at["reaches"], at["lows"],
            at["bundles"], at["groups"], at["group_count"], at["hit_count"],
            sizes.k, d, sizes.n_spans, *queries.stride(), sizes.cap,
            PAD=exact["PAD"], BLOCK_N=launch.block_n, BUNDLE=launch.bundle, FP8=fp8, GAMMA=gamma,
            NORM=max_norm is not None, BLOCK=256 * warps, num_warps=warps, maxnreg=MAX_REGISTERS,
            enable_fp_fusion=False,
        )  # fmt: skip
        together = max(rows, launch.tiles)
        parts = -(-(sizes.k + sizes.k // 4) * launch.tiles // together)  # a few more than k groups
        rescore[(parts, batch)](
            queries, items, flags, at["lows"], at["groups"], at["group_count"],
            at["hits"], at["hit_count"], count, d, *strides, sizes.cap, sizes.hit_cap, launch.tiles,
            ROWS=together, num_warps=4 if exact["PAD"] < 128 else 8, maxnreg=MAX_REGISTERS, **exact,
        )  # fmt: skip
    finish[(batch,)](
        queries, items, flags, at["group_max"], at["peaks"], at["reaches"],
        at["lows"], at["group_count"], at["hits"], at["hit_count"], out.scores, out.rows,
        count, sizes.k, d, sizes.n_spans, *strides, sizes.cap, sizes.hit_cap, launch.tiles,
        ROWS=min(rows, launch.block_n), GAMMA=gamma, WIDTH=sizes.width, DIRECT=direct, num_warps=8,
        maxnreg=MAX_REGISTERS, **exact,
    )  # fmt: skip


_NAMES = ("hits", "group_max", "bundle_max", "peaks", "reaches", "lows", "bundles", "groups",
          "group_count", "hit_count")  # fmt: skip
