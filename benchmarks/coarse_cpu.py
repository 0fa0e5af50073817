"""Our coarse search beside FAISS on this CPU, in one run: `python -m benchmarks.coarse_cpu`.

Random unit vectors, N = 1,048,576, d = 64, k = 128, 2 threads. Timed as `benchmarks.timing.take_turns` says;
medians are compared.

float32   the same vectors as FAISS, the same float32 answer: rows must agree
bfloat16  vectors stored in bfloat16: half the bytes, recall@k against the float32 answer
          Both are told that no vector is longer than 1.01, as the engine does of its own vectors.
int8      vectors in int8, one scale for all: a quarter of the bytes, recall as well
rerank    gather and rescore 128 candidates of D = 768 float16 (ours only)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import THREADS, about
from benchmarks.timing import percentiles, take_turns
from benchmarks.units import units
from engine.coarse.rounding import LARGEST, queries_to_int8, to_int8
from kernels import coarse_topk, rerank_topk

RESULTS = Path(__file__).parent / "results"
D, K = 64, 128
OURS = ("float32", "bfloat16", "int8")
TARGETS = {1: 2, 32: 10, 256: 10}  # times faster than FAISS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coarse_cpu")
    parser.add_argument("--quick", action="store_true", help="N = 65,536, B = 1 and 32")
    parser.add_argument("--out", type=Path, default=RESULTS / "coarse_cpu.json", help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    count = 1 << 16 if arguments.quick else 1 << 20
    batches = (1, 32) if arguments.quick else (1, 32, 256, 2048)
    report = {"machine": about(), "N": count, "d": D, "k": K, "cases": []}
    print(json.dumps(report["machine"]))
    print(f"N = {count:,}, d = {D}, k = {K}, {THREADS} threads; milliseconds, medians")
    report["cases"] = [*coarse_cases(count, batches), *rerank_cases(count, batches)]
    report["load_after"] = about()["load"]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.out}")


def timed(searches: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Milliseconds of each search, as percentiles."""
    return {
        name: percentiles(spent)
        for name, spent in take_turns(searches, seconds=10, most=16).items()
    }


def agreement(rows: Tensor, truth: Tensor) -> float:
    """Share of the true rows that were found."""
    pairs = zip(rows.split(32), truth.split(32), strict=True)
    found = [(some[:, :, None] == true[:, None, :]).any(1) for some, true in pairs]
    return float(torch.cat(found).double().mean())


def coarse_cases(count: int, batches: tuple[int, ...]) -> list[dict[str, object]]:
    items, queries = units(count, D, seed=0), units(max(batches), D, seed=1)
    stored, asked = items.bfloat16(), queries.bfloat16()
    flat = faiss_index(items)
    rounded = to_int8(items, float(items.abs().max()) / LARGEST)
    columns = "".join(f" {name:>9} {'x':>5}" for name in OURS)
    print(f"{'B':>5} {'faiss':>9}{columns}  target  agreement")
    cases = []
    for batch in batches:
        some, low = queries[:batch], asked[:batch]
        least, _ = queries_to_int8(some)
        searches: dict[str, Callable[[], object]] = {
            "float32": partial(coarse_topk, some, items, K, max_norm=1.01),
            "bfloat16": partial(coarse_topk, low, stored, K, max_norm=1.01),
            "int8": partial(coarse_topk, least, rounded, K),
        }
        if flat is not None:
            searches = {"faiss": partial(flat, some)} | searches
        times = timed(searches)
        truth = coarse_topk(some, items, K).rows
        peer = flat(some) if flat is not None else None
        case: dict[str, object] = {
            "op": "coarse",
            "B": batch,
            "ms": times,
            "recall_bfloat16": agreement(coarse_topk(low, stored, K).rows, truth),
            "recall_int8": agreement(coarse_topk(least, rounded, K).rows, truth),
            "rows_as_faiss": None if peer is None else agreement(truth, peer),
            "target": TARGETS.get(batch),
        }
        cases.append(case)
        print(line(case, times))
    return cases


def line(case: dict[str, object], times: dict[str, dict[str, float]]) -> str:
    peer = times["faiss"]["p50"] if "faiss" in times else float("nan")
    cells = f"{case['B']:>5} {peer:>9.1f}"
    for name in OURS:
        cells += f" {times[name]['p50']:>9.1f} {peer / times[name]['p50']:>5.1f}"
    return (
        f"{cells}  {case['target'] or '-':>6}  rows as faiss {case['rows_as_faiss']}, "
        f"recall of bfloat16 {case['recall_bfloat16']:.4f}, of int8 {case['recall_int8']:.4f}"
    )


def faiss_index(items: Tensor) -> Callable[[Tensor], Tensor] | None:
    """FAISS's exact search, or None where it is not installed: pip install faiss-cpu."""
    try:
        import faiss
    except ImportError:
        print("faiss: not installed (pip install faiss-cpu)")
        return None
    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    return lambda queries: torch.from_numpy(index.search(queries.numpy(), K)[1])


def rerank_cases(count: int, batches: tuple[int, ...]) -> list[dict[str, object]]:
    width, rows = 768, min(count, 1 << 18)
    items, queries = units(rows, width, seed=2).half(), units(max(batches), width, seed=3).half()
    generator = torch.Generator().manual_seed(4)
    cases: list[dict[str, object]] = []
    for batch in batches:
        asked = torch.randint(0, rows, (batch, K), generator=generator)
        some = queries[:batch]
        times = timed({"float16": partial(rerank_topk, some, items, asked, 10)})
        cases.append({"op": "rerank", "B": batch, "C": K, "D": width, "ms": times})
        print(f"rerank B = {batch}, C = {K}, D = {width}, float16: {times['float16']['p50']:.2f}")
    return cases


if __name__ == "__main__":
    main()
