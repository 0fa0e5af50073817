"""What the end of a Parquet file says of the room that its columns take, read before anything is decoded.

pyarrow knows it too, but `FileMetaData.row_group(n).column(m)` ends the process where the file is damaged. The end
is a Thrift struct in the compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md) with the fields of
apache/parquet-format, src/main/thrift/parquet.thrift.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Fields: TypeAlias = dict[int, Any]

MOST_VALUES, DEEPEST = (
    5_000_000,
    32,
)  # some seconds; files of metadata that are written here have far less
BYTE_ARRAY = 6  # a physical type of Parquet


@dataclass(frozen=True)
class Chunk:
    """One column of a row group: its path, the bytes of its values once read, and as they are packed."""

    path: tuple[str, ...]
    size: int
    packed: int


@dataclass(frozen=True)
class Footer:
    """rows, chunks: of each row group. texts: the columns of texts and bytes that are not within others."""

    rows: list[int]
    chunks: list[list[Chunk]]
    texts: list[str]


def read_footer(parquet: NDArray[np.uint8]) -> Footer:
    """ValueError where there is none to be read."""
    tail = parquet[-8:].tobytes()
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > len(parquet) - 12:
        raise ValueError("something else than a Parquet file")
    try:
        fields = _Thrift(parquet[len(parquet) - 8 - length : -8].tobytes()).struct()
        leaves = [element for element in fields[2] if 1 in element]
        widths = [_width(element) for element in leaves]
        groups = [list(map(_chunk, group[1], widths)) for group in fields[4]]
        rows = [int(group[3]) for group in fields[4]]
        kinds = [element[1] for element in leaves]
        paths = [chunk.path for chunk in groups[0]] if groups else []
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the end of the file cannot be read: {error!r}") from None
    named = zip(paths, kinds, strict=False)
    texts = [path[0] for path, kind in named if kind == BYTE_ARRAY and len(path) == 1]
    return Footer(rows, groups, texts)


def _width(element: Fields) -> int:
    """At least the bytes that a value of a column takes, those of its place in a list or dictionary included."""
    return max(8, int(element.get(2, 0)))


def _chunk(chunk: Fields, width: int) -> Chunk:
    about = chunk[3]
    values, size, packed = (int(about[field]) for field in (5, 6, 7))
    if min(values, size, packed) < 0:
        raise ValueError("sizes below zero")
    return Chunk(tuple(part.decode() for part in about[3]), size + values * width, packed)


class _Thrift:
    """A reader of Thrift's compact protocol: a struct is a dictionary by number of field, binaries are bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.values = self.depth = 0

    def struct(self) -> Fields:
        fields: Fields = {}
        number = 0
        self.depth += 1
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._whole()
            fields[number] = head & 15 == 1 if head & 15 < 3 else self._value(head & 15)
        self.depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        self.values += 1
        if self.values > MOST_VALUES or self.depth > DEEPEST:
            raise ValueError("too long or too deep an end of the file")
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 8:
            return self._bytes(self._varint())
        if kind == 12:
            return self.struct()
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            self.depth += 1
            entries = [self._value(head & 15) for _ in range(count)]
            self.depth -= 1
            return entries
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (7, 13):
            return self._bytes(8 if kind == 7 else 16)
        raise ValueError(f"a value of unknown kind {kind} at the end of the file")

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.content):
            raise IndexError("the end too early")
        return self.content[self.at - count : self.at]

    def _varint(self) -> int:
        found = shift = 0
        while shift < 70:
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
        raise ValueError("too long a number at the end of the file")

    def _whole(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)
