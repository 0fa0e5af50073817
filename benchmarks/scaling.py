"""How time and memory grow with N, B, d and C, and what that says of larger ones: `python -m benchmarks.scaling`.

Measured here: `coarse_topk` over N items of d dims in int8 for B queries and C candidates; `rerank_topk` of C
candidates of D dims in float16. To their medians a sum of terms is fitted, each coefficient at least 0, the squared
relative errors least; then held against points that it has not seen, four times larger than any that it has.

    coarse   a call + items + their bytes (N d) + scores (B N) + multiply-adds (B N d) + candidates (B C)
             + survivors (B √(C N): so many more reach a floor that was guessed from a sample)
    rerank   a call + candidates (B C) + their bytes (B C D 2)

For H100s nothing is measured here. The floor is what ceilings measured on one allow; what is expected is the floor
over an assumed efficiency. `ASSUMPTIONS` is printed beside that table, and what fits in memory is computed.

Every group of points is a row, written as it ends, and not measured again by the same commit on the same device.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import ROOT, THREADS
from benchmarks.rows import Row, Rows, markdown, origins
from benchmarks.timing import percentiles, take_turns
from benchmarks.units import units
from engine import Retriever
from engine.tiers.plan import SHARE, Plan
from kernels import coarse_topk, rerank_topk

RESULTS = Path(__file__).parent / "results" / "scaling.json"
QUICK_RESULTS = ROOT / "build" / "benchmarks" / "scaling.json"
BATCHES, DIMS, CANDIDATES = (1, 8, 32), (16, 32, 64), (128, 512)
K, FINE, WIDTHS = 10, 768, (256, 768)
HELD_RERANK = (64, 1024, 1024)  # B, C, D


@dataclass(frozen=True)
class Sizes:
    """Items of the fitted points, of those held out, to rerank from, and of the index whose memory is seen."""

    fitted: Sequence[int] = (1 << 14, 1 << 16, 1 << 18, 1 << 20)
    held_out: int = 1 << 22
    reranked: int = 1 << 17
    indexed: int = 1 << 18


FULL = Sizes()
QUICK = Sizes((1 << 12, 1 << 14, 1 << 16), 1 << 18, 1 << 14, 1 << 15)

# ------------------------------------------------------------------ what is measured


def measure_coarse(part: str, count: int, dim: int, seconds: float) -> Row:
    """All batch sizes and numbers of candidates over the same items."""
    items = units(count, dim, dtype=torch.int8, seed=0)
    queries = units(max(BATCHES), dim, dtype=torch.int8, seed=1)
    cases = list(itertools.product(BATCHES, CANDIDATES))
    runs = {
        f"{batch} {kept}": partial(coarse_topk, queries[:batch], items, kept)
        for batch, kept in cases
    }
    times = take_turns(runs, seconds=seconds)
    points = [
        {"N": count, "B": batch, "d": dim, "C": kept, "ms": percentiles(times[f"{batch} {kept}"])}
        for batch, kept in cases
    ]
    return {"part": part, "op": "coarse", "points": points}


def measure_rerank(
    part: str, count: int, width: int, cases: Sequence[tuple[int, int]], seconds: float
) -> Row:
    """`cases`: B and C of each point; candidates are rows drawn from all."""
    items = units(count, width, dtype=torch.float16, seed=0)
    queries = units(max(batch for batch, _ in cases), width, dtype=torch.float16, seed=1)
    chance = torch.Generator().manual_seed(2)
    runs = {}
    for batch, kept in cases:
        rows = torch.randint(count, (batch, kept), generator=chance)
        runs[f"{batch} {kept}"] = partial(rerank_topk, queries[:batch], items, rows, K)
    times = take_turns(runs, seconds=seconds)
    points = [
        {"B": batch, "C": kept, "D": width, "ms": percentiles(times[f"{batch} {kept}"])}
        for batch, kept in cases
    ]
    return {"part": part, "op": "rerank", "points": points}


def measure_memory(count: int) -> Row:
    """What the process holds more once it has an index in memory, beside what `Retriever.plan` says."""
    gc.collect()
    before = resident_bytes()
    retriever = Retriever.from_embeddings(
        units(count, FINE, dtype=torch.float16, seed=0), units(count, DIMS[-1], dtype=torch.float32, seed=0),
        coarse_dtype="int8", device="cpu", fine_tier="host",
    )  # fmt: skip
    gc.collect()
    held = resident_bytes() - before
    planned = planned_for(len(retriever), DIMS[-1], "int8")
    return {"part": "memory", "N": count, "held": held, "planned": planned.disk_bytes}


def resident_bytes() -> int:
    """Of this process, on Linux."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * mmap.PAGESIZE


