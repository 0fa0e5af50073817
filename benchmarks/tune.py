"""Writes the launch table from timings on this GPU: `python -m benchmarks.tune`.

For each batch class, padded width and dtype, the blocks that make `coarse_topk` quickest at
N = 4,000,000, k = 128. Every choice gives the same bits, so only time is compared; one that does
not fit the device is passed over. Rows of other GPUs in the table are kept.
"""

from __future__ import annotations

import argparse
import itertools
import pprint
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import units
from benchmarks.timing import milliseconds
from kernels._triton import launch_table
from kernels._triton.launch import (
    MAX_REGISTERS,
    SHARED_BYTES,
    CoarseLaunch,
    coarse_launch,
    shape_class,
)

__all__ = ["choices", "main", "written"]

BATCHES = (16, 64, 256)  # one of each class
WIDTHS = (32, 64, 128, 256)
DTYPES = (torch.float16, torch.int8, torch.float32)
Key = tuple[tuple[int, int], str, int, int]
Blocks = tuple[int, int, int, int, int]


def choices(capability: tuple[int, int], batch: int, pad: int, itemsize: int) -> Iterator[Blocks]:
    """(block_b, block_n, warps, stages, registers) worth a try: they fit shared memory and registers."""
    shared = SHARED_BYTES.get(capability, 99) * 1024
    for block_b, block_n, warps, stages in itertools.product(
        (16, 32, 64, 128, 256), (32, 64, 128, 256), (4, 8), (2, 3, 4, 5)
    ):
        held = 2 * block_b * block_n / (32 * warps)  # registers: the product and the maxima
        fits = pad * itemsize * (block_b + stages * block_n) <= shared - 4096
        sensible = block_b <= max(16, 2 * batch) and 8 <= held <= 160
        if fits and sensible and block_b * block_n >= 1024:
            # As many programs on a multiprocessor share its registers.
            for registers in {65536 // (32 * warps * programs) // 8 * 8 for programs in (2, 3, 4)}:
                if registers >= held:
                    yield block_b, block_n, warps, stages, min(registers, MAX_REGISTERS)


def written(table: dict[Key, Blocks]) -> str:
    """The source of `launch_table.py` that holds the table."""
    head = Path(launch_table.__file__).read_text().rsplit("TABLE: ", 1)[0]
    body = pprint.pformat(dict(sorted(table.items(), key=repr)), width=96, sort_dicts=False)
    return f"{head}TABLE: dict[tuple[tuple[int, int], str, int, int], tuple[int, int, int, int, int]] = {body}\n"


def best_blocks(
    base: CoarseLaunch, tried: list[Blocks], time_of: Callable[[CoarseLaunch], float]
) -> Blocks | None:
    """The quickest of `tried`, or None where none ran."""
    times: dict[Blocks, float] = {}
    for blocks in tried:
        block_b, block_n, warps, stages, registers = blocks
        span = base.block_n * base.tiles  # keep the span's size, and so the selection's work
        launch = replace(base, block_b=block_b, block_n=block_n, warps=warps, stages=stages, registers=registers,
                         bundle=min(base.bundle, block_n), tiles=max(span // block_n, 2))  # fmt: skip
        try:
            times[blocks] = time_of(launch)
        except (RuntimeError, ValueError) as error:  # Triton: out of resources
            print(f"  {blocks}: {type(error).__name__}", file=sys.stderr)
    return min(times, key=lambda blocks: times[blocks]) if times else None


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune")
    parser.add_argument("--out", type=Path, default=Path(launch_table.__file__))
    parser.add_argument("--count", type=int, default=4_000_000, help="items")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to tune on", file=sys.stderr)
        return 2
    from kernels._triton import coarse

    device, capability = torch.device("cuda"), torch.cuda.get_device_capability()
    table: dict[Key, Blocks] = dict(launch_table.TABLE)
    for dtype, width in itertools.product(DTYPES, WIDTHS):
        items = (units(options.count, width, device, 0) * (127 if dtype == torch.int8 else 1)).to(
            dtype
        )
        for batch in BATCHES:
            queries = items[:batch].clone()
            size, pad, itemsize = shape_class(batch, width, dtype)
            base = coarse_launch(capability, batch, options.count, width, 128, dtype)

            def time_of(launch: CoarseLaunch, queries: Any = queries, items: Any = items) -> float:
                def search() -> None:
                    coarse.coarse_topk(queries, items, 128, None, max_norm=1.01, launch=launch)

                return statistics.median(milliseconds(search, device, 1.0))

            found = best_blocks(base, list(choices(capability, batch, pad, itemsize)), time_of)
            if found is not None:
                table[(capability, size, pad, itemsize)] = found
                print(capability, size, pad, dtype, found, flush=True)
                options.out.write_text(written(table))  # what is tuned so far is kept
    return 0


if __name__ == "__main__":
    sys.exit(main())
