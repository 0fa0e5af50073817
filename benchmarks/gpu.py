"""What a GPU does, in one run: `python -m benchmarks.gpu --out DIR`. Writes DIR/<device>-<date>-<commit>.json.

    ceilings     a large copy, a large product
    cases        both ops beside their peers: milliseconds, share of the ceilings, microseconds of each kernel
    search       the whole search, vectors in and the best k out, beside its peers: benchmarks/gpu_search.py
    encoders     both towers of two checkpoints in every runtime: benchmarks/encoders.py
    wrong        what was found to be wrong. Each of our results is checked and only then timed: where one check
                 fails no figure is reported of anything, and the exit code is 1
    not_reached  what was left out: each section has its seconds, and takes its cases in order of interest

`--dry-run` does all of it on tiny sizes; without a GPU, TRITON_INTERPRET=1 must be set. Its figures mean nothing
and are marked so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_search, kernel_audit
from benchmarks.machine import about
from benchmarks.peers import COARSE_PEERS, RERANK_PEERS, outcome
from benchmarks.timing import ceilings, milliseconds, percentiles, replayed
from benchmarks.units import units
from kernels import TopK, available_backends, coarse_topk, rerank_topk
from kernels.score import score_pairs

__all__ = ["main"]

SECONDS = (150.0, 120.0, 60.0)  # of kernels, search and encoders: with the tests, under 9 minutes
PEER_LIMIT_S = 2.0  # a peer that takes longer for one call is called once


@dataclass(frozen=True)
class Shape:
    """One search. For "rerank" count is C and d is D."""

    op: str
    batch: int
    count: int
    d: int
    k: int


def shapes(dry: bool) -> list[Shape]:
    """Every shape of the report, those with targets first."""
    if dry:
        return [Shape("coarse", 1, 300, 16, 10), Shape("coarse", 17, 100, 16, 3),
                Shape("rerank", 2, 16, 64, 4)]  # fmt: skip
    coarse = [
        Shape("coarse", batch, count, d, k)
        for count, d, k, batch in itertools.product(
            (10_000_000, 1_000_000, 100_000), (64, 32, 128), (128, 1024, 10), (1, 256, 16, 2048)
        )
    ]
    rerank = [
        Shape("rerank", batch, count, d, 10)
        for count, d, batch in itertools.product((128, 1024), (512, 768), (1, 16, 256, 2048))
    ]
    first = [shape for shape in coarse if shape.count > 100_000 and (shape.d, shape.k) == (64, 128)]
    return [*first, *rerank, *(shape for shape in coarse if shape not in first)]


# ------------------------------------------------------------------ one shape


def fault(found: TopK, queries: Tensor, items: Tensor, k: int) -> str:
    """Why a coarse result cannot be right, or "": checked against the chunked product.

    The scores must be the bits of the fixed order, the order that of the tie rule, and no score
    of the float32 product may beat the last by more than its rounding.
    """
    kept = found.rows[:, : min(k, len(items))]
    if bool((kept < 0).any()) or bool((kept >= len(items)).any()):
        return "rows outside 0 ... N - 1"
    for b in range(0, len(queries), max(len(queries) // 8, 1)):
        again = score_pairs(queries[b], items[kept[b]])
        if not torch.equal(again, found.scores[b, : kept.shape[1]]):
            return f"query {b}: scores are not those of the rows"
        falls = (again[:-1] > again[1:]) | (
            (again[:-1] == again[1:]) & (kept[b, :-1] < kept[b, 1:])
        )
        if not bool(falls.all()):
            return f"query {b}: not in order"
        better = torch.zeros((), dtype=torch.int64, device=items.device)
        for start in range(0, len(items), 1 << 21):
            scores = items[start : start + (1 << 21)].float() @ queries[b].float()
            better += (scores > again[-1] + 1e-5).sum()
        if int(better) > kept.shape[1]:
            return f"query {b}: {int(better)} items beat the last of {kept.shape[1]}"
    return ""


@dataclass(frozen=True)
class Inputs:
    """The tensors of one shape."""

    queries: Tensor
    items: Tensor
    candidates: Tensor | None


def prepare(shape: Shape, items: Tensor) -> Inputs:
    """Queries near some of the items, and candidates."""
    device = items.device
    queries = units(shape.batch, shape.d, dtype=torch.float16, device=device, seed=1)
    candidates = None
    if shape.op == "rerank":
        generator = torch.Generator(device=device).manual_seed(2)
        size = (shape.batch, shape.count)
        candidates = torch.randint(0, len(items), size, generator=generator, device=device)
    return Inputs(queries, items, candidates)


def ours(shape: Shape, given: Inputs) -> Callable[[], TopK]:
    """Our search on the prepared inputs, with the promise that `Retriever` gives: no item is longer than so."""
    queries, items, k = given.queries, given.items, shape.k
    if given.candidates is None:
        return lambda: coarse_topk(queries, items, k, max_norm=1.01, backend="triton")
    rows = given.candidates
    return lambda: rerank_topk(queries, items, rows, k, backend="triton")


def check(shape: Shape, given: Inputs) -> str:
    """Why our result is wrong, or ""."""
    found = ours(shape, given)()
    if given.candidates is None:
        return fault(found, given.queries, given.items, shape.k)
    expected = rerank_topk(given.queries, given.items, given.candidates, shape.k, backend="torch")
    same = torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)
    return "" if same else "not the bits of the PyTorch version"


def floor_ms(shape: Shape, ceiling: dict[str, float]) -> float:
    """The least time that the measured ceilings allow."""
    gathered = shape.batch if shape.op == "rerank" else 1
    moved = 2.0 * gathered * shape.count * shape.d
    flops = 2.0 * shape.batch * shape.count * shape.d
    least = moved / ceiling["copy_bytes_s"]
    if shape.op == "coarse":
        least = max(least, flops / ceiling["product_flops"])
    return least * 1e3


def measure(shape: Shape, given: Inputs, ceiling: dict[str, float]) -> dict[str, Any]:
    """Times of ours, called, and replayed from a graph."""
    device = given.items.device
    search = ours(shape, given)
    report: dict[str, Any] = {"shape": asdict(shape), "floor_ms": floor_ms(shape, ceiling)}
    report["ours"] = percentiles(milliseconds(search, device, PEER_LIMIT_S))
    report["ours, graph"] = report["ours"]
    if device.type == "cuda":
        replay = replayed(search)
        report["ours, graph"] = percentiles(milliseconds(replay, device, PEER_LIMIT_S))
        report["kernels_us"] = kernel_times(search)
    best = report["ours, graph"]["p50"] / 1e3
    read = 2.0 * shape.count * shape.d * (shape.batch if shape.op == "rerank" else 1)
    report["bytes_s"] = read / best
    report["flops"] = 2.0 * shape.batch * shape.count * shape.d / best
    report["share_of_copy"] = report["bytes_s"] / ceiling["copy_bytes_s"]
    report["share_of_product"] = report["flops"] / ceiling["product_flops"]
    report["times_floor"] = best * 1e3 / report["floor_ms"]
    report["peers"] = {}
    return report


def kernel_times(search: Callable[[], object], rounds: int = 5) -> dict[str, float]:
    """Microseconds of each kernel in one search, by its name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(rounds):
            search()
        torch.cuda.synchronize()
    return {
        event.key: event.device_time_total / rounds
        for event in profiled.key_averages()
        if event.device_time_total
    }


