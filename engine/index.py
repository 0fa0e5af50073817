"""`Index`: the vectors, ids and metadata of all items, in memory and as a directory. NumPy only.

An index is never changed: `append` and `without` return a new one, so a search that has begun keeps what it saw.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine import index_files
from engine.errors import IndexFormatError, InvalidArgument, UnknownId
from engine.strings import Strings

Id: TypeAlias = int | str
Array: TypeAlias = NDArray[Any]

VECTOR_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class CheckpointReference:
    """Which checkpoint made the vectors: where it was, and the SHA-256 over its files."""

    path: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Index:
    """All items of a collection.

    coarse: float32 or float16 `[N, d]`.  fine: float32 or float16 `[N, D]`.
    ids: int64 `[N]` or N strings, all different.
    metadata: None, or N JSON objects as text, "" where an item has none.
    reduction: None, or float32 `[D, d]` with coarse = fine @ reduction.
    normalize: whether vectors were scaled to unit length, and queries must be.
    checkpoint: None, or the one whose towers made the vectors.
    """

    coarse: Array
    fine: Array
    ids: NDArray[np.int64] | Strings
    metadata: Strings | None = None
    reduction: NDArray[np.float32] | None = None
    normalize: bool = False
    checkpoint: CheckpointReference | None = None
    path: Path | None = None

    # ------------------------------------------------------------------ reading

    def __len__(self) -> int:
        return len(self.fine)

    def __repr__(self) -> str:
        shapes = f"N={len(self)}, coarse={_shape(self.coarse)}, fine={_shape(self.fine)}"
        return f"Index({shapes}, bytes={self.coarse.nbytes + self.fine.nbytes:,})"

    def ids_at(self, rows: NDArray[np.int64]) -> list[Id]:
        """The ids of the given rows."""
        if isinstance(self.ids, Strings):
            return [self.ids[int(row)] for row in rows]
        return [int(id) for id in self.ids[rows]]

    def metadata_at(self, row: int) -> dict[str, Any] | None:
        """The metadata of one row, or None."""
        text = self.metadata[row] if self.metadata is not None else ""
        return json.loads(text) if text else None

    def rows_of(self, ids: Iterable[Id], argument: str = "ids") -> NDArray[np.int64]:
        """The rows that hold the given ids; UnknownId names the first that no row holds."""
        try:
            return np.array([self._row_of[id] for id in ids], dtype=np.int64)
        except KeyError as unknown:
            kind = "strings" if isinstance(self.ids, Strings) else "integers"
            raise UnknownId(
                argument,
                expected=f"ids that the index holds ({len(self):,} {kind})",
                got=repr(unknown.args[0]),
                remedy="Look the id up in `retriever.index.ids`, or add the item first.",
            ) from None

    @cached_property
    def _row_of(self) -> dict[Id, int]:
        ids = self.ids if isinstance(self.ids, Strings) else self.ids.tolist()
        return {id: row for row, id in enumerate(ids)}

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
    ) -> "Index":
        """Check everything, then make an index of it. `ids` default to 0…N-1."""
        for name, vectors in (("coarse", coarse), ("fine", fine)):
            check_vectors(name, vectors)
        if len(coarse) != len(fine):
            raise InvalidArgument(
                "coarse",
                expected=f"as many rows as fine ({len(fine)})",
                got=f"{len(coarse)} rows",
                remedy="Give both vectors of the same items, in the same order.",
            )
        return cls(
            coarse=np.ascontiguousarray(coarse),
            fine=np.ascontiguousarray(fine),
            ids=_packed_ids(np.arange(len(fine)) if ids is None else ids, len(fine)),
            metadata=_packed_metadata(metadata, len(fine)),
            reduction=reduction,
            normalize=normalize,
        )

    @classmethod
    def empty(
        cls,
        coarse_dim: int,
        fine_dim: int,
        checkpoint: CheckpointReference,
        *,
        reduces: bool = False,
    ) -> "Index":
        """No items yet, float32, for the vectors of one checkpoint.

        reduces: the checkpoint gives fine vectors only; the reduction, a prefix until then, is learned from the
            first items.
        """
        coarse, fine = (np.empty((0, dim), dtype=np.float32) for dim in (coarse_dim, fine_dim))
        reduction = np.eye(fine_dim, coarse_dim, dtype=np.float32) if reduces else None
        return cls(coarse, fine, np.arange(0), reduction=reduction, checkpoint=checkpoint)

    def emptied(self) -> "Index":
        """This index without its items."""
        return replace(
            self,
            coarse=np.empty_like(self.coarse[:0]),
            fine=np.empty_like(self.fine[:0]),
            ids=np.arange(0),
            metadata=None,
            path=None,
        )

    def next_ids(self, count: int) -> NDArray[np.int64]:
        """The `count` integers after the largest id; an index with string ids has no next one."""
        if len(self) and isinstance(self.ids, Strings):
            raise InvalidArgument(
                "ids",
                expected="an id per new item, since the index has string ids",
                got="None",
                remedy="Pass ids=[…].",
            )
        first = int(np.max(self.ids)) + 1 if len(self) else 0
        return np.arange(first, first + count)

    def append(self, other: "Index") -> "Index":
        """This index followed by the items of `other`, whose dims and kind of ids must agree."""
        for name in ("coarse", "fine"):
            mine, theirs = getattr(self, name).shape[1], getattr(other, name).shape[1]
            if mine != theirs:
                raise InvalidArgument(
                    name,
                    expected=f"vectors of {mine} dims, as the index has",
                    got=f"{theirs} dims",
                    remedy="Encode the new items with the encoder that made the index.",
                )
        if len(self) and isinstance(self.ids, Strings) != isinstance(other.ids, Strings):
            mine, theirs = (
                "strings" if isinstance(ids, Strings) else "integers"
                for ids in (self.ids, other.ids)
            )
            raise InvalidArgument(
                "ids",
                expected=mine,
                got=theirs,
                remedy="An index holds ids of one kind; pass ids=…",
            )
        for id in other.ids_at(np.arange(len(other))):
            if id in self._row_of:
                raise InvalidArgument(
                    "ids",
                    expected="ids that the index does not hold yet",
                    got=repr(id),
                    remedy="Remove the old item first, or choose another id.",
                )
        ids: NDArray[np.int64] | Strings
        if isinstance(other.ids, Strings):
            ids = Strings.of([*self.ids, *other.ids] if len(self) else other.ids)
        else:
            ids = np.concatenate([np.asarray(self.ids), other.ids]) if len(self) else other.ids
        metadata = None
        if self.metadata is not None or other.metadata is not None:
            metadata = Strings.of(
                text for part in (self, other) for text in part.metadata or [""] * len(part)
            )
        return replace(
            self,
            coarse=np.concatenate([self.coarse, other.coarse.astype(self.coarse.dtype)]),
            fine=np.concatenate([self.fine, other.fine.astype(self.fine.dtype)]),
            ids=ids,
            metadata=metadata,
            path=None,
        )

    def without(self, ids: Iterable[Id]) -> "Index":
        """This index less the items with the given ids; the others keep theirs."""
        keep = np.ones(len(self), dtype=bool)
        keep[self.rows_of(ids)] = False
        rows = np.flatnonzero(keep)
        return replace(
            self,
            coarse=self.coarse[rows],
            fine=self.fine[rows],
            ids=self.ids.take(rows),
            metadata=self.metadata.take(rows) if self.metadata is not None else None,
            path=None,
        )

    # ------------------------------------------------------------------ on disk

    def save(self, path: str | Path) -> "Index":
        """Write a directory, or replace the index in it; the same index, knowing its path, comes back.

        Whoever has the old one open keeps it: published files are never written to.
        """
        facts = {
            "count": len(self),
            "coarse_dim": self.coarse.shape[1],
            "fine_dim": self.fine.shape[1],
            "normalize": self.normalize,
            "checkpoint": asdict(self.checkpoint) if self.checkpoint else None,
        }
        index_files.write(Path(path), facts, self._arrays())
        return replace(self, path=Path(path))

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Map the index in a directory. Lengths, shapes and dtypes are checked; `verify` reads the bytes too."""
        directory = Path(path)
        try:
            facts, arrays = index_files.read(directory)
            reference = facts["checkpoint"]
            index = cls(
                coarse=arrays["coarse"],
                fine=arrays["fine"],
                ids=_unpacked(arrays, "ids"),
                metadata=_unpacked(arrays, "metadata") if "metadata_ends" in arrays else None,
                reduction=arrays.get("reduction"),
                normalize=facts["normalize"],
                checkpoint=CheckpointReference(**reference) if reference else None,
                path=directory,
            )
            count = facts["count"]
            expected = {"coarse": (count, facts["coarse_dim"]), "fine": (count, facts["fine_dim"])}
        except (KeyError, TypeError, AttributeError) as error:
            raise index_files.missing(directory, error) from None
        found = {"coarse": index.coarse.shape, "fine": index.fine.shape}
        lengths = {len(part) for part in (index.ids, index.metadata) if part is not None}
        if found != expected or lengths != {count}:
            raise IndexFormatError(
                f"{directory}: shapes {expected} and {count} ids expected by the manifest, got {found} "
                f"and {sorted(lengths)}. Build the index again."
            )
        return index

    def verify(self) -> None:
        """Read every byte on disk; IndexFormatError names the first file whose checksum differs."""
        if self.path is None:
            raise IndexFormatError(
                "This index is in memory only: save it, then open and verify it."
            )
        index_files.verify(self.path)

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"coarse": self.coarse, "fine": self.fine}
        if isinstance(self.ids, Strings):
            arrays |= {"ids_text": self.ids.text, "ids_ends": self.ids.ends}
        else:
            arrays["ids"] = self.ids
        if self.metadata is not None:
            arrays |= {"metadata_text": self.metadata.text, "metadata_ends": self.metadata.ends}
        if self.reduction is not None:
            arrays["reduction"] = self.reduction
        return arrays


