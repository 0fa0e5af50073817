"""`Segment`: the items of one `add`. Only its set of deleted rows is ever replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError
from engine.index.checks import Id, Ids
from engine.index.columns import Columns
from engine.index.columns import joined as joined_columns
from engine.index.lookup import Keys, Lookup
from engine.index.manifest import Array, StoredFile
from engine.index.remedies import VERIFY
from engine.index.strings import Strings

Rows = NDArray[np.int64]

NO_ROWS: Rows = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Segment:
    """n items.

    coarse `[n, d]`, fine `[n, D]`; ids: int64 `[n]` or n strings; lookup: of those ids that are not deleted.
    deleted: int64, the rows that are no longer there, ascending.
    files: those that hold this segment, by what they hold; none where it is not saved yet.
    """

    coarse: Array
    fine: Array
    ids: Ids
    lookup: Lookup
    metadata: Columns | None = None
    deleted: Rows = field(default_factory=lambda: NO_ROWS)
    files: Mapping[str, StoredFile] = field(default_factory=dict)

    def __len__(self) -> int:
        """Its rows, deleted ones too."""
        return len(self.fine)

    @property
    def live_count(self) -> int:
        return len(self.fine) - len(self.deleted)

    @property
    def saved(self) -> bool:
        """Whether files hold all of it but, perhaps, its deleted rows."""
        return bool(self.files)

    def live(self) -> NDArray[np.bool_]:
        """bool `[n]`: which rows are not deleted."""
        deleted = self.deleted
        ascending = (deleted[1:] > deleted[:-1]).all()
        if len(deleted) and not (ascending and deleted[0] >= 0 and deleted[-1] < len(self)):
            raise IndexFormatError(
                "deleted rows of an index",
                expected=f"ascending rows below {len(self)}",
                got="others",
                remedy=VERIFY,
            )
        live = np.ones(len(self), dtype=bool)
        live[deleted] = False
        return live

    def find(self, wanted: Sequence[Id], keys: Keys) -> Rows:
        """The row that holds each wanted id, -1 where none does or it is deleted."""
        rows = self.lookup.find(self.ids, wanted, keys)
        if len(self.deleted):
            places = np.searchsorted(self.deleted, rows)
            gone = self.deleted[np.minimum(places, len(self.deleted) - 1)] == rows
            rows = np.where(gone, -1, rows)
        return rows

    def ids_at(self, rows: Rows) -> list[Id]:
        """The ids of these rows, in their order."""
        ids: list[Any] = (
            self.ids.at(rows) if isinstance(self.ids, Strings) else self.ids[rows].tolist()
        )
        return ids

    def without(self, rows: Rows) -> "Segment":
        """This segment, these rows deleted too."""
        files = {name: file for name, file in self.files.items() if name != "deleted"}
        return replace(self, deleted=np.union1d(self.deleted, rows), files=files)

    def take(self, rows: Rows) -> "Segment":
        """Those of these rows, in memory; they must not be deleted."""
        ids = self.ids.take(rows)
        return Segment(
            self.coarse[rows],
            self.fine[rows],
            ids,
            Lookup.of(ids),
            None if self.metadata is None else self.metadata.take(rows),
        )


def join(parts: Sequence[Segment], *, dropping: bool = False) -> Segment:
    """Segments as one, in memory; with the same rows, deleted ones included, or `dropping` these."""
    live = [part.live() for part in parts]
    kept = live if dropping else [np.ones(len(part), dtype=bool) for part in parts]
    starts = np.cumsum([0, *(int(here.sum()) for here in kept)])
    became = [
        np.where(found, start + np.cumsum(here) - 1, -1)
        for found, here, start in zip(live, kept, starts, strict=False)
    ]
    ids = join_ids([_chosen(part.ids, here) for part, here in zip(parts, kept, strict=True)])
    deleted = [part.deleted + start for part, start in zip(parts, starts, strict=False)]
    lookups = [(part.lookup, rows) for part, rows in zip(parts, became, strict=True)]
    return Segment(
        coarse=np.concatenate([part.coarse[here] for part, here in zip(parts, kept, strict=True)]),
        fine=np.concatenate([part.fine[here] for part, here in zip(parts, kept, strict=True)]),
        ids=ids,
        lookup=Lookup.joined(lookups, ids, all_live=dropping or not any(map(len, deleted))),
        metadata=joined_columns(
            [(part.metadata, here) for part, here in zip(parts, kept, strict=True)]
        ),
        deleted=NO_ROWS if dropping else np.concatenate(deleted),
    )


def _chosen(ids: Ids, kept: NDArray[np.bool_]) -> Ids:
    rows = np.flatnonzero(kept)
    if len(rows) == len(kept):
        return ids
    return ids.take(rows) if isinstance(ids, Strings) else ids[rows]


def join_ids(parts: Sequence[Ids]) -> Ids:
    """Ids of one kind, one after the other."""
    strings = [part for part in parts if isinstance(part, Strings)]
    if strings:
        return Strings.joined(strings)
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