def _peer(build: Callable[..., Callable[[], Any]], shape: Shape, given: Inputs) -> dict[str, Any]:
    """The peer's times; raises whatever it raises."""
    extra = () if given.candidates is None else (given.candidates,)
    search = build(given.queries, given.items, *extra, shape.k)
    return percentiles(milliseconds(search, given.items.device, PEER_LIMIT_S))


# ------------------------------------------------------------------ the run


def precompile(todo: list[Shape], capability: tuple[int, int], workers: int) -> int:
    """Compiles what the shapes will launch, side by side, into Triton's cache; returns how many."""
    found: dict[kernel_audit.Launch, None] = {}
    for shape in todo:
        case = kernel_audit.Case(shape.op, shape.batch, shape.count, shape.d, shape.k)
        found.update(dict.fromkeys(kernel_audit.case_launches(case, capability, torch.float16)))
    for failed in kernel_audit.compile_all(found, capability, workers):
        print(f"not compiled: {failed}", file=sys.stderr)
    return len(found)


def corpora(todo: list[Shape], device: torch.device) -> Iterator[tuple[Shape, Tensor]]:
    """Each shape with its items; one corpus is held at a time."""
    held: tuple[tuple[int, int], Tensor] | None = None
    for shape in todo:
        count = shape.count if shape.op == "coarse" else 1_000_000 if shape.count >= 128 else 100
        if held is None or held[0] != (count, shape.d):
            held = None
            held = (
                (count, shape.d),
                units(count, shape.d, dtype=torch.float16, device=device, seed=0),
            )
        yield shape, held[1]


def line(report: dict[str, Any], peer: str | None = None) -> str:
    """One row, of ours or of a peer."""
    shape = report["shape"]
    head = f"{shape['op']:6} B{shape['batch']:<5} N|C {shape['count']:<9} d{shape['d']:<4} k{shape['k']:<5}"
    if peer is not None:
        times = report["peers"][peer]
        return (
            f"{head} {peer} {times['p50']:.3f} ms" if "p50" in times else f"{head} {peer} {times}"
        )
    return (
        f"{head} ours {report['ours']['p50']:.3f}, graph {report['ours, graph']['p50']:.3f} ms"
        f"  x{report['times_floor']:.2f} of floor"
    )


