"""One report of everything measured: `python -m benchmarks.report`.

Reads the JSON files of benchmarks/results, each written by a command that it names, and writes REPORT.md and PNG
plots beside them, every figure with its date, commit and device. The same functions make the tables of README and
docs/:

    python -m benchmarks.report             write REPORT.md, the plots, and the tables of README and docs/
    python -m benchmarks.report --check     write nothing; exit code 1 where a page differs

On a page a table stands between `<!-- report: NAME -->` and `<!-- end -->`. Results of another device or commit
are never put into one table without saying so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import cpu_search, encoders, paper, plots, recipes, scaling
from benchmarks.coarse_cpu import OURS
from benchmarks.machine import ROOT
from benchmarks.rows import markdown
from engine.evaluation.report import Source, source_name

RESULTS = ROOT / "benchmarks" / "results"
REPORT = RESULTS / "REPORT.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"<!-- report: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)

Facts = dict[str, Any]
NO_GPU = (
    "Not yet measured on a GPU: `make gpu` on a machine that has one writes what is shown here."
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 where something differs"
    )
    options = parser.parse_args(arguments)
    texts = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES} | {REPORT: report()}
    if options.check:
        stale = [f for f in texts if not f.is_file() or f.read_text(encoding="utf-8") != texts[f]]
        for file in stale:
            print(
                f"{file.name} is not what the results say: run python -m benchmarks.report",
                file=sys.stderr,
            )
        return 1 if stale else 0
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    for file in plots.draw(RESULTS, facts("cpu_search"), facts("bench")):
        print(f"wrote {file.name}")
    return 0


def facts(name: str) -> Facts | None:
    """What a command wrote, or None where it was not run."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def filled(text: str) -> str:
    """The `text` of a page with the tables of the results as they are now."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise SystemExit(
                f"a page asks for a table {name!r}; there are {', '.join(sorted(TABLES))}"
            )
        return f"<!-- report: {name} -->\n{TABLES[name]()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def report() -> str:
    """REPORT.md."""
    parts = [
        "# Report\n",
        "Written by `python -m benchmarks.report` from the JSON files beside it; not by hand. Milliseconds are "
        "medians unless a column says p95 or p99.\n",
    ]
    for title, command, names, pictures in SECTIONS:
        parts.append(f"## {title}\n\n`{command}`\n")
        parts += [f"{TABLES[name]()}\n" for name in names]
        parts += [
            f"![{title}]({picture})\n" for picture in pictures if (RESULTS / picture).is_file()
        ]
    return "\n".join(parts)


# ------------------------------------------------------------------ tables


def from_file(name: str, command: str, table: Callable[[Facts], str]) -> Callable[[], str]:
    """A table of one file of results, or what would write it."""

    def made() -> str:
        found = facts(name)
        return f"Not measured yet: `{command}`." if found is None else table(found)

    return made


def largest_real(found: Facts) -> list[Facts]:
    """The rows of the largest real set of `benchmarks.cpu_search`."""
    real = [row for row in found["rows"] if row["kind"] == "real"]
    largest = max((row["N"], row["D"]) for row in real)
    return [row for row in real if (row["N"], row["D"]) == largest]


def headline(found: Facts) -> str:
    """Every method over that set."""
    some = largest_real(found)
    about = f"N = {some[0]['N']:,}, D = {some[0]['D']}; {cpu_search.provenance(some)}."
    return f"{cpu_search.table(some)}\n\n{about}"


OURS_NOW = "ours, 64-d int8"
USED_NOW = {  # method of `benchmarks.cpu_search` -> what README calls it
    "FAISS PCA64,IVF,Flat,RFlat": "FAISS, inverted lists over 64 PCA dims, refined",
    "FAISS HNSW32": "FAISS, HNSW graph",
    "FAISS PCA64,SQ8,RFlat": "FAISS, 64 PCA dims in 8 bits, refined",
    "FAISS flat": "FAISS, flat: every vector in full",
    "sentence-transformers": "sentence-transformers, `semantic_search`",
}


def peers(found: Facts) -> str:
    """README's table: what people use now beside ours, what is quickest for one query first."""
    some = largest_real(found)
    reached = {
        (method, row["B"]): row
        for method in (OURS_NOW, *USED_NOW)
        for row in cpu_search.at_recall([row for row in some if row["method"] == method])
    }
    batches = sorted({batch for _, batch in reached})
    order = sorted(USED_NOW, key=lambda method: float(reached[method, 1]["ratio"]))
    lines = [
        [USED_NOW[method], *(f"{reached[method, batch]['ratio']:.1f} ×" for batch in batches),
         f"{reached[method, 1]['build_s']:.0f} s"]
        for method in order
    ]  # fmt: skip
    own = [reached[OURS_NOW, batch] for batch in batches]
    times = [f"{row['p50']:.1f}" for row in own]
    asked = ("1 query" if batch == 1 else f"{batch} queries" for batch in batches)
    head = ["time, ours = 1", *asked, "built in"]
    return (
        f"{markdown(head, lines)}\n\n"
        f"{own[0]['N']:,} vectors of {own[0]['D']} dims, recall@10 of 0.99 or more. Ours takes "
        f"{', '.join(times[:-1])} and {times[-1]} ms and is built in {own[0]['build_s']:.0f} s. "
        f"{cpu_search.provenance(some)}."
    )


