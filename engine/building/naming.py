"""Ids that tell sources apart and are the same in every run: docs/decisions/0009-ids-of-sources.md.

A record is named by its source: a path in a folder, a key in a tar. That name is its id unless the index holds
another picture under it; then the name of the source goes before it, then a folder more of the source's path, and
so on. Two pictures are one where they have the same name and the same vector, whatever the index holds before the
name.

`Names` notes beside the index's own files which record became which item, so that a second run over a source need
not encode it again. The notes save work and decide nothing: where they are lost or do not fit, pictures are encoded
and compared.
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

from engine.building.blocks import Skip
from engine.building.gathered import Gathered
from engine.building.sources import Source, Vectors, origin
from engine.embeddings import Embeddings
from engine.index import Id, Index
from engine.reading.records import Fault, mended
from engine.system.files import open_own, open_regular

FILE = "sources.bin"  # in the index's directory
# record: of its source and its name there; id: of the item's id; vector: of its stored fine vector
NOTE = np.dtype([("record", "<u8"), ("id", "<u8"), ("vector", "<u4")])
START = b"hivlp-sources 1\n".ljust(NOTE.itemsize, b"\0")
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

    def record(self, id: Id) -> int:
        """What stands for the record whose id would be `id` if no other source had it."""
        return digest(f"{self.place}\0{self._name(id)}")

    def spellings(self, id: Id) -> Iterator[Id]:
        """The ids that the record may be given; a number has no other."""
        return self._behind(self.tried, id)

    def ever(self, id: Id) -> Iterator[Id]:
        """The ids that the record may have been given, also where its folder was the only one of that run."""
        return self._behind(dict.fromkeys((*self.tried, "")), id)

    def spelled(self, id: Id, wanted: int) -> Id | None:
        """The id of this digest that the record has, in this run or another."""
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
    """What becomes of gathered records.

    keep: the numbers of those to be added; ids: theirs.
    held: the numbers of those that the index held before, with their ids there.
    """

    keep: list[int] = field(default_factory=list)
    ids: list[Id] = field(default_factory=list)
    held: dict[int, Id] = field(default_factory=dict)


class Names:
    """Which records of which sources the index in `place` holds, under which ids."""

    def __init__(self, place: Path) -> None:
        self._file = place / FILE
        self._notes, self._fresh = _read(self._file), list[NDArray[Any]]()
        self._prefixes: dict[Source, Prefixes] = {}

    def held(self, source: Source, ids: Sequence[Id], index: Index, base: int) -> list[bool]:
        """Whether the first `base` items hold the records whose ids would be `ids`, as indexed from here."""
        prefixes = self._of(source)
        found = self._noted([prefixes.record(id) for id in ids])
        names = [
            None if note is None else prefixes.spelled(id, int(note["id"]))
            for id, note in zip(ids, found, strict=True)
        ]
        known = [(place, name) for place, name in enumerate(names) if name is not None]
        rows = index.find([name for _, name in known])
        early = ((rows >= 0) & (index.rank_of(rows) < base)).tolist()
        there = [False] * len(ids)
        for (place, _), is_early, vector in zip(known, early, _fine(index, rows), strict=True):
            note: Any = found[place]
            there[place] = is_early and _checksum(vector) == int(note["vector"])
        return there

    def settle(
        self, gathered: Gathered, vectors: Embeddings, index: Index | None, base: int
    ) -> Named:
        """An id for each record; duplicates are noted in `gathered.skipped`."""
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
        """Which of these records the first `base` items hold, each with its id there."""
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
        if before:  # a key twice in a tar is one record, whatever the second picture is
            records = [
                self._of(source).record(id)
                for source, id in zip(gathered.sources, gathered.ids, strict=True)
            ]
            known = {records[number]: name for number, name in before.items()}
            again = {n: known[record] for n, record in enumerate(records) if record in known}
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
        """A free id for a record; None where an item with one of its ids is this picture, or no id is free."""
        id, source = gathered.ids[number], gathered.sources[number]
        prefixes = self._of(source)
        record = prefixes.record(id)
        got = "that of another picture"
        for name in prefixes.spellings(id):
            first = taken.get(name)
            (row,) = _rows(index, [name])
            if first is None and row < 0:
                return name
            if first is not None:
                again = self._of(gathered.sources[first]).record(gathered.ids[first]) == record
                if again or _same(vectors.fine[first].numpy(), vectors.fine[number].numpy()):
                    got = f"that of {gathered.places[first]}"
                    break
                continue
            assert index is not None
            (stored,) = _fine(index, np.array([row]))
            (note,) = self._noted([record])
            again = note is not None and (int(note["id"]), int(note["vector"])) == (
                digest(str(name)),
                _checksum(stored),
            )
            if again or _same(stored, vectors.fine[number].numpy()):
                if index.rank_of(np.array([row]))[0] < base:
                    named.held[number] = name
                    return None
                got = f"that of an earlier record{f' of {source.path}' if again else ''}"
                break
        fault = Fault("an id of its own", got, "Rename one of them, or leave this one out.")
        gathered.skipped.append(Skip(id, gathered.places[number], str(fault)))
        return None

    def note(self, gathered: Gathered, named: Named, index: Index) -> None:
        """Remember what the index, as saved, holds of these records."""
        became = dict(zip(named.keep, named.ids, strict=True)) | named.held
        # Bare vectors have row numbers for names: they are never looked up again.
        ids = {n: id for n, id in became.items() if not is_nameless(gathered.sources[n])}
        if not ids:
            return
        fresh = np.zeros(len(ids), NOTE)
        rows = index.find(list(ids.values()))
        for note, vector, (number, id) in zip(fresh, _fine(index, rows), ids.items(), strict=True):
            record = self._of(gathered.sources[number]).record(gathered.ids[number])
            note["record"], note["id"] = record, digest(str(id))
            note["vector"] = _checksum(vector)
        self._fresh.append(fresh)
        with suppress(OSError):  # the index is saved: a note that lacks costs time, not pictures
            _append(self._file, fresh)

    def _of(self, source: Source) -> Prefixes:
        if source not in self._prefixes:
            self._prefixes[source] = Prefixes(source)
        return self._prefixes[source]

    def _noted(self, records: list[int]) -> list[Any | None]:
        """The last note of each record."""
        if self._fresh:
            self._notes = _sorted(np.concatenate([self._notes, *self._fresh]))
            self._fresh.clear()
        known, wanted = self._notes["record"], np.array(records, np.uint64)
        places = np.searchsorted(known, wanted, side="right") - 1
        return [
            self._notes[place] if place >= 0 and known[place] == record else None
            for place, record in zip(places.tolist(), wanted, strict=True)
        ]


def is_nameless(source: Source) -> bool:
    """Whether its records are bare vectors."""
    return isinstance(source, Vectors) and source.named is None


def digest(text: str) -> int:
    """64 bits of it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _read(file: Path) -> NDArray[Any]:
    """The notes in `file`, by record; none where it is not there, or is of another kind."""
    content = b""
    with suppress(OSError):
        if not file.is_symlink():
            with open_regular(file) as stream:
                content = stream.read()
    if not content.startswith(START):
        content = START
    whole = len(content) // NOTE.itemsize * NOTE.itemsize
    return _sorted(np.frombuffer(content[len(START) : whole], NOTE))


def _sorted(notes: NDArray[Any]) -> NDArray[Any]:
    return notes[np.argsort(notes["record"], kind="stable")]


def _append(file: Path, notes: NDArray[Any]) -> None:
    """What an interrupted run left of a note is cut off first."""
    with open_own(file) as stream:
        stream.seek(0)
        if stream.read(len(START)) != START:
            stream.truncate(0)
            stream.write(START)
        end = stream.seek(0, 2)
        stream.truncate(end - end % NOTE.itemsize)
        stream.write(notes.tobytes())


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