def run(report: dict[str, Any], todo: list[Shape], device: torch.device, until: float) -> None:
    """Fills `report["cases"]`: ours, checked and then timed, in half of the time; then the peers, one by one.

    `wrong` and `not_reached` get what is so.
    """
    report["ceilings"] = ceiling = ceilings(device, tiny=report["dry_run"])
    print(json.dumps(report["machine"]), json.dumps(ceiling), flush=True)
    half, done = (time.monotonic() + until) / 2, 0
    for shape, items in corpora(todo, device):
        if time.monotonic() > half:
            break
        done += 1
        given = prepare(shape, items)
        wrong = check(shape, given)
        if wrong:
            report["wrong"].append({"section": "cases", "shape": asdict(shape), "fault": wrong})
            print(f"WRONG {shape}: {wrong}", flush=True)
        elif not report["wrong"]:
            report["cases"].append(measure(shape, given, ceiling))
            print(line(report["cases"][-1]), flush=True)
    report["not_reached"] += [{"section": "cases", "shape": asdict(each)} for each in todo[done:]]
    if not report["wrong"]:
        run_peers(report, todo[:done], device, until)


def run_peers(
    report: dict[str, Any], todo: list[Shape], device: torch.device, until: float
) -> None:
    """Fills the peers of the cases that there are, in their order."""
    for op, peers in (("coarse", COARSE_PEERS), ("rerank", RERANK_PEERS)):
        cases = [case for case in report["cases"] if case["shape"]["op"] == op]
        for name, build in peers.items():
            own = corpora([shape for shape in todo if shape.op == op], device)
            for case, (shape, items) in zip(cases, own, strict=True):
                if time.monotonic() > until:
                    case["peers"][name] = {"not_reached": "no time was left"}
                    break
                case["peers"][name] = outcome(partial(_peer, build, shape, prepare(shape, items)))
                print(line(case, name), flush=True)


def sections(
    report: dict[str, Any], device: torch.device, seconds: tuple[float, float, float], start: int
) -> list[Callable[[], None]]:
    """Every section with the time until which it may go on, in order; compiles what they launch."""
    dry = report["dry_run"]
    sizes = gpu_search.TINY if dry else gpu_search.FULL
    todo, whole = shapes(dry)[start:], [Shape(*launch) for launch in gpu_search.launches(sizes)]
    now = time.monotonic()  # what a section leaves over goes to the next
    ends = [now + sum(seconds[: n + 1]) if seconds[n] else -math.inf for n in range(3)]
    if device.type == "cuda":
        needed = (todo if seconds[0] else []) + (whole if seconds[1] else [])
        count = precompile(needed, torch.cuda.get_device_capability(), workers=12)
        print(f"{count} kernels compiled in {time.monotonic() - now:.0f} s", flush=True)
    return [
        partial(run, report, todo, device, ends[0]),
        partial(gpu_search.run, report, sizes, device, ends[1]),
        partial(run_encoders, report, ends[2]),
    ]


def run_encoders(report: dict[str, Any], until: float) -> None:
    """Fills `report["encoders"]`."""
    from benchmarks import encoders  # brings transformers along

    encoders.run(report, Path("build/encoders"), until)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the JSON")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes: figures mean nothing")
    parser.add_argument("--start", type=int, default=0, help="first shape of the kernels, to go on")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs=3,
        default=SECONDS,
        metavar=("KERNELS", "SEARCH", "ENCODERS"),
        help="for each section; 0 leaves it out",
    )
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    triton = available_backends()["triton"]
    if triton != "ok" or (device.type == "cpu" and not options.dry_run):
        print(f"no CUDA device: nothing measured. Triton: {triton}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"machine": about(device), "dry_run": options.dry_run, "wrong": [], "not_reached": [],
                              "cases": [], "search": [], "encoders": []}  # fmt: skip
    with (
        ExitStack() as stack
    ):  # last in, first out; an error in one section does not stop the others
        for section in reversed(sections(report, device, options.seconds, options.start)):
            stack.callback(write, report, options.out)
            stack.callback(section)
    return 1 if report["wrong"] else 0


def write(report: dict[str, Any], folder: Path) -> None:
    """The report as it is now. Where anything is wrong no figure is written."""
    measured = ("cases", "search", "encoders")
    if report["wrong"]:
        report.update({name: [] for name in measured})
    about = report["machine"]
    name = re.sub(r"[^A-Za-z0-9]+", "_", about["device"]).strip("_")
    path = folder / f"{name}-{about['date']}-{about['commit']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    counts = (f"{len(report[name])} {name}" for name in (*measured, "not_reached", "wrong"))
    print(f"wrote {path}:", ", ".join(counts), flush=True)
    torch.cuda.empty_cache()  # for the next section


if __name__ == "__main__":
    sys.exit(main())
