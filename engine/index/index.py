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

from engine.checks import check_flag, check_path, unpicklable
from engine.errors import InvalidArgument, storing
from engine.index import changes, directory, saving
from engine.index.changes import OnConflict
from engine.index.checks import (
    Id,
    check_vectors,
    checked_metadata,
    packed_ids,
)
from engine.index.columns import Columns
from engine.index.contents import Contents
from engine.index.lock import WriterLock
from engine.index.lookup import Lookup
from engine.index.manifest import (
    COARSE_DTYPES,
    Array,
    CheckpointReference,
    Header,
    Quantization,
    dtype_name,
)
from engine.index.segment import Segment


@dataclass(frozen=True, eq=False, repr=False)
class Index(Contents):
    """All items of a collection: `Contents` says what they are and how to read them."""

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

    def reduced(
        self,
        reduction: NDArray[np.float32] | None,
        coarse: Sequence[Array],
        quantization: Quantization | None,
    ) -> "Index":
        """This index with another reduction and other coarse vectors, an array for each segment."""
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
            return cls._read(place.absolute())

    def refreshed(self) -> "Index":
        """What the directory holds now, with the segments that this index has already as they are."""
        place = saving.place_of(self, "refresh")
        with storing(place):
            return self._read(place, self.segments)

    @classmethod
    def _read(cls, place: Path, known: Sequence[Segment] = ()) -> "Index":
        """What lies in `place`; segments that are `known` as they are."""
        manifest, checksum, segments, reduction = directory.read(place, known)
        return cls(manifest.header, segments, reduction, place, (manifest, checksum))

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
