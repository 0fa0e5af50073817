"""Ids that tell sources apart and are the same in every run: docs/decisions/0009-ids-of-sources.md.

An entry is named by its source: a path in a folder, a key in a tar. That name is its id unless the index holds
another picture under it; then the name of the source goes before it, then a folder more of the source's path, and
so on. Two pictures are one where they have the same name and the same vector, whatever the index holds before the
name.

`Names` remembers beside the index's own files which entry became which item, so that a second run over a source
need not encode it again. It is a record of work done and no more: where it is lost or does not fit, pictures are
encoded and compared.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.building.gathered import Gathered
from engine.building.items import Skip
from engine.building.sources import Source, origin
from engine.building.vectors import VectorFile
from engine.dataset import mended
from engine.embeddings import Embeddings
from engine.index import Id, Index
from engine.system.files import open_own, open_regular

FILE = "sources.bin"  # in the index's directory
# entry: of its source and its name there; id: of the item's id; vector: of its stored fine vector
RECORD = np.dtype([("entry", "<u8"), ("id", "<u8"), ("vector", "<u4")])
START = b"hivlp-sources 1\n".ljust(RECORD.itemsize, b"\0")
SAME = 1e-3  # how far two unit vectors of one picture may lie apart: rounding, and no more


class Prefixes:
    """What the ids of one source may begin with, in the order in which they are tried."""

    def __init__(self, source: Source) -> None:
        self.own = getattr(source, "prefix", "")
        place = origin(source)
        self.place = mended(str(place))
        stem = place.name if place.is_dir() else place.stem
        parts = [*place.parts[1:-1], stem]
        longer = (mended("/".join(parts[-count:])) + "/" for count in range(1, len(parts) + 1))
        self.tried = list(dict.fromkeys([self.own, *longer]))

    def entry(self, id: Id) -> int:
        """What stands for the entry whose id would be `id` if no other source had it."""
        return digest(f"{self.place}\0{self._name(id)}")

    def spellings(self, id: Id) -> Iterator[Id]:
        """The ids that the entry may be given; a number has no other."""
        return self._behind(self.tried, id)

    def ever(self, id: Id) -> Iterator[Id]:
        """The ids that the entry may have been given, also where its folder was the only one of that run."""
        return self._behind(dict.fromkeys((*self.tried, "")), id)

    def spelled(self, id: Id, wanted: int) -> Id | None:
        """The id of this digest that the entry has, in this run or another."""
        return next((name for name in self.ever(id) if digest(str(name)) == wanted), None)

    def _behind(self, prefixes: Iterable[str], id: Id) -> Iterator[Id]:
        if not isinstance(id, str):
            yield id
            return
        for prefix in prefixes:
            yield prefix + self._name(id)

    def _name(self, id: Id) -> str:
        return str(id).removeprefix(self.own)


@dataclass
class Named:
    """What becomes of gathered entries.

    keep: the numbers of those to be added; ids: theirs.
    held: the numbers of those that the index held before, with their ids there.
    """

    keep: list[int] = field(default_factory=list)
    ids: list[Id] = field(default_factory=list)
    held: dict[int, Id] = field(default_factory=dict)


class Names:
    """Which entries of which sources the index in `place` holds, under which ids."""

    def __init__(self, place: Path) -> None:
        self._file = place / FILE
        self._records, self._fresh = _read(self._file), list[NDArray[Any]]()
        self._prefixes: dict[Source, Prefixes] = {}

    def held(self, source: Source, ids: Sequence[Id], index: Index, base: int) -> list[bool]:
        """Whether the first `base` items hold the entries whose ids would be `ids`, as indexed from here."""
        prefixes = self._of(source)
        found = self._recorded([prefixes.entry(id) for id in ids])
        names = [
            None if record is None else prefixes.spelled(id, int(record["id"]))
            for id, record in zip(ids, found, strict=True)
        ]
        known = [(place, name) for place, name in enumerate(names) if name is not None]
        rows = index.find([name for _, name in known])
        early = ((rows >= 0) & (index.rank_of(rows) < base)).tolist()
        there = [False] * len(ids)
        for (place, _), is_early, vector in zip(known, early, _fine(index, rows), strict=True):
            record: Any = found[place]
            there[place] = is_early and _checksum(vector) == int(record["vector"])
        return there

    def settle(
        self, gathered: Gathered, vectors: Embeddings, index: Index | None, base: int
    ) -> Named:
        """An id for each entry; duplicates are noted in `gathered.skipped`."""
        named, taken = Named(), dict[Id, int]()
        rows = _rows(index, gathered.ids)
        before = self._before(gathered, vectors, index, base)
        for number, (id, row) in enumerate(zip(gathered.ids, rows, strict=True)):
            if number in before:
                named.held[number] = before[number]
                continue
            name: Id | None = id
            if row >= 0 or id in taken:
                name = self._another(number, gathered, vectors, index, base, taken, named)
            if name is not None:
                taken[name] = number
                named.keep.append(number)
                named.ids.append(name)
        return named

    def _before(
        self, gathered: Gathered, vectors: Embeddings, index: Index | None, base: int
    ) -> dict[int, Id]:
        """Which of these entries the first `base` items hold, each with its id there."""
        if index is None or not base:
            return {}
        spelled = [
            (number, name)
            for number, (source, id) in enumerate(zip(gathered.sources, gathered.ids, strict=True))
            for name in self._of(source).ever(id)
        ]
        rows = index.find([name for _, name in spelled])
        (early,) = np.nonzero((rows >= 0) & (index.rank_of(rows) < base))
        before = dict[int, Id]()
        for place, stored in zip(early.tolist(), _fine(index, rows[early]), strict=True):
            number, name = spelled[place]
            if number not in before and _same(stored, vectors.fine[number].numpy()):
                before[number] = name
        if before:  # a key twice in a tar is one entry, whatever the second picture is
            entries = [
                self._of(source).entry(id)
                for source, id in zip(gathered.sources, gathered.ids, strict=True)
            ]
            known = {entries[number]: name for number, name in before.items()}
            again = {n: known[entry] for n, entry in enumerate(entries) if entry in known}
            before = again | before
        return before

    def _another(
        self,
        number: int,
        gathered: Gathered,
        vectors: Embeddings,
        index: Index | None,
        base: int,
        taken: dict[Id, int],
        named: Named,
    ) -> Id | None:
        """A free id for an entry; None where an item with one of its ids is this picture, or no id is free."""
        id, source = gathered.ids[number], gathered.sources[number]
        prefixes = self._of(source)
        entry = prefixes.entry(id)
        why = "got that of another picture"
        for name in prefixes.spellings(id):
            first = taken.get(name)
            (row,) = _rows(index, [name])
            if first is None and row < 0:
                return name
            if first is not None:
                again = self._of(gathered.sources[first]).entry(gathered.ids[first]) == entry
                if again or _same(vectors.fine[first].numpy(), vectors.fine[number].numpy()):
                    why = f"got that of {gathered.places[first]}"
                    break
                continue
            assert index is not None
            (stored,) = _fine(index, np.array([row]))
            (record,) = self._recorded([entry])
            again = record is not None and (int(record["id"]), int(record["vector"])) == (
                digest(str(name)),
                _checksum(stored),
            )
            if again or _same(stored, vectors.fine[number].numpy()):
                if index.rank_of(np.array([row]))[0] < base:
                    named.held[number] = name
                    return None
                why = f"got that of an earlier entry{f' of {source.path}' if again else ''}"
                break
        gathered.skipped.append(
            Skip(id, gathered.places[number], f"an id of its own expected, {why}")
        )
        return None

    def note(self, gathered: Gathered, named: Named, index: Index) -> None:
        """Remember what the index, as saved, holds of these entries."""
        became = dict(zip(named.keep, named.ids, strict=True)) | named.held
        # Bare vectors have row numbers for names: they are never looked up again.
        ids = {n: id for n, id in became.items() if not isinstance(gathered.sources[n], VectorFile)}
        if not ids:
            return
        fresh = np.zeros(len(ids), RECORD)
        rows = index.find(list(ids.values()))
        for record, vector, (number, id) in zip(
            fresh, _fine(index, rows), ids.items(), strict=True
        ):
            entry = self._of(gathered.sources[number]).entry(gathered.ids[number])
            record["entry"], record["id"] = entry, digest(str(id))
            record["vector"] = _checksum(vector)
        self._fresh.append(fresh)
        with suppress(OSError):  # the index is saved: a record that lacks costs time, not pictures
            _append(self._file, fresh)

    def _of(self, source: Source) -> Prefixes:
        if source not in self._prefixes:
            self._prefixes[source] = Prefixes(source)
        return self._prefixes[source]

    def _recorded(self, entries: list[int]) -> list[Any | None]:
        """The last record of each entry."""
        if self._fresh:
            self._records = _sorted(np.concatenate([self._records, *self._fresh]))
            self._fresh.clear()
        known, wanted = self._records["entry"], np.array(entries, np.uint64)
        places = np.searchsorted(known, wanted, side="right") - 1
        return [
            self._records[place] if place >= 0 and known[place] == entry else None
            for place, entry in zip(places.tolist(), wanted, strict=True)
        ]


def digest(text: str) -> int:
    """64 bits of it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _read(file: Path) -> NDArray[Any]:
    """The records in `file`, by entry; none where it is not there, or is of another kind."""
    content = b""
    with suppress(OSError):
        if not file.is_symlink():
            with open_regular(file) as stream:
                content = stream.read()
    if not content.startswith(START):
        content = START
    whole = len(content) // RECORD.itemsize * RECORD.itemsize
    return _sorted(np.frombuffer(content[len(START) : whole], RECORD))


