"""How a search is cut into programs: a pure function of its shape. Nothing here changes a result.

`coarse_launch` reads `launch_table.py`, which `python -m benchmarks.tune` writes; where no
tuning has run, the defaults below hold. No Triton is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from kernels._triton.launch_table import TABLE

__all__ = ["INTERPRETED", "MAX_K", "MAX_REGISTERS", "CoarseLaunch", "RerankLaunch", "coarse_launch", "max_registers",
           "power", "rerank_launch", "shape_class", "sort_warps"]  # fmt: skip

MAX_K = 4096
MAX_REGISTERS = 240  # a thread; left to itself ptxas stops at 64 or 128 and spills a few instead
INTERPRETED = (0, 0)  # the "capability" of the interpreter: no limits, small blocks
MAXIMA_BYTES = 1 << 30  # group maxima held at a time; larger batches go in parts
SHARED_BYTES = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}


@dataclass(frozen=True)
class CoarseLaunch:
    """One launch of the coarse search. A group is `tiles` items, a span block_n groups."""

    direct: bool  # few items: `finish` scans them all, no group maxima
    block_b: int  # queries per program of `dot_max`
    block_n: int  # items per tile
    tiles: int  # tiles per span = items per group
    warps: int
    stages: int
    nested: bool  # select spans first, then groups within them
    part: int  # queries per pass


@dataclass(frozen=True)
class RerankLaunch:
    """One launch of the rerank: candidates per program, and whether one kernel does it all."""

    rows: int
    fused: bool
    warps: int


def power(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def sort_warps(width: int) -> int:
    """Warps of a kernel that sorts `width` 64-bit keys: enough that they stay in registers.

    A sort is unrolled, so its code, and the time to compile it, grow with the keys of a thread:
    4,096 keys compile in 18 s with 16 warps and in 47 s with 8 (2 shared cores).
    """
    return 4 if width <= 1024 else 8 if width <= 2048 else 16


def max_registers(warps: int) -> int:
    """MAX_REGISTERS, or what the multiprocessor's 65,536 allow so many warps."""
    return min(MAX_REGISTERS, 2048 // warps)


def shape_class(batch: int, d: int, dtype: torch.dtype) -> tuple[str, int, int]:
    """The row of the launch table: batch class, padded dims, bytes per entry."""
    size = "small" if batch <= 16 else "middle" if batch <= 128 else "large"
    return size, max(power(d), 32), dtype.itemsize


def _default_blocks(
    capability: tuple[int, int], size: str, pad: int, itemsize: int
) -> tuple[int, int, int, int]:
    """(block_b, block_n, warps, stages) that fit the registers and the shared memory."""
    if capability == INTERPRETED:
        return 16 if size == "small" else 32, 16, 4, 1
    # 256 queries a program: fewer programs read the same items, which L2 would not keep up with.
    block_b = {"small": 16, "middle": 64, "large": 256 if itemsize < 4 else 128}[size]
    block_n, warps, stages = (64, 8, 4) if size == "large" else (128, 4, 4)
    budget = SHARED_BYTES.get(capability, 99) * 1024 - 4096
    if size == "large":  # leave room for a second program on the multiprocessor
        budget = budget // 2 if pad * itemsize <= 256 else budget

    def needed() -> int:  # the queries, the pipeline of item tiles, the maxima on their way out
        return pad * itemsize * (block_b + stages * block_n) + 4 * block_b

    while needed() > budget and stages > 2:
        stages -= 1
    while needed() > budget and block_n > 32:
        block_n //= 2
    while needed() > budget and block_b > 16:
        block_b = max(block_b // 2, 16)
    return block_b, block_n, warps, stages


@lru_cache(maxsize=256)
def coarse_launch(
    capability: tuple[int, int],
    batch: int,
    count: int,
    d: int,
    k: int,
    dtype: torch.dtype,
    *,
    masked: bool = False,
) -> CoarseLaunch:
    """The launch for `batch` queries over `count` items of `d` entries and k results."""
    size, pad, itemsize = shape_class(batch, d, dtype)
    blocks = TABLE.get((capability, size, pad, itemsize))
    block_b, block_n, warps, stages = blocks or _default_blocks(capability, size, pad, itemsize)
    if count < 8 * k or count <= 4 * block_n:  # too few groups to leave any out
        block_n = 16 if capability == INTERPRETED else 128
        return CoarseLaunch(True, 1, block_n, 1, 4, 1, False, batch)
    if size == "large" and (masked or pad != d):  # masks take registers
        block_b = max(block_b // 2, 16)
    if masked:
        block_n = max(block_n // 2, 16)
    # A group of T items costs 4 / T bytes an item to write, and k groups of T rows to rescore.
    balance = int((4 * count / (k * d * itemsize)) ** 0.5)
    tiles = min(max(power(balance), 2), 128)
    while tiles > 2 and count < 4 * k * tiles:  # at least 4 k groups
        tiles //= 2
    spans = -(-count // (block_n * tiles))
    fit = MAXIMA_BYTES // (4 * spans * (block_n + 1)) // block_b
    part = min(max(fit, 1) * block_b, batch, 32768)
    nested = spans >= 2 * k
    return CoarseLaunch(False, block_b, block_n, tiles, warps, stages, nested, part)


@lru_cache(maxsize=256)
def rerank_launch(
    capability: tuple[int, int], batch: int, candidates: int, d: int, dtype: torch.dtype
) -> RerankLaunch:
    """The launch for `batch` queries with `candidates` rows each of `d` entries."""
    pad = max(power(d), 64)
    rows = max(min(16384 // (pad * dtype.itemsize), 64), 4)
    if capability == INTERPRETED:
        return RerankLaunch(16, batch >= 4, 4)
    # One program per query fills the device only when there are queries enough.
    fused = batch >= 256 or candidates <= rows
    fused = fused and candidates <= MAX_K
    return RerankLaunch(rows, fused, 8 if fused or pad > 1024 else 4)
