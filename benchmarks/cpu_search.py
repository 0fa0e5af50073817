"""Whole searches on this CPU, ours beside other people's, in one run: `python -m benchmarks.cpu_search`.

Every method of `benchmarks.cpu_peers` over the vectors of `benchmarks.vectors`, two threads each.
A method is timed at each effort until its recall@10 passes 0.995, in turns with ours, so that a ratio is of two
times of the same minutes. Recall is of the exact ten best, over 256 queries. Every method's rows are written to the
JSON as they end, and what is there is not done again (`--again` does it): a run that was cut off goes on.

    python -m benchmarks.cpu_search --quick      10,000 vectors: under two minutes
    python -m benchmarks.cpu_search --table      print the tables of the JSON, measure nothing
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cpu_peers import METHODS, Built, Effort, K, Method
from benchmarks.machine import THREADS, about
from benchmarks.peers import outcome
from benchmarks.timing import percentiles, take_turns
from benchmarks.vectors import KINDS, vectors

RESULTS = Path(__file__).parent / "results" / "cpu_search.json"
COUNTS, WIDTHS, BATCHES = (100_000, 1_000_000), (768, 512), (1, 32, 256)
QUICK_COUNT = 10_000
QUERIES = max(BATCHES)
GOOD, ENOUGH = 0.99, 0.995  # recall: that is compared at; beyond which no more effort is timed

Row = dict[str, Any]


class Patience(NamedTuple):
    """How long a method and ours take turns: so many seconds each, and so many turns at least."""

    seconds: float
    turns: int


PATIENT, QUICK = Patience(1.5, 5), Patience(0.05, 2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_search")
    parser.add_argument("--quick", action="store_true", help="N = 10,000, D = 512, into build/")
    parser.add_argument("--kind", choices=KINDS, help="only these vectors")
    parser.add_argument("--count", type=int, help="only this N")
    parser.add_argument("--width", type=int, help="only this D")
    parser.add_argument("--method", help="only methods whose name holds this")
    parser.add_argument(
        "--no-graphs", action="store_true", help="nothing that organises: it takes long to build"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure what is in the file already, too"
    )
    parser.add_argument(
        "--out", type=Path, help=f"JSON file, default {RESULTS.name} of the results"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    options = parser.parse_args(arguments)  # fmt: skip
    out = options.out or (Path("build/cpu_search_quick.json") if options.quick else RESULTS)
    if options.table:
        print(tables(json.loads(out.read_text(encoding="utf-8"))["rows"]))
        return
    torch.set_num_threads(THREADS)
    counts = (options.count or QUICK_COUNT,) if options.quick or options.count else COUNTS
    widths = (options.width or WIDTHS[1],) if options.quick or options.width else WIDTHS
    methods = [m for m in METHODS if not options.method or options.method in m.name]
    methods = [m for m in methods if not (options.no_graphs and m.organises)]
    rows: list[Row] = []
    if out.is_file():
        known = {method.name for method in METHODS}
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in rows if row["method"] in known]  # the others are of the past
    for kind, count, width in itertools.product(KINDS, counts, widths):
        if options.kind in (None, kind):
            given = {"kind": kind, "N": count, "D": width}
            patience = QUICK if options.quick else PATIENT
            for new in measured(given, methods, [] if options.again else rows, patience):
                rows = _merged(rows, new)
                _write(out, rows)
                print(_line(new), flush=True)


def _merged(rows: list[Row], new: list[Row]) -> list[Row]:
    same = ("kind", "N", "D", "method")
    return [r for r in rows if any(r[key] != new[0][key] for key in same)] + new


def _write(out: Path, rows: list[Row]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".draft")
    draft.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    draft.replace(out)


# ------------------------------------------------------------------ measuring


def measured(
    given: Row, methods: Iterable[Method], known: list[Row], patience: Patience
) -> Iterable[list[Row]]:
    """The rows of each method on one set of vectors, but for those that are known already."""
    done = {row["method"] for row in known if given.items() <= row.items()}
    todo = [method for method in methods if method.name not in done]
    if not todo:
        return
    items, queries = vectors(given["kind"], given["N"], given["D"], QUERIES)
    truth = exact(queries, items)
    yardstick = METHODS[0].build(items)
    # The first of ours that reaches the recall, and beside which all others are timed.
    chosen = next(
        (e for e in METHODS[0].efforts if recall(yardstick.ask(queries, e), truth) >= GOOD),
        METHODS[0].efforts[-1],
    )
    facts = given | _facts()
    for method in todo:

        def rows(method: Method = method) -> Row:
            timed = partial(_timed, yardstick=lambda q: yardstick.ask(q, chosen), patience=patience)
            return {"rows": _rows(method, items, queries, truth, timed)}

        print(f"{given}: {method.name}", flush=True)
        found = outcome(rows)
        facts["method"], facts["organises"] = method.name, method.organises
        yield [facts | row for row in found.get("rows", [found])]


def _facts() -> Row:
    known = about()
    return {key: known[key] for key in ("device", "commit", "dirty", "date", "threads", "versions")}


def _rows(
    method: Method,
    items: Tensor,
    queries: Tensor,
    truth: Tensor,
    timed: Callable[[Built, Effort, Tensor, int], Row],
) -> list[Row]:
    """A row for each effort and batch size."""
    began = time.perf_counter()
    built = method.build(items)
    seconds = time.perf_counter() - began
    found = []
    for effort in method.efforts:
        reached = recall(built.ask(queries, effort), truth)
        for batch in BATCHES:
            row = {
                "effort": effort,
                "effort_is": method.effort,
                "B": batch,
                "k": K,
                "recall": reached,
            }
            row |= {"build_s": seconds, "bytes": built.nbytes}
            found.append(row | timed(built, effort, queries, batch))
        if reached >= ENOUGH:
            break
    return found


def _timed(
    built: Built,
    effort: Effort,
    queries: Tensor,
    batch: int,
    *,
    yardstick: Callable[[Tensor], Tensor],
    patience: Patience,
) -> Row:
    """Milliseconds of a search, in turns with ours; every call asks with other queries."""
    blocks = [block for block in queries.split(batch) if len(block) == batch]
    mine, theirs = itertools.cycle(blocks), itertools.cycle(blocks)
    times = take_turns(
        {"ours": lambda: yardstick(next(mine)), "it": lambda: built.ask(next(theirs), effort)},
        seconds=patience.seconds,
        least=patience.turns,
    )
    spent, ours = percentiles(times["it"]), percentiles(times["ours"])["p50"]
    return spent | {
        "qps": 1e3 * batch / spent["p50"],
        "ours_p50": ours,
        "ratio": spent["p50"] / ours,
    }


def exact(queries: Tensor, items: Tensor) -> Tensor:
    """Rows of the K best by float32 products, `[B, K]`, a part of the items at a time."""
    best = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for first in range(0, len(items), 1 << 17):
        scores = torch.cat((best[0], queries @ items[first : first + (1 << 17)].T), dim=1)
        held = torch.arange(first, first + scores.shape[1] - best[0].shape[1])
        rows = torch.cat((best[1], held.expand(len(queries), -1)), dim=1)
        top = scores.topk(min(K, scores.shape[1]))
        best = top.values, rows.gather(1, top.indices)
    return best[1]


def recall(rows: Tensor, truth: Tensor) -> float:
    """The share of the true rows that was found."""
    return float((rows[:, :, None] == truth[:, None, :]).any(1).double().mean())


# ------------------------------------------------------------------ tables


def _line(rows: list[Row]) -> str:
    if "p50" not in rows[0]:
        return f"  {rows[0]}"
    return "\n".join(
        f"  {row['effort']!s:>12} B {row['B']:>3}  recall {row['recall']:.4f}  {row['p50']:9.2f} ms"
        f"  x{row['ratio']:.2f} of ours"
        for row in rows
    )


def tables(rows: list[Row]) -> str:
    """A table for each set of vectors: every method at the least effort that reaches the recall."""
    parts = []
    for kind, count, width in sorted({(r["kind"], r["N"], r["D"]) for r in rows}, reverse=True):
        some = [r for r in rows if (r["kind"], r["N"], r["D"]) == (kind, count, width)]
        parts += [
            f"**{kind}, N = {count:,}, D = {width}** ({provenance(some)})",
            "",
            table(some),
            "",
        ]
    return "\n".join(parts).rstrip()


def table(rows: list[Row]) -> str:
    """Of one set of vectors: p50 in milliseconds, and how many times as long as ours, by batch size."""
    lines = [
        f"| method | effort | recall@{K} | "
        + " | ".join(f"B = {batch}, ms (× ours)" for batch in BATCHES)
        + " | p99 at B = 1, ms | build, s | MB |",
        "|---" * (6 + len(BATCHES)) + "|",
    ]
    order = {method.name: place for place, method in enumerate(METHODS)}
    names = dict.fromkeys(row["method"] for row in rows)
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        own = [row for row in rows if row["method"] == name]
        if "p50" not in own[0]:
            keys = ("not_installed", "not_supported", "failed")
            why = next(f"{key.replace('_', ' ')}: {own[0][key]}" for key in keys if key in own[0])
            lines.append(f"| {name} | {why} |" + " |" * (4 + len(BATCHES)))
            continue
        best = at_recall(own)
        by_batch = {row["B"]: row for row in best}
        first = best[0]
        effort = "–" if first["effort"] is None else _effort(first)
        reached = f"{first['recall']:.3f}" + ("" if first["recall"] >= GOOD else " (not reached)")
        cells = [name, effort, reached]
        cells += [f"{by_batch[b]['p50']:.1f} ({by_batch[b]['ratio']:.1f})" for b in BATCHES]
        cells += [
            f"{by_batch[1]['p99']:.1f}",
            f"{first['build_s']:.0f}",
            f"{first['bytes'] / 1e6:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _effort(row: Row) -> str:
    effort = row["effort"]
    return (
        f"{', '.join(map(str, effort)) if isinstance(effort, list) else effort} {row['effort_is']}"
    )


def at_recall(rows: list[Row]) -> list[Row]:
    """Of one method's rows those of the least effort with a recall of GOOD, else of the best there is."""
    good = [row for row in rows if row["recall"] >= GOOD]
    effort = good[0]["effort"] if good else max(rows, key=lambda row: row["recall"])["effort"]
    return [row for row in rows if row["effort"] == effort]


def provenance(rows: list[Row]) -> str:
    """Date, commit and device of the rows; more than one of them is said to be mixed."""
    found = sorted(
        {(r["date"], r["commit"] + ("+" if r["dirty"] else ""), r["device"]) for r in rows}
    )
    parts = [f"{date}, commit {commit}, {device}" for date, commit, device in found]
    return ("" if len(parts) == 1 else "MIXED RUNS: ") + "; ".join(parts)


if __name__ == "__main__":
    main()
