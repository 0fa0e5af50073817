"""The whole search on a GPU, vectors in and the best k out, beside its peers: `benchmarks.gpu` runs it.

Ours is `Retriever.search`, with coarse and fine vectors in float16 on the device, called as anybody calls it after
a `warmup`: its checks and the clock between its stages are part of the time. Torch's peers are CUDA graphs. Every
call, a peer's too, ends with its answer there.
Items and queries are `benchmarks.vectors.clusters`, made on the device; their coarse vectors are a PCA of the fine
ones, scaled to unit length as a trained head gives them (peers that know only L2 need that).

Before any time is taken our answers are checked against plain float32 products, ties and rounding aside: "exact"
gives the best scores that there are; two stages give those of the best candidates. Recall is the share of the exact
k best rows. Bytes are those of the vectors a method reads and of what it takes beside them, whoever takes it: by so
much more of the GPU is held after its search.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.peers import COPYING_PEERS, EXACT_PEERS, TWO_STAGE_PEERS, chunked, outcome
from benchmarks.timing import milliseconds, percentiles
from engine import Embeddings, Retriever, SearchResult
from engine.coarse.reduction import learn_reduction, reduced
from kernels import TopK

__all__ = ["FULL", "TINY", "Sizes", "launches", "run"]

PART = 1 << 18  # items cast to float32 at a time
ROUNDING = 1e-5  # of a float32 score of unit vectors, at most
CALL_LIMIT_S = 1.0  # what takes longer is called once
OURS = ("ours", "ours, exact")


@dataclass(frozen=True)
class Sizes:
    """Everything that is searched: pools are (N, D), those of most interest first."""

    pools: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    candidates: tuple[int, ...]
    coarse: int
    k: int = 10


FULL = Sizes(
    ((1_000_000, 768), (100_000, 768), (10_000_000, 512), (1_000_000, 512), (100_000, 512)),
    (1, 32, 256),
    (128, 1024),
    64,
)
TINY = Sizes(((100, 32),), (2,), (12,), 16, 4)

Row = dict[str, Any]


def heads(sizes: Sizes) -> Iterator[Row]:
    """The rows of the report without their figures, in order: ours first, for each pool and batch."""
    two_stage, exact = ["ours", *TWO_STAGE_PEERS], ["ours, exact", *EXACT_PEERS]
    asked: list[tuple[str, int | None]] = []
    asked += ((name, count) for count in sizes.candidates for name in two_stage)
    asked += ((name, None) for name in exact)
    asked.sort(key=lambda each: each[0] not in OURS)
    for (count, width), batch in itertools.product(sizes.pools, sizes.batches):
        for method, candidates in asked:
            yield {"N": count, "D": width, "d": sizes.coarse, "B": batch, "k": sizes.k,
                   "candidates": candidates, "method": method}  # fmt: skip


def launches(sizes: Sizes) -> Iterator[tuple[str, int, int, int, int]]:
    """(op, B, N or C, d or D, k) of every kernel that ours will launch, to be compiled beforehand."""
    for (count, width), batch, candidates in itertools.product(
        sizes.pools, sizes.batches, sizes.candidates
    ):
        yield "coarse", batch, count, sizes.coarse, candidates
        yield "rerank", batch, candidates, width, sizes.k


# ------------------------------------------------------------------ what is searched


@dataclass(frozen=True)
class Pool:
    """Items and the largest batch of queries, float16 on the device, and our retriever over the same items."""

    items: Embeddings
    queries: Embeddings
    retriever: Retriever


def pool_of(count: int, width: int, coarse: int, queries: int, device: torch.device) -> Pool:
    """N items of D dims and their `coarse` dims; the retriever holds a copy of its own."""
    from benchmarks.vectors import clusters  # brings transformers along

    made = [part.half() for part in clusters(count, width, queries, device)]
    matrix = learn_reduction(made[0], coarse).to(device)
    items, asked = (Embeddings(reduced(fine, matrix).half(), fine) for fine in made)
    retriever = Retriever.from_embeddings(
        items.fine,
        items.coarse,
        device=device.type,
        backend="triton" if device.type == "cpu" else "auto",  # on a CPU: interpreted
        fine_tier="device",
    )
    return Pool(items, asked, retriever)


def exact_topk(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and rows of the best k by the float32 product, in no order among equals."""
    return chunked(
        queries.float(),
        items,
        min(k, len(items)),
        lambda asked, part, least: torch.topk(asked @ part.float().T, min(least, len(part))),
        PART,
    )


