"""`Retriever.search` by mode, batch size and N, its stages, and what it costs beyond its two kernels.

Clustered vectors (`benchmarks.vectors`), D = 768 in float16, 64 coarse dims in int8, C = 128, k = 10.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import engine
from benchmarks.conftest import Timed
from benchmarks.timing import take_turns
from benchmarks.vectors import vectors
from engine.coarse.rounding import CoarseDtype, queries_to_int8
from engine.index.segment import Segment
from engine.queries.mode import Mode
from kernels import TopK, coarse_topk, rerank_topk

COUNTS, QUICK_COUNTS = (10_000, 100_000, 1_000_000), (10_000, 50_000)
WIDTH, CANDIDATES, K = 768, 128, 10
HITS = 100  # of each query whose ids are asked for
STAGES = ("encode", "coarse", "rerank")


@cache
def collection(count: int, dtype: CoarseDtype = "int8") -> tuple[engine.Retriever, Tensor]:
    items, queries = vectors("clusters", count, WIDTH, 256)
    return engine.Retriever.from_embeddings(
        items.half(), coarse_dtype=dtype, candidates=CANDIDATES
    ), queries


@pytest.fixture(params=range(len(COUNTS)), ids=["small", "middle", "large"])
def count(request: pytest.FixtureRequest, quick: bool) -> int:
    counts = QUICK_COUNTS if quick else COUNTS
    if request.param >= len(counts):
        pytest.skip("--quick searches small collections only")
    return counts[request.param]


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("mode", ["two_stage", "coarse", "exact"])
def test_search(timed: Timed, benchmark: Any, count: int, mode: Mode, batch: int) -> None:
    retriever, queries = collection(count)
    asked, stages = queries[:batch], []

    def search() -> engine.SearchResult:
        found = retriever.search(asked, K, mode=mode)
        stages.append(found.timings)
        return found

    found = timed(search, op="search", mode=mode, N=count, B=batch, D=WIDTH, k=K)
    benchmark.extra_info["stages"] = {
        stage: 1e3 * statistics.median(getattr(each, stage) for each in stages) for stage in STAGES
    }
    assert bool((found.rows >= 0).all())


@pytest.mark.parametrize("segments", [1, 8])
@pytest.mark.parametrize("ids", ["integers", "strings"])
def test_search_and_ids(timed: Timed, benchmark: Any, count: int, ids: str, segments: int) -> None:
    """A search of 256 queries for 100 hits each, and their ids: what share of the time these take."""
    whole, queries = collection(count)
    given = range(count) if ids == "integers" else [f"image-{row:09d}.jpg" for row in range(count)]
    retriever = engine.Retriever(in_segments(whole.index, given, segments), candidates=4 * HITS)
    times: dict[str, list[float]] = {"search": [], "ids": []}

    def search_and_ids() -> engine.SearchResult:
        started = time.perf_counter()
        found = retriever.search(queries, HITS)
        searched = time.perf_counter()
        found.ids  # noqa: B018  looked up now
        times["search"].append(1e3 * (searched - started))
        times["ids"].append(1e3 * (time.perf_counter() - searched))
        return found

    found = timed(search_and_ids, op="search and ids", ids=ids, segments=segments, N=count,
                  B=len(queries), D=WIDTH, k=HITS)  # fmt: skip
    assert found.ids == [[given[row] for row in rows] for rows in found.rows.tolist()]
    retriever.close()  # the benchmark's results refer to it, and a large one takes gigabytes
    took = {f"{name}_ms": statistics.median(each) for name, each in times.items()}
    benchmark.extra_info.update(took, share=took["ids_ms"] / took["search_ms"])


def in_segments(index: engine.Index, ids: Sequence[int | str], segments: int) -> engine.Index:
    """The vectors of `index` under other ids, in so many segments."""
    parts: list[Segment] = []
    for rows in np.array_split(np.arange(len(index)), segments):
        made = engine.Index.build(
            index.coarse[rows],
            index.fine[rows],
            ids=[ids[row] for row in rows.tolist()],
            quantization=index.header.quantization,
        )
        parts += made.segments
    return replace(index, segments=tuple(parts))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_overhead(timed: Timed, count: int, dtype: CoarseDtype) -> None:
    """A search of one query beside the two kernels on the same tensors, in turns: what all the rest costs."""
    retriever, queries = collection(count, dtype)
    snapshot = retriever._collection.snapshot
    given = snapshot.projection.queries(engine.Embeddings(None, queries[:1]))
    (fine,) = snapshot.fine.parts
    longest = 1.01 * snapshot.norm_so_far[1]
    coarse = given.coarse
    assert coarse is not None
    if dtype == "int8":
        coarse, _ = queries_to_int8(coarse)

    def kernels() -> TopK:
        listed = coarse_topk(coarse, snapshot.coarse, CANDIDATES, max_norm=longest)
        return rerank_topk(given.fine, fine, listed.rows, K)

    def search() -> engine.SearchResult:
        return retriever.search(queries[:1], K)

    assert bool((search().rows == kernels().rows).all())
    times = take_turns({"kernels": kernels, "search": search}, seconds=3, most=1000, pause=0)
    # Of neighbours in time: from minute to minute times differ by more than what is asked.
    pairs = zip(times["search"], times["kernels"], strict=False)
    over = statistics.median(whole - stages for whole, stages in pairs)
    timed(search, op="overhead", dtype=dtype, N=count, B=1, kernels_ms=statistics.median(times["kernels"]),
          overhead_us=1e3 * over, share=over / statistics.median(times["search"]))  # fmt: skip
