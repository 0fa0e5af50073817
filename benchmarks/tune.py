"""Writes the launch table from timings on this GPU: `python -m benchmarks.tune`.

For each batch class, padded width and dtype, the blocks that make `coarse_topk` quickest at N = 4,000,000, k = 128,
all of them compiled beforehand, side by side. Every choice gives the same bits, so only time is compared; one that
does not fit the device is passed over. Other rows of the table are kept. 351
kernels took 27 s to compile on 16 cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import kernel_audit
from benchmarks.timing import milliseconds
from benchmarks.units import units
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
K = 128
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
    """The source of `launch_table.py` that holds the table, a row a line."""
    head = Path(launch_table.__file__).read_text().partition(" = {\n")[0]
    rows = (f"    {key}: {blocks},\n".replace("'", '"') for key, blocks in table.items())
    return f"{head} = {{\n{''.join(rows)}}}\n"


def with_blocks(base: CoarseLaunch, blocks: Blocks) -> CoarseLaunch:
    """The launch with other blocks: its spans keep their size, and so the selection's work."""
    block_b, block_n, warps, stages, registers = blocks
    span = base.block_n * base.tiles
    return replace(base, block_b=block_b, block_n=block_n, warps=warps, stages=stages, registers=registers,
                   bundle=min(base.bundle, block_n), tiles=max(span // block_n, 2))  # fmt: skip


def best_blocks(
    base: CoarseLaunch, tried: list[Blocks], time_of: Callable[[CoarseLaunch], float]
) -> Blocks | None:
    """The quickest of `tried`, or None where none ran."""
    from triton.errors import TritonError

    times: dict[Blocks, float] = {}
    for blocks in tried:
        try:
            times[blocks] = time_of(with_blocks(base, blocks))
        except (TritonError, RuntimeError, ValueError) as error:  # out of resources
            print(f"  {blocks}: {type(error).__name__}", file=sys.stderr)
    return min(times, key=lambda blocks: times[blocks]) if times else None


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune")
    parser.add_argument("--out", type=Path, default=Path(launch_table.__file__))
    parser.add_argument("--count", type=int, default=4_000_000, help="items")
    parser.add_argument("--width", type=int, choices=WIDTHS, help="only vectors of so many dims")
    parser.add_argument(
        "--dtype", choices=[str(d).removeprefix("torch.") for d in DTYPES], help="only this one"
    )
    options = parser.parse_args(arguments)  # fmt: skip
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to tune on", file=sys.stderr)
        return 2
    table: dict[Key, Blocks] = dict(launch_table.TABLE)
    for dtype, width in itertools.product(DTYPES, WIDTHS):
        if options.width in (None, width) and options.dtype in (
            None,
            str(dtype).removeprefix("torch."),
        ):
            for key, found in tuned(dtype, width, options.count):
                table[key] = found
                print(*key, dtype, found, flush=True)
                options.out.write_text(written(table))  # what is tuned so far is kept
    return 0


def tuned(dtype: torch.dtype, width: int, count: int) -> Iterator[tuple[Key, Blocks]]:
    """The quickest blocks of each batch class on the GPU that is there."""
    from kernels._triton import coarse

    device, capability = torch.device("cuda"), torch.cuda.get_device_capability()
    scale = 127 if dtype == torch.int8 else 1
    items = (units(count, width, dtype=torch.float16, device=device, seed=0) * scale).to(dtype)
    for batch in BATCHES:
        queries = items[:batch].clone()
        size, pad, itemsize = shape_class(batch, width, dtype)
        base = coarse_launch(capability, batch, count, width, K, dtype)
        tried = list(choices(capability, batch, pad, itemsize))

        def search(launch: CoarseLaunch, given: tuple[Tensor, Tensor] = (queries, items)) -> None:
            coarse.coarse_topk(*given, K, None, max_norm=1.01, launch=launch)

        def time_of(launch: CoarseLaunch, search: Callable[[CoarseLaunch], None] = search) -> float:
            return statistics.median(milliseconds(lambda: search(launch), device, 1.0))

        meta = queries.to("meta"), items.to("meta")
        case = kernel_audit.Case("coarse", batch, count, width, K)
        compiled = [
            found
            for blocks in tried
            for found in kernel_audit.launches_of(partial(search, with_blocks(base, blocks), meta), case, dtype)
        ]  # fmt: skip
        # What does not compile is passed over below.
        kernel_audit.compile_all(compiled, capability, workers=os.cpu_count() or 1)
        found = best_blocks(base, tried, time_of)
        if found is not None:
            yield (capability, size, pad, itemsize), found


if __name__ == "__main__":
    sys.exit(main())
