"""A read-only sequence of strings held in two flat arrays, so that a file of millions opens without parsing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError
from engine.index.remedies import VERIFY

PIECE_BYTES = 1 << 24


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

    def take(self, rows: NDArray[np.int64]) -> "Strings":
        """Those of the given rows, in their order."""
        starts = np.concatenate([[0], self.ends])[rows]
        lengths = self.ends[rows] - starts
        ends = np.cumsum(lengths, dtype=np.int64)
        if (lengths < 0).any() or (starts < 0).any() or (starts + lengths > len(self.text)).any():
            raise _damaged(f"the ends of {len(rows)} rows")
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


def _damaged(what: str) -> IndexFormatError:
    return IndexFormatError(
        "strings of an index",
        expected="UTF-8 between ascending ends",
        got=f"something else at {what}",
        remedy=VERIFY,
    )
