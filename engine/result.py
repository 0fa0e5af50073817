"""What a search returns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from engine.index import Id, Index

Guarantee: TypeAlias = Literal["exact", "certified", "calibrated"]


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


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best items of each query, best first; equal scores: the lower row first.

    scores: float32 `[B, k]`, -inf where fewer than k items were found.
    rows: int64 `[B, k]`, positions in the index at the time of the search, -1 there.
    guarantee: for each query why its hits are the exact k best, or None. "exact": every item that could be found
        was scored with the fine vectors. "certified": a bound shows that nothing left out can belong to them.
        "calibrated": the index was calibrated for this k, as it is now, and so many candidates as were kept have
        the recall it was calibrated for, in the mean over queries like those; nothing is known of this one.
    """

    scores: Tensor
    rows: Tensor
    timings: Timings
    guarantee: tuple[Guarantee | None, ...]
    _index: Index = field(repr=False)

    @cached_property
    def counts(self) -> Tensor:
        """How many items each query found: int64 `[B]`."""
        return (self.rows >= 0).sum(dim=1)

    @cached_property
    def ids(self) -> list[list[Id]]:
        """The caller's keys, a list per query, without padding."""
        rows = self.rows.cpu().numpy()
        return [self._index.ids_at(found[found >= 0]) for found in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, query: int) -> list[Hit]:
        """The hits of one query."""
        scores = self.scores[query].tolist()
        rows = self.rows[query].tolist()
        return [
            Hit(id, score, self._index.metadata_at(row))
            for id, score, row in zip(self.ids[query], scores, rows, strict=False)
        ]

    def __iter__(self) -> Iterator[list[Hit]]:
        return (self[query] for query in range(len(self)))

    def to_list(self) -> list[list[dict[str, Any]]]:
        """Plain lists and dictionaries, ready for JSON."""
        return [[hit._asdict() for hit in hits] for hits in self]

    def to_numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """`scores` float32 `[B, k]`, `rows` int64 `[B, k]` and `counts` int64 `[B]` as arrays, by name."""
        arrays = {"scores": self.scores, "rows": self.rows, "counts": self.counts}
        return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