def widths(found: Facts) -> str:
    """Ours over that set, in int8, by coarse dims: how many candidates are needed, and the times."""
    some = largest_real(found)
    lines = []
    for name in dict.fromkeys(row["method"] for row in some):
        if of_width := re.fullmatch(r"ours, (\d+)-d int8", name):
            best = cpu_search.at_recall([row for row in some if row["method"] == name])
            times = [f"{row['p50']:.1f} ms" for row in sorted(best, key=lambda row: row["B"])]
            lines.append([of_width[1], str(best[0]["effort"]), f"{best[0]['recall']:.3f}", *times])
    batches = sorted({row["B"] for row in some})
    head = ["coarse dims", "candidates", "recall@10", *(f"B = {batch}" for batch in batches)]
    ordered = sorted(lines, key=lambda line: int(line[0]))
    return f"{markdown(head, ordered)}\n\n{cpu_search.provenance(some)}."


def busy(found: Facts) -> str:
    """`benchmarks.busy`: a line a policy and method, a column a number of busy processes beside."""
    rows = found["rows"]
    besides = sorted({row["beside"] for row in rows})
    lines = []
    for policy, method in dict.fromkeys((row["policy"], row["method"]) for row in rows):
        own = {r["beside"]: r for r in rows if (r["policy"], r["method"]) == (policy, method)}
        cells = [f"{own[b]['p50']:.2f} ({own[b]['p95']:.2f})" for b in besides]
        lines.append([policy, method, *cells])
    head = ["OMP_WAIT_POLICY", "method", *(f"+ {beside}" for beside in besides)]
    about = f"{found['N']:,} items of {found['D']} dims; {of(found['machine'])}"
    return f"{markdown(head, lines)}\n\n{about}"


def benchmarked(*ops: str) -> Callable[[Facts], str]:
    """Of pytest-benchmark's JSON, the benchmarks of these kinds."""

    def made(found: Facts) -> str:
        rows = [b["extra_info"] for b in found["benchmarks"] if b["extra_info"].get("op") in ops]
        shown = ("op", "model", "runtime", "tower", "mode", "dtype", "N", "C", "D", "d", "B", "k")
        columns = [name for name in shown if any(name in row for row in rows)]
        cells = [
            [str(row.get(name, "–")).removeprefix("torch.") for name in columns]
            + [_scaled(row, *figure) for figure in FIGURES.values()]
            for row in rows
        ]
        kept = [n for n in range(len(columns) + len(FIGURES)) if any(c[n] != "–" for c in cells)]
        head = [*columns, *FIGURES]
        shown_only = [[line[n] for n in kept] for line in [head, *cells]]
        return f"{markdown(shown_only[0], shown_only[1:])}\n\n{of(found['machine_info'])}"

    return made


FIGURES: dict[str, tuple[str, float, str]] = {  # column -> name in extra_info, unit, sign
    "p50, ms": ("p50", 1, ""), "p95": ("p95", 1, ""), "p99": ("p99", 1, ""),
    "GB/s": ("bytes_s", 1e9, ""), "of copy": ("share_of_copy_bytes_s", 0.01, " %"),
    "GFLOP/s": ("flops", 1e9, ""), "of product": ("share_of_product_flops", 0.01, " %"),
    "kernels, ms": ("kernels_ms", 1, ""), "beyond them, µs": ("overhead_us", 1, ""), "share": ("share", 0.01, " %"),
}  # fmt: skip


def _scaled(row: Facts, name: str, unit: float, sign: str) -> str:
    return f"{row[name] / unit:.3g}{sign}" if name in row else "–"


def gpu_results() -> str:
    """Tables for every GPU result there is."""
    parts = []
    for file, found in _of_gpus():
        parts += [f"### {file.stem}", of(found["machine"]), found.get("note", "")]
        parts += [gpu_kernels(found["cases"]), gpu_search(found.get("search", []))]
        if found.get("encoders"):
            parts.append(encoders.table(found["encoders"]))
    return "\n\n".join(part for part in parts if part) or NO_GPU