def check_vectors(name: str, vectors: Array) -> None:
    """Refuse what cannot be stored: wrong rank or dtype, and NaN or inf, naming the first bad row."""
    if vectors.ndim != 2 or vectors.dtype.name not in VECTOR_DTYPES or not vectors.shape[1]:
        raise InvalidArgument(
            name,
            expected="a float32 or float16 array of rank 2 with at least one column",
            got=f"{vectors.dtype.name} of shape {vectors.shape}",
            remedy="Give one row per item.",
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise InvalidArgument(
            name,
            expected=f"finite values once stored as {vectors.dtype.name}",
            got=f"NaN or inf in row {row}",
            remedy="Mend or leave out that row; for values beyond float16's 65504, store float32.",
        )


def _packed_ids(ids: Sequence[Id] | Array, count: int) -> NDArray[np.int64] | Strings:
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if len(values) != count:
        raise InvalidArgument(
            "ids",
            expected=f"one id per item ({count})",
            got=f"{len(values)}",
            remedy="Give one each.",
        )
    kinds = {type(value) for value in values}
    if kinds - {int} and kinds - {str}:
        raise InvalidArgument(
            "ids",
            expected="all str or all int",
            got=", ".join(sorted(kind.__name__ for kind in kinds)),
            remedy="Convert them to one kind.",
        )
    if len(set(values)) != len(values):
        twice = Counter(values).most_common(1)[0][0]
        raise InvalidArgument(
            "ids",
            expected="different ids",
            got=f"{twice!r} twice",
            remedy="Give each item its own.",
        )
    if str in kinds:
        return Strings.of(map(str, values))
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise InvalidArgument(
            "ids", expected="integers that fit int64", got="a larger one", remedy="Use str ids."
        ) from None


def _packed_metadata(
    metadata: Sequence[Mapping[str, Any] | None] | None, count: int
) -> Strings | None:
    if metadata is None:
        return None
    if len(metadata) != count:
        raise InvalidArgument(
            "metadata",
            expected=f"one mapping or None per item ({count})",
            got=f"{len(metadata)}",
            remedy="Give one each.",
        )
    try:
        return Strings.of(
            json.dumps(item, ensure_ascii=False, allow_nan=False) if item else ""
            for item in metadata
        )
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            "metadata", expected="values that JSON can hold", got=str(error), remedy="Convert them."
        ) from None


def _unpacked(arrays: Mapping[str, Array], name: str) -> Any:
    """The int64 array `name`, or the strings whose text and ends stand under that name."""
    if name in arrays:
        return arrays[name]
    return Strings(arrays[f"{name}_text"], arrays[f"{name}_ends"])


def _shape(array: Array) -> str:
    return f"{array.shape[1]}x{array.dtype.name}"
