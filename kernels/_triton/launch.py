"""How a search is cut into programs: a pure function of its shape. Nothing here changes a result.

`coarse_launch` reads `launch_table.py`, which `python -m benchmarks.tune` writes. A GPU that has no row there takes
the H200's, made to fit. No Triton is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from kernels._triton.launch_table import TABLE

__all__ = ["INTERPRETED", "MAX_REGISTERS", "CoarseLaunch", "RerankLaunch", "chunk_dims", "coarse_launch",
           "power", "rerank_launch", "rows_at_a_time", "shape_class", "sort_warps"]  # fmt: skip

HELD_D = 256  # longer vectors leave no room to pipeline tiles of whole ones: `dot_max_long`
MAX_REGISTERS = 240  # a thread; left to itself ptxas stops at 64 or 128 and spills a few instead
TUNED = (9, 0)  # the GPU of which the table has every row
INTERPRETED = (0, 0)  # the "capability" of the interpreter: no limits, small blocks
FEW_PROGRAMS = 128  # would leave a GPU's multiprocessors idle
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
    bundle: int  # neighbouring groups that share a maximum; 1: the selection needs none
    part: int  # queries per pass
    registers: int = MAX_REGISTERS  # a thread of `dot_max`: fewer, so that more programs fit


@dataclass(frozen=True)
class RerankLaunch:
    """One launch of the rerank: candidates per program, and its warps."""

    rows: int
    warps: int


def power(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def chunk_dims(d: int, itemsize: int) -> int:
    """Dims that `dot_max_long` multiplies at a time, 128 bytes of them; 0: `dot_max` takes all d at once."""
    return 128 // itemsize if d > HELD_D else 0


def rows_at_a_time(d: int) -> int:
    """Rows that one program of `rescore`, or of `finish` where it walks, scores at a time: what registers hold."""
    pad = power(d)
    return min(128, max((32768 if pad <= 1024 else 16384) // pad, 1))


def sort_warps(width: int) -> int:
    """Warps of a kernel that sorts `width` 64-bit keys: at best 2 keys a thread (H200).

    A sort is unrolled, so its code, and the time to compile it, grow with the keys of a thread.
    """
    return min(max(width // 64, 4), 16)


def shape_class(batch: int, d: int, dtype: torch.dtype) -> tuple[str, int, int]:
    """The row of the launch table: batch class, padded dims (longer vectors share one row), bytes per entry."""
    size = "small" if batch <= 16 else "middle" if batch <= 128 else "large"
    return size, min(max(power(d), 32), 2 * HELD_D), dtype.itemsize


def _blocks(
    capability: tuple[int, int], size: str, pad: int, itemsize: int
) -> tuple[int, int, int, int, int]:
    """(block_b, block_n, warps, stages, registers) that fit the registers and the shared memory."""
    if capability == INTERPRETED:
        return 16 if size == "small" else 32, 16, 4, 1, MAX_REGISTERS
    found = TABLE.get((capability, size, pad, itemsize))
    if found is not None:
        return found
    block_b, block_n, warps, stages, _ = TABLE[(TUNED, size, pad, itemsize)]
    chunk = chunk_dims(pad, itemsize)
    budget = SHARED_BYTES.get(capability, 99) * 1024 - 4096

    def needed() -> int:  # the queries, the pipeline of item tiles, the maxima on their way out
        if chunk:
            return chunk * itemsize * stages * (block_b + block_n)
        return pad * itemsize * (block_b + stages * block_n) + 4 * block_b

    while needed() > budget and stages > 2:
        stages -= 1
    while needed() > budget and block_n > 32:
        block_n //= 2
    while needed() > budget and block_b > 16:
        block_b = max(block_b // 2, 16)
    return block_b, block_n, warps, stages, MAX_REGISTERS  # the product holds more of them here


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
    block_b, block_n, warps, stages, registers = _blocks(capability, size, pad, itemsize)
    if count < 8 * k or count <= 4 * block_n:  # too few groups to leave any out
        block_n = 16 if capability == INTERPRETED else 128
        return CoarseLaunch(True, 1, block_n, 1, 4, 1, 1, batch)
    if size == "large" and (masked or (pad != d and d <= HELD_D)):  # masks take registers
        block_b, registers = max(block_b // 2, 16), MAX_REGISTERS
    if masked:
        block_n = max(block_n // 2, 16)
    # A group of T items costs 4 / T bytes an item to write and as many to read, and k groups of T rows
    # to rescore, whose bytes count more, scattered as they are: 3 by measurement on an H200.
    tiles = min(max(_nearest_power((3 * count / (k * d * itemsize)) ** 0.5), 2), rows_at_a_time(d))
    while tiles > 2 and count < 4 * k * tiles:  # at least 4 k groups
        tiles //= 2
    spans = -(-count // (block_n * tiles))
    bundle = _bundle(spans * block_n, k, block_n)
    fit = MAXIMA_BYTES // (4 * spans * (block_n + block_n // bundle)) // block_b
    part = min(max(fit, 1) * block_b, batch, 32768)
    return CoarseLaunch(False, block_b, block_n, tiles, warps, stages, bundle, part, registers)


def _nearest_power(value: float) -> int:
    """The power of two nearest to it in proportion."""
    return 1 << max(round(math.log2(value)), 0) if value > 0 else 1


def _bundle(groups: int, k: int, block_n: int) -> int:
    """Groups of a bundle: five passes over the bundles against one over the groups of k of them, which is
    slower than one of the five (4 by measurement on an H200)."""
    bundle = min(_nearest_power((4 * groups / k) ** 0.5), block_n)
    while bundle > 1 and groups < 2 * k * bundle:
        bundle //= 2
    return bundle if bundle > 2 else 1


@lru_cache(maxsize=256)
def rerank_launch(
    capability: tuple[int, int], batch: int, candidates: int, d: int, dtype: torch.dtype
) -> RerankLaunch:
    """The launch for `batch` queries with `candidates` rows each of `d` entries."""
    if capability == INTERPRETED:
        return RerankLaunch(16, 4)
    rows = max(min(65536 // (max(power(d), 64) * dtype.itemsize), 64), 4)
    while rows > 8 and batch * candidates < FEW_PROGRAMS * rows:
        rows //= 2
    return RerankLaunch(rows, min(max(rows // 4, 2), 8))