def _sorted(records: NDArray[Any]) -> NDArray[Any]:
    return records[np.argsort(records["entry"], kind="stable")]


def _append(file: Path, records: NDArray[Any]) -> None:
    """What an interrupted run left of a record is cut off first."""
    with open_own(file) as stream:
        stream.seek(0)
        if stream.read(len(START)) != START:
            stream.truncate(0)
            stream.write(START)
        end = stream.seek(0, 2)
        stream.truncate(end - end % RECORD.itemsize)
        stream.write(records.tobytes())


def _rows(index: Index | None, ids: Sequence[Id]) -> list[int]:
    """The row of each id, -1 where the index does not hold it."""
    if index is None:
        return [-1] * len(ids)
    found: list[int] = index.find(ids).tolist()
    return found


def _fine(index: Index, rows: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The stored fine vectors of these rows; of -1, some other's."""
    starts = np.cumsum([0, *map(len, index.segments)])
    numbers = np.searchsorted(starts, rows, side="right") - 1
    return [
        index.segments[number].fine[row - starts[number]] if row >= 0 else np.zeros(1)
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)
    ]


def _checksum(vector: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(vector).tobytes())


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether both point the same way but for rounding."""
    one, other = (vector.astype(np.float64) for vector in (first, second))
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if not all(lengths):
        return not any(lengths)
    return float(np.linalg.norm(one / lengths[0] - other / lengths[1])) <= SAME