def gpu_brief() -> str:
    """Of each GPU's last whole run, the searches that targets are set for."""
    last: dict[str, Facts] = {}
    for _, found in sorted(
        _of_gpus(), key=lambda each: (bool(each[1].get("search")), each[1]["machine"]["date"])
    ):
        last[found["machine"]["device"]] = found
    parts = []
    for found in last.values():
        sizes = {"coarse": (10_000_000, 64, 128), "rerank": (128, 768, 10)}
        cases = [c for c in found["cases"] if _size(c["shape"]) == sizes[c["shape"]["op"]]]
        rows = [
            r
            for r in found.get("search", [])
            if r["N"] == 1_000_000 and r["candidates"] in (128, None)
        ]
        parts += [f"{of(found['machine'])}. {found.get('note', '')}".rstrip()]
        parts += [gpu_kernels(cases), gpu_search_by_batch(rows)]
    return "\n\n".join(part for part in parts if part) or NO_GPU


def _of_gpus() -> list[tuple[Path, Facts]]:
    files = sorted(RESULTS.glob("*.json"))
    read = [(file, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return [
        (file, found)
        for file, found in read
        if (found.get("machine") or {}).get("cuda") and not found.get("dry_run")
    ]


def gpu_search_by_batch(rows: Sequence[Facts]) -> str:
    """A line a method that was timed: milliseconds, and recall, of each batch."""
    batches = sorted({row["B"] for row in rows})
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if "p50" in row):
        own = {row["B"]: row for row in rows if row["method"] == method and "p50" in row}
        lines.append([
            method,
            *(f"{own[b]['p50']:.3g} ({own[b]['recall']:.3f})" if b in own else "–" for b in batches),
        ])  # fmt: skip
    if not lines:
        return ""
    first = rows[0]
    about = (
        f"N = {first['N']:,}, D = {first['D']}, d = {first['d']}, 128 candidates where there are any: milliseconds "
        "(recall@10) of a whole search, vectors in, the best ten out."
    )
    return f"{about}\n\n" + markdown(["method", *(f"B = {b}" for b in batches)], lines)


def _size(shape: Facts) -> tuple[int, int, int]:
    return shape["count"], shape["d"], shape["k"]


def gpu_kernels(cases: Sequence[Facts]) -> str:
    names = list(dict.fromkeys(name for case in cases for name in case["peers"]))
    lines = []
    for case in sorted(
        cases, key=lambda case: [case["shape"][key] for key in ("op", "count", "d", "k", "batch")]
    ):
        shape = case["shape"]
        peers = [case["peers"].get(name, {}) for name in names]
        lines.append([
            shape["op"], f"{shape['count']:,}", *(str(shape[key]) for key in ("d", "batch", "k")),
            f"{case['ours']['p50']:.3g}", f"{case['ours, graph']['p50']:.3g}", f"{case['times_floor']:.2f}",
            f"{100 * case['share_of_copy']:.0f} %",
            *(_time_or_why(peer) for peer in peers),
        ])  # fmt: skip
    head = ["op", "N or C", "d", "B", "k", "ours, ms", "as a graph", "× floor", "of copy", *names]
    return markdown(head, lines) if lines else ""


def gpu_search(rows: Sequence[Facts]) -> str:
    head = ["method", "N", "D", "B", "candidates", "recall@10", "p50, ms", "p99, ms", "QPS"]
    lines = [
        [row["method"], f"{row['N']:,}", str(row["D"]), str(row["B"]), str(row.get("candidates") or "–"),
         f"{row['recall']:.3f}" if "recall" in row else "–", _time_or_why(row),
         f"{row['p99']:.3g}" if "p99" in row else "–", f"{row['qps']:,.0f}" if "qps" in row else "–"]
        for row in rows
    ]  # fmt: skip
    return markdown(head, lines) if lines else ""


def _time_or_why(figures: Facts) -> str:
    if "p50" in figures:
        return f"{figures['p50']:.3g}"
    return next((name.replace("_", " ") for name in figures if name in WHY_NOT), "–")


WHY_NOT = ("not_installed", "not_supported", "not_reached", "failed")


def coarse(found: Facts) -> str:
    """`benchmarks.coarse_cpu` beside FAISS."""
    lines = []
    for case in found["cases"]:
        if case["op"] == "coarse":
            times = {name: each["p50"] for name, each in case["ms"].items()}
            base = times.get("faiss")
            own = [(f"{times[n]:.1f}", f"{base / times[n]:.1f}" if base else "–") for n in OURS]
            recalls = [f"{case[f'recall_{name}']:.4f}" for name in OURS[1:]]
            lines.append([str(case["B"]), f"{base:.1f}" if base else "–", *chain(*own),
                          str(case["target"] or "–"), *recalls])  # fmt: skip
    columns = chain(*((f"{name}, ms", "×") for name in OURS))
    recalls = [f"recall of {name}" for name in OURS[1:]]
    head = ["B", "FAISS IndexFlatIP, ms", *columns, "target ×", *recalls]
    shape = f"N = {found['N']:,}, d = {found['d']}, k = {found['k']}"
    return f"{markdown(head, lines)}\n\n{shape}; {of(found['machine'])}"


def of(machine: Facts) -> str:
    """Where a table is from."""
    changed = " with changes" if machine.get("dirty") else ""
    named = ", ".join(f"{n} {v}" for n, v in machine["versions"].items())
    load = f", load {machine['load'][0]:.1f}" if machine.get("load") else ""
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    return f"{machine['date']}, commit {machine['commit']}{changed}, {machine['device']}{threads}{load}; {named}"


def dims(found: Facts, direction: str, title: str) -> str:
    """The grid of coarse dims and candidates of `python -m engine evaluate`: R@1 in one direction."""
    ways = found["recalls"].values()
    grid: dict[tuple[Source, int], dict[int | None, str]] = {}
    for way in ways:
        if way["search"] != "fine":
            row = grid.setdefault((way["source"], way["dim"]), {})
            row[way["candidates"]] = f"{way[direction]['R@1']:.1f}"
    columns = [None, *found["candidates"]]
    lines = [
        [source_name(source, dim), *(row[count] for count in columns)]
        for (source, dim), row in grid.items()
    ]
    (whole,) = (way for way in ways if way["search"] == "fine")
    head = [f"{title} R@1", "alone", *(f"+ {count}" for count in found["candidates"])]
    full = f"{found['pictures']:,} pictures; a full scan of the fine vectors finds"
    return f"{markdown(head, lines)}\n\n{full} {whole[direction]['R@1']:.1f}."


BENCH, SEARCH = "make bench", "python -m benchmarks.cpu_search"
EVALUATE = "python -m engine evaluate"
TABLES: dict[str, Callable[[], str]] = {
    "search": from_file("cpu_search", SEARCH, headline),
    "peers": from_file("cpu_search", SEARCH, peers),
    "widths": from_file("cpu_search", SEARCH, widths),
    "busy": from_file("busy", "python -m benchmarks.busy", busy),
    "searches": from_file("cpu_search", SEARCH, lambda found: cpu_search.tables(found["rows"])),
    "paper": from_file("paper", "python -m benchmarks.paper", paper.table),
    "scaling": from_file("scaling", "python -m benchmarks.scaling", scaling.table),
    "recipes": from_file("recipes", "python -m benchmarks.recipes", recipes.tables),
    "coarse": from_file("coarse_cpu", "python -m benchmarks.coarse_cpu", coarse),
    "encoders": from_file("encoders", "python -m benchmarks.encoders", lambda f: encoders.table(f["cases"])),
    "kernels": from_file("bench", BENCH, benchmarked("coarse_topk", "rerank_topk")),
    "modes": from_file("bench", BENCH, benchmarked("search")),
    "overhead": from_file("bench", BENCH, benchmarked("overhead")),
    "towers": from_file("bench", BENCH, benchmarked("encode")),
    "index": from_file("bench", BENCH, benchmarked("open", "open and search", "add and save", "verify")),
    "dims": from_file("dims", EVALUATE, partial(dims, direction="text_to_image", title="t→i")),
    "dims-images": from_file("dims", EVALUATE, partial(dims, direction="image_to_text", title="i→t")),
    "gpu": gpu_results,
    "gpu-brief": gpu_brief,
}  # fmt: skip

Section = tuple[str, str, list[str], list[str]]  # title, command, tables, plots
SECTIONS: tuple[Section, ...] = (
    ("Whole searches on the CPU, beside others", SEARCH, ["searches"],
     ["recall.png", "latency-n.png", "latency-b.png"]),
    ("The paper's table", "python -m benchmarks.paper", ["paper"], []),
    ("Searches by mode, and what they cost beyond the kernels", BENCH, ["modes", "overhead"], ["stages.png"]),
    ("Kernels on the CPU", BENCH, ["kernels"], []),
    ("The coarse search beside FAISS", "python -m benchmarks.coarse_cpu", ["coarse"], []),
    ("Encoders", "python -m benchmarks.encoders", ["encoders", "towers"], []),
    ("The index", BENCH, ["index"], []),
    ("Growth, and what it predicts", "python -m benchmarks.scaling", ["scaling"], []),
    ("Recipes of training", "python -m benchmarks.recipes", ["recipes"], []),
    ("On GPUs", "make gpu", ["gpu"], []),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
