"""What a search returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.checks import check_count, check_number
from engine.errors import EngineError, InvalidArgument
from engine.index import Id, Index
from engine.system.forks import cached_property
from engine.system.json_values import json_value
from kernels import TopK
from kernels.topk import ordinary

Guarantee: TypeAlias = Literal["exact", "certified", "calibrated"]
# By place in the batch, why a query was not searched for.
Failures: TypeAlias = dict[int, EngineError]


class Hit(NamedTuple):
    """One item found for one query."""

    id: Id
    score: float
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds that each stage of one search took, for the whole batch."""

    encode: float
    coarse: float
    rerank: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timings":
        """Of one encoding, and then of both stages for each block of the batch."""
        encode, *stages = seconds
        return cls(encode, sum(stages[::2]), sum(stages[1::2]))


LARGEST_ANSWER = 1 << 28  # places of one answer, 12 bytes each
MOST_PADDING = 1 << 20  # places of one query, where there are fewer items


def check_k(given: Any, items: int, queries: int = 1) -> int:
    """How many hits are wanted of each query; InvalidArgument where memory for all of them would be needed.

    More than there are `items` is allowed, since the rest is padded, but not much more.
    """
    k = check_count("k", given)
    most = max(items, MOST_PADDING)
    if k > most or k * queries > LARGEST_ANSWER:
        raise InvalidArgument(
            "k",
            expected=f"at most {most:,}"
            if k > most
            else f"at most {LARGEST_ANSWER:,} hits of all {queries:,} queries",
            got=f"{k:,}" if k > most else f"{k * queries:,}",
            remedy=f"Ask for fewer: the index holds {items:,} items."
            if k > most
            else "Search with fewer queries at a time.",
        )
    return k


def answered(count: int, failed: Failures) -> Tensor:
    """bool `[count]`: which queries of a batch were searched for."""
    return torch.tensor([place not in failed for place in range(count)], dtype=torch.bool)


def with_failures(result: "SearchResult", failed: Failures) -> "SearchResult":
    """`result`, of the queries that were searched for, as one of all: the others have no hits, but errors."""
    count = len(result) + len(failed)
    there = answered(count, failed)
    width = result.rows.shape[1]
    scores = result.scores.new_full((count, width), -torch.inf)
    rows = result.rows.new_full((count, width), -1)
    scores[there], rows[there] = result.scores, result.rows
    guarantee = iter(result.guarantee)
    return replace(
        result,
        scores=scores,
        rows=rows,
        guarantee=tuple(None if place in failed else next(guarantee) for place in range(count)),
        errors=tuple(map(failed.get, range(count))),
    )


def check_min_score(given: Any) -> float | None:
    """The lowest score of a hit, or None for any."""
    if given is None:
        return None
    return check_number("min_score", given, remedy="For example: min_score=0.2.")


def padded(best: TopK, k: int, min_score: float | None = None) -> TopK:
    """`best` `[B, <= k]` as `[B, k]`, less what scores lower: row -1, score -inf where there is no hit."""
    missing = k - best.rows.shape[1]
    if missing:
        best = TopK(
            pad(best.scores, (0, missing), value=-torch.inf), pad(best.rows, (0, missing), value=-1)
        )
    if min_score is None:
        return best
    low = best.scores < min_score
    return TopK(best.scores.masked_fill(low, -torch.inf), best.rows.masked_fill(low, -1))


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best items of each query, best first; equal scores: the lower row first.

    scores: float32 `[B, k]`, -inf where fewer than k items were found.
    rows: int64 `[B, k]`, positions in the index at the time of the search, -1 there.
    guarantee: for each query why its hits are the exact k best, or None. "exact": every item that could be found
        was scored with the fine vectors. "certified": a bound shows that nothing left out can belong to them.
        "calibrated": the index was calibrated for this k, as it is now, and so many candidates as were kept have
        the recall it was calibrated for, in the mean over queries like those; nothing is known of this one.
    errors: for each query why it could not be searched for, or None; only on_error="report" leaves any.
    """

    scores: Tensor
    rows: Tensor
    timings: Timings
    guarantee: tuple[Guarantee | None, ...]
    _index: Index = field(repr=False)
    errors: tuple[EngineError | None, ...] = ()

    @classmethod
    def of(
        cls,
        best: TopK,
        guarantee: tuple[Guarantee | None, ...],
        seconds: Sequence[float],
        index: Index,
        failed: Failures,
    ) -> "SearchResult":
        """What was found in `index` for the queries of a batch that have not `failed`: `[B - len(failed), k]`."""
        found = cls(
            *ordinary(best), Timings.of(seconds), guarantee, index, (None,) * len(guarantee)
        )
        return with_failures(found, failed) if failed else found

    @cached_property
    def counts(self) -> Tensor:
        """How many items each query found: int64 `[B]`."""
        return (self.rows >= 0).sum(dim=1)

    @cached_property
    def ids(self) -> list[list[Id]]:
        """The caller's keys, a list per query, without padding."""
        rows = self.rows.cpu().numpy()
        ids = iter(self._index.ids_at(rows[rows >= 0]))
        return [list(islice(ids, count)) for count in self.counts.tolist()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, query: int) -> list[Hit]:
        """The hits of one query."""
        scores = self.scores[query].tolist()
        ids = self.ids[query]
        metadata = self._index.metadata_of(self.rows[query][: len(ids)].cpu().numpy())
        return [Hit(*hit) for hit in zip(ids, scores, metadata, strict=False)]

    def __iter__(self) -> Iterator[list[Hit]]:
        return (self[query] for query in range(len(self)))

    def to_list(self) -> list[list[dict[str, Any]]]:
        """Plain lists and dictionaries of what JSON can hold (`engine.system.json_values`)."""
        return [[json_value(hit._asdict()) for hit in hits] for hits in self]

    def to_numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """`scores` float32 `[B, k]`, `rows` int64 `[B, k]` and `counts` int64 `[B]` as arrays, by name."""
        arrays = {"scores": self.scores, "rows": self.rows, "counts": self.counts}
        return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
