"""The paper's table on this machine: `python -m benchmarks.paper`.

HiVLP (arXiv 2205.12105) says of itself that it searches 1,427 to 120,649 times faster than the fusion model UNITER
and 2 to 5 times faster than the dual encoder LightningDOT. The same three ways, in one run:

    (a) fusion    UNITER-base's size: 12 layers of 768 over 36 regions and 16 words; every pair is one pass. The
                  regions' projection from 2,048 to 768 is one per picture, not per pair, and is not timed
    (b) FAISS     LightningDOT's way: a query encoder of BERT-base's size, then FAISS IndexFlatIP over 768 dims
    (c) ours      the same encoder, then `Retriever.search`: 64 dims in int8 over all items, 768 in float16 over
                  the candidates. The time of the whole call, the projection to 64 dims included

Weights are random: they cost the time of trained ones, and find nothing. Vectors to search are clusters, made by
`benchmarks.vectors`. A pool's size is the number of items that are searched, whichever way: so many pictures for
text→image, so many captions for image→text (of which the paper's data sets have five a picture). The search is the
same both ways, and timed once; the encoder is not: 16 words, or 36 regions of 2,048 numbers that a detector found.

A query asks alone (B = 1, as in both papers) or among 32. Candidates are as many as `Retriever.calibrate` finds
for a recall@10 of 0.99, by queries that are not asked later. Recall is that of the exact float32 answer. (a) is run
over a whole pool where that takes at most `--patience` seconds, else extrapolated from one batch of pairs.

From 1M items on there is only the search. Beyond 1M the fine vectors are mapped from disk in parts, the candidates
are those of the largest calibrated pool, recall is that of the exact float16 answer, and FAISS, which would not fit
in memory, is extrapolated. Every row is written as it ends, and not measured again by the same commit on the same
device: a run cut off goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import ROOT, THREADS
from benchmarks.paper_models import (
    BASE,
    REGION,
    REGIONS,
    Fusion,
    ImageEncoder,
    TextEncoder,
    in_both_dtypes,
    pairs_of,
    ready,
    some_words,
)
from benchmarks.rows import Row, Rows, origins
from benchmarks.timing import percentiles, take_turns
from benchmarks.vectors import points, vectors
from engine import Embeddings, Retriever
from engine.recall.candidates import FEWEST_CANDIDATES
from engine.tiers.plan import available_memory
from kernels import coarse_topk

RESULTS = Path(__file__).parent / "results" / "paper.json"
QUICK = ROOT / "build" / "benchmarks" / "paper.json"
PAPER = {"fusion": "1,427–120,649", "faiss": "2–5"}  # times faster, from its abstract
POOLS = (1_000, 5_000, 31_000, 123_000, 1_000_000, 10_000_000)
SEARCH_ONLY = 1_000_000  # from so many items on
IN_MEMORY = 1_000_000  # up to so many
BATCHES = (1, 32)
K, COARSE, FINE = 10, 64, 768
RECALL, CALIBRATING, ASKING = 0.99, 1000, 256  # queries
PAIRS = 32  # at a time through the fusion model
PART = 1_000_000  # items written at a time beyond memory
INSTALL = "pip install faiss-cpu"

Search = Callable[[Tensor], object]


def measure_batch(seconds: float) -> Row:
    """One batch of pairs."""
    torch.manual_seed(0)
    return {"pairs": PAIRS} | in_both_dtypes(Fusion(BASE), pairs_of(PAIRS, BASE), seconds)


def measure_all_pairs(count: int, dtype: str) -> Row:
    """One query with every item, in batches: no extrapolation."""
    torch.manual_seed(0)
    model, given = Fusion(BASE), pairs_of(PAIRS, BASE)
    run, last = (ready(model, [x[:n] for x in given], dtype) for n in (PAIRS, count % PAIRS))
    run()
    began = time.perf_counter()
    for _ in range(count // PAIRS):
        run()
    if count % PAIRS:
        last()
    return {"pool": count, "dtype": dtype, "ms": 1e3 * (time.perf_counter() - began)}


def measure_encoders(seconds: float) -> Row:
    """Query encoders, by batch size."""
    torch.manual_seed(0)
    text, image = TextEncoder(BASE), ImageEncoder(BASE)
    return {
        "text": {
            str(b): in_both_dtypes(text, [some_words(b, BASE)], seconds) for b in BATCHES
        },
        "image": {
            str(b): in_both_dtypes(image, [torch.randn(b, REGIONS, REGION)], seconds)
            for b in BATCHES
        },
    }  # fmt: skip


# ------------------------------------------------------------------ searches


def measure_search(count: int, seconds: float) -> Row:
    """Ours and FAISS over `count` items in memory."""
    needed = 14 * count * FINE  # float32 twice, float16, and float32 while it is projected
    if needed > available_memory():
        return {"pool": count, "skipped": f"{needed / 1e9:.0f} GB of memory needed"}
    items, queries = vectors("clusters", count, FINE, CALIBRATING + ASKING)
    tuning, asked = queries.split([CALIBRATING, ASKING])
    retriever = Retriever.from_embeddings(
        items.half(), coarse_dim=COARSE, coarse_dtype="int8", device="cpu"
    )
    chosen = retriever.calibrate(tuning, K, target_recall=RECALL)
    searches: dict[str, Search] = {"ours": partial(retriever.search, k=K)}
    flat = faiss_search(items)
    if flat is not None:
        searches["faiss"] = flat
    return {
        "pool": count,
        "candidates": chosen.candidates,
        "chosen_by": f"calibrate: recall {RECALL}, {CALIBRATING} queries",
        "recall": share_found(
            retriever.search(asked, K).rows, coarse_topk(asked, items, K, max_norm=1.01).rows
        ),
        "ms": timed(searches, asked, seconds),
    } | ({} if flat else {"faiss": f"not installed: {INSTALL}"})


def faiss_search(items: Tensor) -> Search | None:
    """FAISS's exact search, or None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    return lambda queries: index.search(queries.numpy(), K)