def planned_for(count: int, dim: int, dtype: str) -> Plan:
    """What the engine says of so many items: fine vectors of 768 dims in float16, in host memory."""
    return Retriever.plan(
        count, fine_dim=FINE, coarse_dim=dim, fine_dtype="float16", coarse_dtype=dtype,
        device="cpu", fine_tier="host",
    )  # fmt: skip


# ------------------------------------------------------------------ the fit


def terms(op: str, point: Row) -> dict[str, float]:
    """What a time is a sum of, in units of each."""
    b, c = point["B"], point["C"]
    if op == "rerank":
        return {"call": 1, "candidate": b * c, "byte": 2 * b * c * point["D"]}
    n, d = point["N"], point["d"]
    return {"call": 1, "item": n, "byte": n * d, "score": b * n, "multiply-add": b * n * d,
            "candidate": b * c, "survivor": b * math.sqrt(c * n)}  # fmt: skip


def fit(counted: Sequence[Mapping[str, float]], times: Sequence[float]) -> dict[str, float]:
    """Time of a unit of each term, at least 0, such that the squared relative errors are least.

    The best such coefficients are the plain least squares over those that are not 0; so every choice of these is
    tried. There are few.
    """
    names = list(counted[0])
    shares = np.array([[row[name] for name in names] for row in counted]) / np.array(times)[:, None]
    largest = shares.max(axis=0)  # columns differ by ten powers of ten
    shares /= largest
    least, best = np.inf, np.zeros(len(names))
    for size in range(1, len(names) + 1):
        for chosen in map(list, itertools.combinations(range(len(names)), size)):
            found = np.linalg.lstsq(shares[:, chosen], np.ones(len(times)), rcond=None)[0]
            off = float(((shares[:, chosen] @ found - 1) ** 2).sum())
            if (found >= 0).all() and off < least:
                least, best = off, np.zeros(len(names))
                best[chosen] = found
    return dict(zip(names, (best / largest).tolist(), strict=True))


def from_fit(costs: Mapping[str, float], op: str, point: Row) -> float:
    """Milliseconds."""
    return sum(costs[name] * count for name, count in terms(op, point).items())


