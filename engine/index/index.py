"""`Index`: the vectors, ids and metadata of all items, in memory and as a directory. NumPy only.

An index is a list of segments, and a value: `append`, `without`, `compact` and `save` return a new one, so a search
that has begun keeps what it saw. Rows are those of its segments, one after the other; they count deleted items too,
until a change or a save lets go of many. Items keep their order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.checks import check_flag, check_list, check_path, unpicklable
from engine.errors import InvalidArgument, UnknownId, storing
from engine.index import changes, saving
from engine.index.changes import OnConflict
from engine.index.checks import (
    Id,
    Ids,
    check_vectors,
    checked_metadata,
    packed_ids,
    refuse_flags,
)
from engine.index.columns import Columns, matching
from engine.index.lock import WriterLock
from engine.index.lookup import Lookup, keys_of
from engine.index.manifest import (
    COARSE_DTYPES,
    NUMPY_DTYPES,
    Array,
    CheckpointReference,
    Header,
    Manifest,
    Quantization,
    dtype_name,
)
from engine.index.segment import NO_ROWS, Rows, Segment, join_ids
from engine.index.strings import Strings
from engine.system.forks import cached_property


@dataclass(frozen=True, eq=False)
class Index:
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

    # ------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """How many items there are, deleted ones not counted."""
        return self._count

    def __repr__(self) -> str:
        head = self.header
        return (
            f"Index(N={len(self)}, coarse={head.coarse_dim}x{head.coarse_dtype}, "
            f"fine={head.fine_dim}x{head.fine_dtype}, bytes={self.nbytes:,})"
        )

    def __reduce__(self) -> Any:
        """Pickled: by its directory where that holds it; else by value, in memory again."""
        if self.path is None:
            return Index, (self.header, self.segments, self.reduction)
        if self.unsaved:
            raise unpicklable(
                self,
                expected="an index without changes that are not saved",
                remedy="Call save() first.",
            )
        return Index.open, (self.path,)

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
        """The ids of the given rows."""
        places = [self._place(row) for row in np.asarray(rows).tolist()]
        return [
            segment.ids[row] if isinstance(segment.ids, Strings) else int(segment.ids[row])
            for segment, row in places
        ]

    def metadata_at(self, row: int) -> dict[str, Any] | None:
        """The metadata of one row, without what is null, or None."""
        segment, row = self._place(row)
        return None if segment.metadata is None else segment.metadata.at(row)

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
                remedy="Add the item first; `index.find([id])` says -1 where there is none.",
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

    def rows_shared(self, other: "Index") -> int:
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

    @cached_property
    def _count(self) -> int:
        return sum(segment.live_count for segment in self.segments)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first row of each segment, and the number of rows."""
        return np.cumsum([0, *map(len, self.segments)], dtype=np.int64)

    def _place(self, row: int) -> tuple[Segment, int]:
        """The segment that holds a row, and which of its rows that is."""
        row = range(self.row_count)[row]
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.segments[number], row - int(self._starts[number])

    def _column(self, name: str, dim: int, dtype: str) -> Array:
        parts: list[Array] = [getattr(segment, name) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, dim), NUMPY_DTYPES[dtype]), *parts])

    # ------------------------------------------------------------------ building

    @classmethod
    def build(
        cls,
        coarse: Array,
        fine: Array,
        *,
        ids: Sequence[Id] | Array | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        reduction: NDArray[np.float32] | None = None,
        normalize: bool = False,
        quantization: Quantization | None = None,
    ) -> "Index":
        """Check everything, then make an index of it, in memory.

        Args:
            coarse: float32, float16, int8 or, as bfloat16's bits, uint16 `[N, d]`.
            fine: float32 or float16 `[N, D]`.
            ids: N different str or int64; default 0…N-1.
            metadata: N mappings or None; values of one key are of one type that Parquet can hold.
            quantization: how int8 coarse vectors were made.
        """
        check_vectors("coarse", coarse, COARSE_DTYPES)
        check_vectors("fine", fine)
        if len(coarse) != len(fine):
            raise InvalidArgument(
                "coarse",
                expected=f"as many rows as fine ({len(fine)})",
                got=f"{len(coarse)} rows",
                remedy="Give both vectors of the same items, in the same order.",
            )
        if (quantization is None) != (dtype_name(coarse) != "int8"):
            raise InvalidArgument(
                "quantization",
                expected="how int8 coarse vectors were made, and None for others",
                got=repr(quantization),
                remedy='Retriever.from_embeddings(…, coarse_dtype="int8") makes both.',
            )
        header = Header(
            coarse.shape[1],
            dtype_name(coarse),
            fine.shape[1],
            dtype_name(fine),
            check_flag("normalize", normalize),
            quantization=quantization,
        )
        packed = packed_ids(np.arange(len(fine)) if ids is None else ids, len(fine))
        metadata = None if metadata is None else checked_metadata(metadata)
        if metadata is not None and len(metadata) != len(fine):
            raise InvalidArgument(
                "metadata",
                expected=f"one mapping or None per item ({len(fine)})",
                got=f"{len(metadata)}",
                remedy="Give one each.",
            )
        segment = Segment(
            np.ascontiguousarray(coarse),
            np.ascontiguousarray(fine),
            packed,
            Lookup.of(packed),
            None if metadata is None else Columns.of(metadata),
        )
        return cls(header, (segment,) if len(segment) else (), reduction)

    @classmethod
    def empty(
        cls,
        coarse_dim: int,
        fine_dim: int,
        checkpoint: CheckpointReference,
        *,
        reduces: bool = False,
        coarse_dtype: str = "float32",
    ) -> "Index":
        """No items yet, for the vectors of one checkpoint; the fine ones in float32.

        reduces: the checkpoint gives fine vectors only; the reduction, a prefix until then, is learned from the
            first items. So is the scale of int8.
        """
        header = Header(
            coarse_dim,
            coarse_dtype,
            fine_dim,
            "float32",
            quantization=Quantization(1.0, 0, 1.0) if coarse_dtype == "int8" else None,
            checkpoint=checkpoint,
        )
        reduction = np.eye(fine_dim, coarse_dim, dtype=np.float32) if reduces else None
        return cls(header, reduction=reduction)

    # ------------------------------------------------------------------ changing

    def emptied(self) -> "Index":
        """This index without its items, in memory."""
        return Index(self.header, reduction=self.reduction)

    def reduced(
        self,
        reduction: NDArray[np.float32],
        coarse: Sequence[Array],
        quantization: Quantization | None,
    ) -> "Index":
        """This index with another reduction, and the coarse vectors made by it, an array for each segment."""
        segments = tuple(
            replace(segment, coarse=made, files={})
            for segment, made in zip(self.segments, coarse, strict=True)
        )
        header = replace(self.header, quantization=quantization)
        return replace(self, header=header, segments=segments, reduction=reduction)

    def next_ids(self, count: int) -> NDArray[np.int64]:
        """The `count` integers after the largest id; an index with string ids has no next one."""
        if self.holds_strings:
            raise InvalidArgument(
                "ids",
                expected="an id per new item, since the index has string ids",
                got="None",
                remedy="Pass ids=[…].",
            )
        lookups = [segment.lookup.keys for segment in self.segments if len(self)]
        first = max((int(keys[-1]) for keys in lookups if len(keys)), default=-1) + 1
        return np.arange(first, first + count)

    def append(self, other: "Index", on_conflict: OnConflict = "error") -> "Index":
        """This index followed by the items of `other`, whose dims, dtypes and kind of ids must agree.

        on_conflict: what to do with an item whose id is there already. "error": refuse all. "replace": delete the
            old item; the new one is a new row. "skip": leave the new one out.
        """
        return changes.append(self, other, on_conflict)

    def without(self, ids: Iterable[Id]) -> "Index":
        """This index less the items with the given ids; the others keep theirs, and their rows."""
        return changes.without_rows(self, self.rows_of(ids))

    def compact(self, lock: WriterLock | None = None) -> "Index":
        """The same items in one segment without deleted rows: rows change, ids do not.

        Where the index lies in a directory, it is saved there like that, other changes included, in pieces: memory
        for all vectors is not needed. `lock` as in `save`.
        """
        if self.path is None:
            return changes.compact(self)
        with storing(self.path):
            return saving.compact(self, lock)

    # ------------------------------------------------------------------ on disk

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

    def save(
        self,
        path: str | Path | None = None,
        lock: WriterLock | None = None,
        *,
        overwrite: bool = False,
    ) -> "Index":
        """Write what is new to a directory (None: where it was opened from); the same index, mapped, comes back.

        Durable when it returns; on any failure the directory holds what it held before. Whoever has it open keeps
        what they see: published files are never written to.

        Args:
            lock: the directory's writer lock, where the caller holds it; else it is taken for the time of saving.
            overwrite: replace another index that `path` holds; it stays whole until the new one is durable.

        Raises IndexLocked where another has it, IndexChanged where another has published since this was opened,
        InvalidArgument where `path` holds another index.
        """
        path = None if path is None else check_path("path", path)
        with storing(path or self.path):
            return saving.save(self, path, lock, overwrite)

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Map the index in a directory: milliseconds, however large.

        The manifest, all lengths, shapes and dtypes are checked; `verify` reads the bytes too.
        """
        place = check_path("path", path)
        with storing(place):
            return saving.read(place.absolute(), ())

    def refreshed(self) -> "Index":
        """What the directory holds now, with the segments that this index has already as they are."""
        place = saving.place_of(self, "refresh")
        with storing(place):
            return saving.read(place, self.segments)

    def check_current(self, lock: WriterLock | None = None) -> None:
        """Raise IndexChanged if the directory holds another state than this was opened from.

        lock: the writer lock; a state that an interrupted save published under it is no other.
        """
        with storing(self.path):
            saving.check_current(self, lock)

    def verify(self) -> None:
        """Read every byte on disk; IndexFormatError names the first file whose checksum differs."""
        with storing(self.path):
            saving.verify(self)
