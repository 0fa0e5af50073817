"""`Contents`: what an index holds, and reading it. NumPy only."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.checks import check_list
from engine.errors import UnknownId
from engine.index.checks import Id, Ids, refuse_flags
from engine.index.columns import common_schema, matching
from engine.index.lookup import keys_of
from engine.index.manifest import NUMPY_DTYPES, Array, CheckpointReference, Header, Manifest
from engine.index.segment import NO_ROWS, Rows, Segment, join_ids
from engine.index.strings import Strings
from engine.system.forks import cached_property

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Contents:
    """All items of a collection.

    header: dims, dtypes and what else all vectors have in common.
    segments: none of them without rows.
    reduction: None, or float32 `[D, d]`; coarse = fine @ reduction, stretched to the length of fine.
    path, published: the directory it was opened from or saved to, and what its manifest said then.
    """

    header: Header
    segments: tuple[Segment, ...] = ()
    reduction: NDArray[np.float32] | None = None
    path: Path | None = None
    published: tuple[Manifest, str] | None = None

    def __len__(self) -> int:
        """How many items there are, deleted ones not counted."""
        return self._count

    def __repr__(self) -> str:
        head = self.header
        return (
            f"{type(self).__name__}(N={len(self)}, coarse={head.coarse_dim}x{head.coarse_dtype}, "
            f"fine={head.fine_dim}x{head.fine_dtype}, bytes={self.nbytes:,})"
        )

    @property
    def row_count(self) -> int:
        """How many rows there are, those of deleted items counted."""
        return sum(map(len, self.segments))

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return sum(segment.coarse.nbytes + segment.fine.nbytes for segment in self.segments)

    @property
    def normalize(self) -> bool:
        """Whether vectors were scaled to unit length, and queries must be."""
        return self.header.normalize

    @property
    def checkpoint(self) -> CheckpointReference | None:
        """The one whose towers made the vectors, or None."""
        return self.header.checkpoint

    @property
    def coarse(self) -> Array:
        """All coarse vectors `[rows, d]`; bfloat16 as its bits, uint16. A copy where there are several segments."""
        return self._column("coarse", self.header.coarse_dim, self.header.coarse_dtype)

    @property
    def fine(self) -> Array:
        """All fine vectors `[rows, D]`. A copy where there are several segments."""
        return self._column("fine", self.header.fine_dim, self.header.fine_dtype)

    @property
    def ids(self) -> Ids:
        """The ids of all rows: int64 or strings; those of deleted rows may be there again elsewhere."""
        return join_ids([segment.ids for segment in self.segments] or [np.arange(0)])

    @cached_property
    def live(self) -> NDArray[np.bool_] | None:
        """bool `[rows]`: which rows are not deleted; None where all are there."""
        if not any(len(segment.deleted) for segment in self.segments):
            return None
        return np.concatenate([segment.live() for segment in self.segments])

    def ids_at(self, rows: NDArray[np.int64]) -> list[Id]:
        """The ids of the given rows, int64 `[n]`; IndexError where there is no such row."""
        return self._looked_up(rows, Segment.ids_at)

    def metadata_at(self, row: int) -> dict[str, Any] | None:
        """The metadata of one row, without what is null, or None."""
        return self.metadata_of(np.array([row]))[0]

    def metadata_of(self, rows: NDArray[np.int64]) -> list[dict[str, Any] | None]:
        """The same of the given rows, int64 `[n]`; what is stored together is read once."""
        return self._looked_up(
            rows,
            lambda segment, here: (
                [None] * len(here) if segment.metadata is None else segment.metadata.of_rows(here)
            ),
        )

    @property
    def metadata_schema(self) -> Any:
        """The `pyarrow.Schema` of all metadata."""
        return common_schema([s.metadata for s in self.segments if s.metadata is not None])

    def matching(self, expression: Any) -> NDArray[np.bool_]:
        """bool `[rows]`: whose metadata a `pyarrow.compute.Expression` holds for; else InvalidArgument."""
        return matching([(part.metadata, len(part)) for part in self.segments], expression)

    def rows_of(self, ids: Iterable[Id], argument: str = "ids") -> NDArray[np.int64]:
        """The rows that hold the given ids; UnknownId names the first that no row holds.

        One id where a list is wanted is refused, and so is a mask of 0 and 1: it would name ids 0 and 1.
        """
        wanted = check_list(argument, ids, expected="a list of ids", ordered=False)
        refuse_flags(argument, ids, wanted, (len(self), self.row_count))
        rows = self.find(wanted)
        if (rows < 0).any():
            kind = {True: "strings", False: "integers", None: "items yet"}[self.holds_strings]
            raise UnknownId(
                argument,
                expected=f"ids that the index holds ({len(self):,} {kind})",
                got=repr(wanted[int((rows < 0).argmax())]),
                remedy="Leave it out, or add the item first.",
            )
        return rows

    def find(self, wanted: Sequence[Id]) -> Rows:
        """The row of each id, -1 where there is none: int64 `[n]`."""
        found = np.full(len(wanted), -1, dtype=np.int64)
        if self.holds_strings is None:
            return found
        places = [place for place, id in enumerate(wanted) if self._can_hold(id)]
        ids = [wanted[place] for place in places]
        if self.holds_strings:
            keys = keys_of([str(id) for id in ids])
        else:
            keys = np.array(ids, dtype=np.int64)
        rows = np.full(len(ids), -1, dtype=np.int64)
        for segment, start in zip(self.segments, self._starts, strict=False):
            here = segment.find(ids, keys)
            rows = np.where(here >= 0, here + start, rows)
        found[places] = rows
        return found

    def _can_hold(self, id: Any) -> bool:
        if self.holds_strings:
            return isinstance(id, str)
        whole = isinstance(id, int | np.integer) and not isinstance(id, bool)
        return whole and -(2**63) <= int(id) < 2**63

    @property
    def holds_strings(self) -> bool | None:
        """Whether ids are strings; None while there are no items."""
        return isinstance(self.segments[0].ids, Strings) if len(self) else None

    def rows_shared(self, other: "Contents") -> int:
        """How many first rows of both are in the same segments, so are the same for sure."""
        shared = 0
        for mine, theirs in zip(self.segments, other.segments, strict=False):
            if mine.fine is not theirs.fine or mine.coarse is not theirs.coarse:
                break
            shared += len(mine)
        return shared

    def rank_of(self, rows: Rows) -> Rows:
        """How many items come before each of these rows: what saving never changes, though rows move."""
        deleted = [s.deleted + start for s, start in zip(self.segments, self._starts, strict=False)]
        return rows - np.searchsorted(np.concatenate([NO_ROWS, *deleted]), rows)

    @property
    def unsaved(self) -> bool:
        """Whether there is anything that the directory does not hold, or there is none."""
        if self.published is None:
            return True
        if self.published[0].header != self.header:
            return True
        mine = [(len(segment), segment.files) for segment in self.segments]
        theirs = [(stored.rows, stored.files) for stored in self.published[0].segments]
        whole = all(len(s.deleted) == 0 or "deleted" in s.files for s in self.segments)
        return mine != theirs or not whole

    @cached_property
    def _count(self) -> int:
        return sum(segment.live_count for segment in self.segments)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first row of each segment, and the number of rows."""
        return np.cumsum([0, *map(len, self.segments)], dtype=np.int64)

    def _looked_up(
        self, rows: NDArray[np.int64], read: Callable[[Segment, NDArray[np.int64]], list[T]]
    ) -> list[T]:
        """For each row what `read` finds in its segment for the rows there; called once a segment."""
        rows = np.asarray(rows, dtype=np.int64)
        starts = self._starts
        if len(rows) and not (rows.min() >= 0 and rows.max() < starts[-1]):
            raise IndexError(f"rows of an index of {starts[-1]}: {rows.min()} to {rows.max()}")
        if len(self.segments) == 1:
            return read(self.segments[0], rows)
        numbers = np.searchsorted(starts, rows, side="right") - 1
        found = np.empty(len(rows), dtype=object)
        # Numbers of 8 or 16 bits are sorted much sooner than those of 64.
        order = np.argsort(numbers.astype(np.min_scalar_type(len(self.segments))), kind="stable")
        first = 0
        for number, count in enumerate(np.bincount(numbers, minlength=len(self.segments)).tolist()):
            if count:
                here = order[first : first + count]
                found[here] = read(self.segments[number], rows[here] - starts[number])
                first += count
        listed: list[T] = found.tolist()
        return listed

    def _column(self, name: str, dim: int, dtype: str) -> Array:
        parts: list[Array] = [getattr(segment, name) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, dim), NUMPY_DTYPES[dtype]), *parts])