def fits(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Milliseconds of a unit of each term, by operation."""
    found = {}
    for op in ("coarse", "rerank"):
        points = points_of(rows, "fitted", op)
        if points:
            counted = [terms(op, point) for point in points]
            found[op] = fit(counted, [point["ms"]["p50"] for point in points])
    return found


def points_of(rows: Sequence[Row], part: str, op: str) -> list[Row]:
    return [p for row in rows if (row["part"], row.get("op")) == (part, op) for p in row["points"]]


# ------------------------------------------------------------------ H100s

MEMORY, HOST = 80e9, 2e12  # bytes of a GPU, and of its host
READ, PRODUCT, PCIE = 3.0e12, 798e12, 50e9  # bytes/s, FLOP/s, bytes/s
EFFICIENCY, OVERHEAD_MS = 2 / 3, 0.1
KEPT = 512
ASSUMPTIONS = f"""\
- Measured on one H100: a copy moves {READ / 1e12:.1f} TB/s, read and written together; so much is
  taken to be read where nothing is written. Products in bfloat16 reach {PRODUCT / 1e12:.0f} TFLOP/s,
  and those in int8 are given no more.
- A GPU has {MEMORY / 1e9:.0f} GB, of which {SHARE:.0%} may be taken, as in `engine.tiers.plan`; its host has
  {HOST / 1e12:.0f} TB, and PCIe brings {PCIE / 1e9:.0f} GB/s to each GPU.
- Coarse vectors lie in GPU memory, in bfloat16 or, where those do not fit, in int8. {KEPT} candidates of
  {FINE} dims in float16 are reranked, from GPU memory where all fit beside the coarse ones, else
  over PCIe. How many candidates a recall needs among so many items is not known.
- Eight GPUs hold an eighth of the items each, and rerank an eighth of the candidates. They send each
  other scores and rows, {12 * KEPT:,} bytes a query and GPU, which are not counted.
- Floor: of the coarse stage the larger of bytes and products, of the rerank the bytes. Group maxima,
  selection and sorting are not counted.
- Expected: the floor over an efficiency of {EFFICIENCY:.2f}, which is the kernels' target. An H200 reached
  0.88 for one query over 10,000,000 items (d = 64, 128 candidates, commit 3dfd854), 0.50 for 256, and
  0.27 in reranking 128 candidates of each of these. {OVERHEAD_MS} ms a search for launches, which takes CUDA
  graphs (there: a coarse search and a rerank called without them kept the host for 0.35 ms), as much
  again to merge eight lists."""


def on_h100s(items: int, dim: int, batch: int, gpus: int) -> Row:
    """Where the vectors go, and milliseconds of a search of `batch` queries; `dtype` None: they do not fit."""
    room = gpus * MEMORY * SHARE
    facts: Row = {"items": items, "d": dim, "B": batch, "gpus": gpus, "dtype": None}
    for dtype in ("bfloat16", "int8"):
        plan = planned_for(items, dim, dtype)
        facts |= {"coarse_bytes": plan.coarse_bytes, "fine_bytes": plan.fine_bytes}
        if plan.coarse_bytes <= room:
            facts["dtype"] = dtype
            break
    if facts["dtype"] is None or plan.fine_bytes + plan.id_bytes > HOST:
        return facts | {"dtype": None}
    inside = plan.coarse_bytes + plan.fine_bytes <= room
    coarse = max(plan.coarse_bytes / READ, 2 * batch * items * dim / PRODUCT) / gpus
    rerank = 2 * batch * KEPT * FINE / (READ if inside else PCIE) / gpus
    floor = 1e3 * (coarse + rerank)
    merging = OVERHEAD_MS if gpus > 1 else 0
    return facts | {
        "fine": "GPU" if inside else "host",
        "coarse_ms": 1e3 * coarse,
        "rerank_ms": 1e3 * rerank,
        "floor_ms": floor,
        "expected_ms": floor / EFFICIENCY + OVERHEAD_MS + merging,
    }


# ------------------------------------------------------------------ the run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the items")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each point")
    parser.add_argument("--out", type=Path, help="JSON file; that of --quick is under build")
    parser.add_argument("--table", action="store_true", help="print the tables of --out")
    options = parser.parse_args(arguments)
    out = options.out or (QUICK_RESULTS if options.quick else RESULTS)
    if not options.table:
        torch.set_num_threads(THREADS)
        seconds = min(options.seconds, 0.3) if options.quick else options.seconds
        measure(Rows(out, options.quick), QUICK if options.quick else FULL, seconds)
    print(table(json.loads(out.read_text())))


def measure(rows: Rows, sizes: Sizes, seconds: float) -> None:
    """Every row that is not there yet."""
    for count, dim in itertools.product(sizes.fitted, DIMS):
        rows.measured(
            f"coarse N={count} d={dim}", partial(measure_coarse, "fitted", count, dim, seconds)
        )
    cases = list(itertools.product(BATCHES, CANDIDATES))
    for width in WIDTHS:
        rows.measured(
            f"rerank D={width}",
            partial(measure_rerank, "fitted", sizes.reranked, width, cases, seconds),
        )
    rows.measured(
        f"held out N={sizes.held_out}",
        partial(measure_coarse, "held out", sizes.held_out, DIMS[-1], seconds),
    )
    batch, kept, width = HELD_RERANK
    rows.measured(
        f"held out D={width}",
        partial(measure_rerank, "held out", sizes.reranked, width, [(batch, kept)], seconds),
    )
    rows.measured(f"memory N={sizes.indexed}", partial(measure_memory, sizes.indexed))


# ------------------------------------------------------------------ tables


def table(facts: Row) -> str:
    """Markdown: measured, fitted, held out, memory, H100s."""
    rows = facts["rows"]
    costs = fits(rows)
    parts = [
        _measured(rows),
        _fitted(rows, costs),
        _held_out(rows, costs),
        _memory(rows),
        _h100s(),
        origins(rows),
    ]
    return "\n\n".join(parts)


def _measured(rows: Sequence[Row]) -> str:
    cases = list(itertools.product(BATCHES, CANDIDATES))
    lines = []
    for row in rows:
        if row["part"] == "fitted":
            first = row["points"][0]
            what = f"N = {first['N']:,}, d = {first['d']}" if "N" in first else f"D = {first['D']}"
            times = {(p["B"], p["C"]): f"{p['ms']['p50']:.3g}" for p in row["points"]}
            lines.append([row["op"], what, *(times.get(case, "–") for case in cases)])
    return markdown(["ms a call", "", *(f"B = {b}, C = {c}" for b, c in cases)], lines)


def _fitted(rows: Sequence[Row], costs: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for op, found in costs.items():
        points = points_of(rows, "fitted", op)
        errors = [abs(from_fit(found, op, p) / p["ms"]["p50"] - 1) for p in points]
        said = ", ".join(f"{1e6 * cost:.3g} per {name}" for name, cost in found.items() if cost)
        lines.append([op, str(len(points)), said, *(f"{e:.0%}" for e in _spread(errors))])
    head = ["fit", "points", "nanoseconds", "error, median", "largest"]
    return markdown(head, lines)


def _spread(errors: Sequence[float]) -> tuple[float, float]:
    return float(np.median(errors)), max(errors)


def _held_out(rows: Sequence[Row], costs: Mapping[str, Mapping[str, float]]) -> str:
    """What the fit says of larger points, and what was measured; ≈ where nothing was."""
    lines = []
    for op, found in costs.items():
        for p in points_of(rows, "held out", op):
            said, ms = from_fit(found, op, p), p["ms"]["p50"]
            lines.append([_name(op, p), f"{said:.3g}", f"{ms:.3g}", f"{said / ms - 1:+.0%}"])
    if "coarse" in costs:
        for count, batch in itertools.product((10**8, 10**9), (1, 32)):
            point = {"N": count, "B": batch, "d": DIMS[-1], "C": KEPT}
            said = from_fit(costs["coarse"], "coarse", point)
            lines.append([_name("coarse", point), f"≈ {said:,.0f}", "–", "–"])
    block = markdown(["held out", "fit, ms", "measured, ms", "error"], lines)
    return f"{block}\n\n≈: what the fit says of this machine, had it the memory."


def _name(op: str, point: Row) -> str:
    said = ", ".join(f"{key} = {value:,}" for key, value in point.items() if key != "ms")
    return f"{op}, {said}"


def _memory(rows: Sequence[Row]) -> str:
    lines = []
    for count, dtype in itertools.product((10**6, 10**8, 10**9), ("bfloat16", "int8")):
        plan = planned_for(count, DIMS[-1], dtype)
        sizes = (plan.coarse_bytes, plan.fine_bytes, plan.id_bytes)
        tiers = [f"{size / 1e9:,.4g} GB" for size in sizes]
        lines.append([f"{count:,}", dtype, *tiers, f"{sum(sizes) / count:,.0f}", "–"])
    for row in rows:
        if row["part"] == "memory":
            each = [f"{row[key] / row['N']:,.0f}" for key in ("planned", "held")]
            lines.append([f"{row['N']:,}", "int8", "–", "–", "–", *each])
    head = ["items", f"coarse, {DIMS[-1]} dims", "coarse", f"fine, {FINE} × float16", "ids"]
    return markdown([*head, "bytes an item", "measured here, in memory"], lines)


def _h100s() -> str:
    lines = []
    shapes = itertools.product((10**8, 10**9), (32, 64), (1, 32, 256), (1, 8))
    for items, dim, batch, gpus in shapes:
        found = on_h100s(items, dim, batch, gpus)
        head = [f"{items:,}", str(dim), str(batch), str(gpus)]
        if found["dtype"] is None:
            lines.append([*head, "does not fit", *["–"] * 6])
            continue
        floors = [found[key] for key in ("coarse_ms", "rerank_ms", "floor_ms")]
        times = [f"{ms:.3g}" if ms >= 1e-3 else "< 0.001" for ms in floors]
        expected = found["expected_ms"]
        each = f"{found['coarse_bytes'] / gpus / 1e9:.3g} GB"
        lines.append([*head, f"{found['dtype']}, {each}", found["fine"], *times,
                      f"{expected:.3g}", f"{1e3 * batch / expected:,.0f}"])  # fmt: skip
    head = ["items", "d", "B", "H100s", "coarse, each GPU", "fine in", "coarse floor, ms",
            "rerank floor, ms", "floor, ms", "expected, ms", "queries a second"]  # fmt: skip
    title = "On H100s: computed from ceilings and assumptions, not yet measured on a GPU."
    return f"{title}\n\n{markdown(head, lines)}\n\n{ASSUMPTIONS}"


if __name__ == "__main__":
    main()