def measure_mapped(count: int, seconds: float, candidates: int, chosen_by: str) -> Row:
    """Ours over more items than memory holds in float32: an index written in parts, fine vectors mapped."""
    stored = count * (2 * FINE + COARSE + 8)
    resident = 2 * count * COARSE + 16 * PART * FINE  # coarse, growing; a part while it is made
    work = ROOT / "build"
    work.mkdir(exist_ok=True)
    if stored > 0.9 * shutil.disk_usage(work).free or resident > available_memory():
        needs = f"{stored / 1e9:.0f} GB on disk and {resident / 1e9:.0f} GB of memory needed"
        return {"pool": count, "skipped": needs}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        asked = write_clusters(count, Path(folder) / "index")
        with Retriever(Path(folder) / "index", device="cpu", fine_tier="disk") as retriever:
            search = partial(retriever.search, k=K, candidates=candidates)
            some = asked[: max(BATCHES)]
            exact = retriever.search(some, K, mode="exact").rows
            return {
                "pool": count,
                "candidates": candidates,
                "chosen_by": chosen_by,
                "recall": share_found(search(some).rows, exact),
                "ms": timed({"ours": search}, asked, seconds),
            }


def write_clusters(count: int, place: Path) -> Tensor:
    """An index of `benchmarks.vectors`' clusters, a segment for each part; returns queries `[ASKING, FINE]`."""
    drawn = points(count, FINE, dtype=torch.float16)
    with Retriever.from_embeddings(
        drawn(min(PART, count)),
        coarse_dim=COARSE, coarse_dtype="int8", device="cpu", fine_tier="disk",
    ) as retriever:  # fmt: skip
        retriever.save(place)
        for start in range(PART, count, PART):
            part = drawn(min(PART, count - start))
            retriever.add(embeddings=Embeddings(None, part))
            retriever.save()
    return drawn(ASKING).float()


