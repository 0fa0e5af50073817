"""`Lookup`: from ids to rows by binary search, with nothing to build when an index is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError
from engine.index.checks import Id, Ids
from engine.index.remedies import VERIFY

Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lookup:
    """The keys of a segment's ids in ascending order, and the row of each.

    keys, rows: int64 `[m]`; rows is None where row i has key i (integer ids that ascend anyway).
    """

    keys: Keys
    rows: NDArray[np.int64] | None

    @classmethod
    def of(cls, ids: Ids, rows: NDArray[np.int64] | None = None) -> "Lookup":
        """Of all ids, or of those of `rows`."""
        keys = keys_of(ids)
        if rows is None:
            if isinstance(ids, np.ndarray) and (keys[1:] > keys[:-1]).all():
                return cls(keys, None)
            rows = np.arange(len(keys))
        order = np.argsort(keys[rows], kind="stable")
        return cls(keys[rows][order], rows[order])

    @classmethod
    def joined(
        cls, parts: "Sequence[tuple[Lookup, NDArray[np.int64]]]", ids: Ids, *, all_live: bool
    ) -> "Lookup":
        """Of several segments as one, without making the keys of strings anew.

        Args:
            parts: of each, its lookup, and what row each of its rows has become, -1 where none is found any more.
            ids: those of all rows.
            all_live: whether every one of them is found.
        """
        if isinstance(ids, np.ndarray) and all_live and (ids[1:] > ids[:-1]).all():
            return cls(ids, None)
        found = [
            (part.keys, became[part._rows_at(np.arange(len(part.keys)), len(became))])
            for part, became in parts
        ]
        keys, rows = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.argsort(keys, kind="stable")
        order = order[rows[order] >= 0]
        return cls(keys[order], rows[order])

    def find(self, ids: Ids, wanted: Sequence[Id], keys: Keys) -> NDArray[np.int64]:
        """The row of `ids` that holds each of `wanted`, whose keys are `keys`; -1 where none does."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(self.keys):
            return found
        places = np.searchsorted(self.keys, keys)
        hits = np.flatnonzero(self.keys[np.minimum(places, len(self.keys) - 1)] == keys)
        if isinstance(ids, np.ndarray):
            rows = self._rows_at(places[hits], len(ids))
            found[hits] = np.where(ids[rows] == keys[hits], rows, -1)
            return found
        for query in hits.tolist():
            place = int(places[query])
            while place < len(self.keys) and self.keys[place] == keys[query]:
                row = int(self._rows_at(np.array([place]), len(ids))[0])
                if ids[row] == wanted[query]:
                    found[query] = row
                    break
                place += 1  # another string with the same key
        return found

    def _rows_at(self, places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        rows = places if self.rows is None else self.rows[places]
        wrong = rows[(rows < 0) | (rows >= count)]
        if len(wrong):
            raise IndexFormatError(
                "lookup of an index",
                expected=f"rows below {count}",
                got=str(wrong[0]),
                remedy=VERIFY,
            )
        return rows


def keys_of(ids: Ids | Sequence[str]) -> Keys:
    """Integers are their own keys; a string's is its BLAKE2b digest of 8 bytes as a little-endian int64."""
    if isinstance(ids, np.ndarray):
        return ids
    # A lone surrogate may be asked for, though no index holds one.
    encoded = (id.encode(errors="surrogatepass") for id in ids)
    digests = b"".join(blake2b(text, digest_size=8).digest() for text in encoded)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)
