"""A read-only sequence of strings held in two flat arrays, so that a file of millions opens without parsing."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError
from engine.index.remedies import VERIFY

PIECE_BYTES = 1 << 24
ROWS_AT_A_TIME = 1 << 16


class Strings(Sequence[str]):
    """String i is the UTF-8 bytes `text[ends[i - 1]:ends[i]]`.

    Args:
        text: uint8, all strings one after another.
        ends: int64 `[N]`, where each string ends.

    Reading one raises IndexFormatError where the arrays cannot be what `of` made.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        encoded = [string.encode() for string in strings]
        text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(text, np.cumsum([len(part) for part in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: "Sequence[Strings]") -> "Strings":
        """The strings of all parts, one after the other."""
        lengths = [np.diff(part.ends, prepend=0) for part in parts]
        return cls(
            np.concatenate([part.text for part in parts]),
            np.cumsum(np.concatenate(lengths), dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Strings": ...
    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        row = range(len(self))[row]
        start, end = int(self.ends[row - 1]) if row else 0, int(self.ends[row])
        if 0 <= start <= end <= len(self.text):
            try:
                return self.text[start:end].tobytes().decode()
            except UnicodeDecodeError:
                pass  # said below
        raise _damaged(f"row {row}")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """Those of the given rows, in their order, decoded many at a time."""
        found: list[str] = []
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            found += self._decoded(rows[first : first + ROWS_AT_A_TIME])
        return found

    def _decoded(self, rows: NDArray[np.int64]) -> list[str]:
        starts, lasts = self._places(rows)
        lengths = lasts - starts + 1  # with a zero after each
        ends = np.cumsum(lengths, dtype=np.int64)
        if len(self.text) and ends[-1] <= PIECE_BYTES:
            narrow = np.int32 if len(self.text) < 2**31 else np.int64
            places = np.arange(ends[-1], dtype=narrow)
            places += np.repeat((starts - ends + lengths).astype(narrow), lengths)
            text = self.text.take(places, mode="clip")
            text[ends - 1] = 0
            with suppress(UnicodeDecodeError):
                found = text.tobytes().decode().split("\0")
                if len(found) == len(rows) + 1:
                    return found[:-1]
        # Long ones, one that holds a zero, or one that is damaged, which this says.
        return [self[row] for row in rows.tolist()]

    def take(self, rows: NDArray[np.int64]) -> "Strings":
        """Those of the given rows, in their order."""
        starts, lasts = self._places(rows)
        lengths = lasts - starts
        ends = np.cumsum(lengths, dtype=np.int64)
        text = np.empty(ends[-1] if len(ends) else 0, dtype=np.uint8)
        first = 0
        while first < len(rows):  # places take eight times as much as the text: a piece at a time
            begin = int(ends[first] - lengths[first])
            last = max(first + 1, int(np.searchsorted(ends, begin + PIECE_BYTES, side="right")))
            if last == first + 1:  # perhaps a long one
                text[begin : ends[first]] = self.text[starts[first] :][: lengths[first]]
            else:
                here = slice(first, last)
                shifts = np.repeat(starts[here] - ends[here] + lengths[here], lengths[here])
                text[begin : ends[last - 1]] = self.text[np.arange(begin, ends[last - 1]) + shifts]
            first = last
        return Strings(text, ends)

    def _places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the strings of these rows begin and end, within the text."""
        lasts = self.ends[rows]
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        if not ((starts >= 0) & (starts <= lasts) & (lasts <= len(self.text))).all():
            raise _damaged(f"the ends of {len(rows)} rows")
        return starts, lasts


def _damaged(what: str) -> IndexFormatError:
    return IndexFormatError(
        "strings of an index",
        expected="UTF-8 between ascending ends",
        got=f"something else at {what}",
        remedy=VERIFY,
    )