def timed(searches: dict[str, Search], queries: Tensor, seconds: float) -> Row:
    """Milliseconds of a call, by search and batch size; each call asks the next queries."""

    def asking(search: Search, batch: int) -> Callable[[], object]:
        turns = itertools.cycle(queries[: len(queries) // batch * batch].split(batch))
        return lambda: search(next(turns))

    found: Row = {name: {} for name in searches}
    for batch in BATCHES:
        runs = {name: asking(search, batch) for name, search in searches.items()}
        for name, times in take_turns(runs, seconds=seconds).items():
            found[name][str(batch)] = percentiles(times)
    return found


def share_found(found: Tensor, true: Tensor) -> float:
    """Of the true rows `[B, k]`."""
    return float((found[:, :, None] == true[:, None, :]).any(1).double().mean())


# ------------------------------------------------------------------ the run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper")
    parser.add_argument("--quick", action="store_true", help="1K and 5K items, seconds each")
    parser.add_argument("--largest", type=int, default=POOLS[-1], help="pool, in items")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for all pairs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each timing")
    parser.add_argument("--out", type=Path, help="JSON file; that of --quick is under build")
    parser.add_argument("--table", action="store_true", help="print the table of --out")
    options = parser.parse_args(arguments)
    out = options.out or (QUICK if options.quick else RESULTS)
    if not options.table:
        torch.set_num_threads(THREADS)
        if options.quick:
            options.patience, options.seconds = 0.0, min(options.seconds, 1.0)
            options.largest = min(options.largest, POOLS[1])
        measure(Rows(out, options.quick), options.largest, options.patience, options.seconds)
    print(table(json.loads(out.read_text())))


def measure(rows: Rows, largest: int, patience: float, seconds: float) -> None:
    """Every row that is not there yet, the small pools first."""
    batch = rows.measured("fusion batch", lambda: measure_batch(seconds))
    rows.measured("encoders", lambda: measure_encoders(seconds))
    candidates, chosen_by = FEWEST_CANDIDATES, "the default"
    for count in (pool for pool in POOLS if pool <= largest):
        if count > IN_MEMORY:
            rows.measured(
                f"search {count}",
                partial(measure_mapped, count, seconds, candidates, chosen_by),
            )
            continue
        found = rows.measured(f"search {count}", partial(measure_search, count, seconds))
        if "skipped" not in found:
            candidates, chosen_by = found["candidates"], f"as for {count:,} items"
        if count < SEARCH_ONLY and extrapolated(batch, count) <= 1e3 * patience:
            rows.measured(
                f"fusion {count}", partial(measure_all_pairs, count, batch["dtype"])
            )  # fmt: skip


# ------------------------------------------------------------------ the table


def extrapolated(batch: Row, count: int) -> float:
    """Milliseconds for all pairs of one query, from those of one batch."""
    milliseconds: float = batch["ms"]["p50"] * count / batch["pairs"]
    return milliseconds


@dataclass(frozen=True)
class Cell:
    """Milliseconds a query; `about` = extrapolated; `why` there are none."""

    ms: float = math.nan
    about: bool = False
    why: str = "–"

    def __str__(self) -> str:
        if math.isnan(self.ms):
            return self.why
        return ("≈ " if self.about else "") + number(self.ms)

    def __add__(self, other: float) -> Cell:
        return Cell(self.ms + other, self.about, self.why)

    def over(self, other: Cell) -> str:
        """How many times `other`."""
        ratio = Cell(self.ms / other.ms, self.about or other.about)
        return str(ratio)


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def table(facts: Row) -> str:
    """Markdown: a line for each pool, direction and batch size; times are medians, milliseconds a query."""
    rows = {row["name"]: row for row in facts["rows"]}
    pools = sorted(
        (row for name, row in rows.items() if name.startswith("search ")),
        key=lambda row: int(row["pool"]),
    )
    lines = [
        "| items | asked by | B | encoder | (a) all pairs | (b) FAISS | (c) ours | (a)/(c) | (b)/(c) "
        "| (b)/(c), search alone | candidates | recall@10 |",
        "|---" * 12 + "|",
        f"| HiVLP's paper | | | | | | | {PAPER['fusion']} | {PAPER['faiss']} | | | |",
    ]
    for pool in pools:
        if "skipped" in pool:
            continue
        for tower in ("text", "image") if pool["pool"] < SEARCH_ONLY else (None,):
            lines += [_line(rows, pool, tower, batch) for batch in pool["ms"]["ours"]]
    return "\n".join([*lines, "", *_notes(rows, pools)])


def _line(rows: dict[str, Row], pool: Row, tower: str | None, batch: str) -> str:
    count, each = pool["pool"], int(batch)
    ours = Cell(pool["ms"]["ours"][batch]["p50"] / each)
    faiss = faiss_cell(rows, pool, batch)
    ends = [str(pool["candidates"]), f"{pool['recall']:.4f}"]
    head = [f"{count:,}", tower or "–", batch]
    if tower is None:
        cells = [*head, "–", "–", str(faiss), str(ours), "–", "–", faiss.over(ours), *ends]
    else:
        encoder = rows["encoders"][tower][batch]["ms"]["p50"] / each
        pairs = pairs_cell(rows, count)
        cells = [*head, number(encoder), str(pairs), str(faiss), str(ours)]
        cells += [pairs.over(ours + encoder), (faiss + encoder).over(ours + encoder)]
        cells += [faiss.over(ours), *ends]
    return f"| {' | '.join(cells)} |"


def pairs_cell(rows: dict[str, Row], count: int) -> Cell:
    """A query with all items through the fusion model."""
    if f"fusion {count}" in rows:
        return Cell(rows[f"fusion {count}"]["ms"])
    return Cell(extrapolated(rows["fusion batch"], count), about=True)


def faiss_cell(rows: dict[str, Row], pool: Row, batch: str) -> Cell:
    """As measured; beyond memory, in proportion to the largest pool that was."""
    if "faiss" in pool:
        return Cell(why=pool["faiss"])
    searches = [row for name, row in rows.items() if name.startswith("search ")]
    known = [row for row in searches if "faiss" in row.get("ms", ())]
    if "faiss" not in pool["ms"] and not known:
        return Cell()
    row = pool if "faiss" in pool["ms"] else max(known, key=lambda row: int(row["pool"]))
    times = row["ms"]["faiss"][batch]["p50"] / int(batch)
    return Cell(times * pool["pool"] / row["pool"], about=row is not pool)


def _notes(rows: dict[str, Row], pools: Sequence[Row]) -> list[str]:
    """What the figures are, under the table."""
    batch = rows["fusion batch"]
    chosen = dict.fromkeys(row["chosen_by"] for row in pools if "chosen_by" in row)
    notes = [
        "Milliseconds a query, medians. (a)/(c) and (b)/(c) are of encoder + search, and of the search alone where "
        "no encoder is given. The paper's figures are of its own hardware and trained models; ours have random "
        "weights, which serve for time only.",
        f"≈: not measured but in proportion: (a) to a batch of {batch['pairs']} pairs in {batch['dtype']}, "
        f"{number(batch['ms']['p50'])} ms; (b) to the largest pool that FAISS searched.",
        f"Items and queries are clusters, not pictures. Candidates: {'; '.join(chosen)}.",
        origins(list(rows.values())),
    ]
    skipped = [row for row in pools if "skipped" in row]
    return notes + [f"{row['pool']:,} items: skipped, {row['skipped']}." for row in skipped]


if __name__ == "__main__":
    main()