# ------------------------------------------------------------------ right or wrong


def fault(
    found: TopK, queries: Embeddings, items: Embeddings, best: Tensor, candidates: int | None
) -> str:
    """Why our answer is wrong, or "". best: the exact k best scores `[B, k]`; candidates: None = exact mode.

    Where the last candidates have equal coarse scores, but for rounding, any of them may be among them: so what is
    found must be a candidate by that margin, and as good as the best of the candidates that are so by any rounding.
    """
    rows, scores = found.rows, found.scores
    if bool((rows < 0).any()) or bool((rows >= len(items)).any()):
        return "rows outside 0 ... N - 1"
    if bool((rows.sort(dim=1).values.diff(dim=1) == 0).any()):
        return "a row twice"
    if not _near(scores, _scores(queries.fine, items.fine, rows)):
        return "scores are not those of the rows"
    if bool((scores.diff(dim=1) > 0).any()):
        return "not in order"
    if candidates is None:
        return "" if _near(scores, best) else "not the best there are"
    assert queries.coarse is not None
    assert items.coarse is not None
    coarse, listed = exact_topk(queries.coarse, items.coarse, candidates)
    least = coarse[:, -1:]
    if bool((_scores(queries.coarse, items.coarse, rows) < least - ROUNDING).any()):
        return "rows that are no candidates"
    sure = _scores(queries.fine, items.fine, listed).masked_fill(coarse < least + ROUNDING, -2.0)
    expected = torch.topk(sure, scores.shape[1]).values
    return "" if bool((scores >= expected - ROUNDING).all()) else "not the best candidates"


def _scores(queries: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """float32 `[B, n]` of given rows."""
    return torch.bmm(items[rows].float(), queries.float()[:, :, None])[:, :, 0]


def _near(left: Tensor, right: Tensor) -> bool:
    return bool(((left - right).abs() <= ROUNDING).all())


def recall(rows: Tensor, exact: Tensor) -> float:
    """The share of the exact rows `[B, k]` that were found."""
    return float((rows[:, :, None] == exact[:, None, :]).any(dim=1).float().mean())


# ------------------------------------------------------------------ figures


def our_search(
    pool: Pool, queries: Embeddings, k: int, candidates: int | None
) -> Callable[[], SearchResult]:
    mode: Literal["exact", "two_stage"] = "exact" if candidates is None else "two_stage"
    return lambda: pool.retriever.search(queries, k, mode=mode, candidates=candidates)


def measured_ours(head: Row, pool: Pool, queries: Embeddings, exact: Tensor) -> Row:
    """Figures of a search that was found to be right, with the median milliseconds of its stages."""
    search = our_search(pool, queries, head["k"], head["candidates"])
    results: list[SearchResult] = []

    def called() -> Tensor:
        results.append(search())
        return results[-1].rows

    def warmed_up() -> Callable[[], Tensor]:
        if head["candidates"] is not None:
            pool.retriever.warmup((len(queries),), head["k"], candidates=head["candidates"])
        return called

    figures = measured(warmed_up, exact, _read(head, pool.items))
    timed = results[-figures["runs"] :]
    figures["stages"] = {
        stage: 1e3 * statistics.median(getattr(result.timings, stage) for result in timed)
        for stage in ("encode", "coarse", "rerank")
    }
    return figures


def measured_peer(head: Row, pool: Pool, queries: Embeddings, exact: Tensor) -> Row:
    """Figures of a peer; raises whatever it raises."""
    prepare = {**EXACT_PEERS, **TWO_STAGE_PEERS}[head["method"]]
    build = partial(prepare, queries, pool.items, head["k"], head["candidates"])
    return measured(build, exact, _read(head, pool.items))


def _read(head: Row, items: Embeddings) -> int:
    """Bytes of the given vectors that a search reads; of none where it made a copy for itself."""
    if head["method"] in COPYING_PEERS:
        return 0
    assert items.coarse is not None
    return items.fine.nbytes + (0 if head["candidates"] is None else items.coarse.nbytes)


def measured(prepare: Callable[[], Callable[[], Tensor]], exact: Tensor, read: int) -> Row:
    """p50, p95, p99 in milliseconds, qps, recall and bytes of a search that returns rows `[B, k]`."""
    device = exact.device
    before = _taken(device, afresh=True)
    search = prepare()
    _taken(device, afresh=True)  # what was needed to prepare only does not count
    rows = search()
    taken = _taken(device) - before

    def whole() -> None:
        search()
        _wait(device)

    times = percentiles(milliseconds(whole, device, CALL_LIMIT_S))
    return {
        **times,
        "qps": 1e3 * len(exact) / times["p50"],
        "recall": recall(rows, exact),
        "bytes": read + max(taken, 0),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _taken(device: torch.device, *, afresh: bool = False) -> int:
    """Bytes of the GPU that anybody holds, torch's caches and graphs too; afresh: once those caches are empty."""
    if device.type != "cuda":
        return 0
    _wait(device)
    if afresh:
        torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return total - free


# ------------------------------------------------------------------ the run


def run(report: dict[str, Any], sizes: Sizes, device: torch.device, until: float) -> None:
    """Fills `report["search"]`; `wrong` and `not_reached` get what is so. Each pool has its share of the time."""
    todo = [
        list(asked)
        for _, asked in itertools.groupby(heads(sizes), key=lambda head: (head["N"], head["D"]))
    ]
    for place, asked in enumerate(todo):
        now = time.monotonic()
        if now > until:
            report["not_reached"] += ({"section": "search", **head} for head in asked)
            continue
        count, width = asked[0]["N"], asked[0]["D"]
        pool = pool_of(count, width, sizes.coarse, max(sizes.batches), device)
        _search_pool(report, asked, pool, now + (until - now) / (len(todo) - place))
        pool.retriever.close()
        del pool  # before the next is made


def _search_pool(report: dict[str, Any], asked: list[Row], pool: Pool, until: float) -> None:
    """Every method for one pool: all of ours are checked, then timed; then the peers, one after another."""
    rows: dict[int, Row] = {}
    exact: dict[int, tuple[Tensor, Tensor]] = {}
    ours = [place for place, head in enumerate(asked) if head["method"] in OURS]
    peers = [place for place in range(len(asked)) if place not in ours]
    for place in ours:
        head, queries = asked[place], _of(pool, asked[place]["B"])
        if head["B"] not in exact:
            exact[head["B"]] = exact_topk(queries.fine, pool.items.fine, head["k"])
        found = our_search(pool, queries, head["k"], head["candidates"])()
        best, _ = exact[head["B"]]
        wrong = fault(TopK(found.scores, found.rows), queries, pool.items, best, head["candidates"])
        if wrong:
            report["wrong"].append({"section": "search", **head, "fault": wrong})
            print(f"WRONG {head}: {wrong}", flush=True)
    methods = list(TWO_STAGE_PEERS) + list(EXACT_PEERS)
    peers.sort(key=lambda place: methods.index(asked[place]["method"]))
    for place in [] if report["wrong"] else [*ours, *peers]:
        head, queries = asked[place], _of(pool, asked[place]["B"])
        if time.monotonic() > until:
            report["not_reached"].append({"section": "search", **head})
            continue
        _, best_rows = exact[head["B"]]
        if head["method"] in OURS:
            figures = measured_ours(head, pool, queries, best_rows)
        else:
            figures = outcome(partial(measured_peer, head, pool, queries, best_rows))
        rows[place] = {**head, **figures}
        print(line(rows[place]), flush=True)
    report["search"] += (rows[place] for place in sorted(rows))


def _of(pool: Pool, batch: int) -> Embeddings:
    """The first queries."""
    coarse, fine = pool.queries.coarse, pool.queries.fine
    assert coarse is not None
    return Embeddings(coarse[:batch], fine[:batch])


def line(row: Row) -> str:
    """One row, to be read while it runs."""
    kept = "all" if row["candidates"] is None else row["candidates"]
    head = f"N {row['N']:<9} D {row['D']:<4} B {row['B']:<4} of {kept:<5} {row['method']:27}"
    if "p50" not in row:
        return f"{head} {next(row[why] for why in row if why.startswith(('not_', 'failed')))}"
    stages = " + ".join(f"{value:.3f}" for value in row.get("stages", {}).values())
    return (
        f"{head} {row['p50']:9.3f} ms (p99 {row['p99']:.3f})  recall {row['recall']:.4f}"
        f"  {row['bytes'] / 1e9:.2f} GB  {stages}"
    )
