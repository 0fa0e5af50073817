"""Rows of CSV and TSV files: a row that cannot be read is said to be so, and costs no other.

CSV is quoted as RFC 4180 says: a field in double quotes may hold commas and line ends. TSV has no quoting, as data
sets ship it: a row ends with its line, a field at a tab, and a quote is a character like others.
"""

import csv
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from engine.errors import DatasetError
from engine.images import OTHER_SUFFIXES, SUFFIXES
from engine.system.files import MAX_LINE, bounded_lines, open_regular

MAX_FAULTS = 10_000  # rows one after the other: a file of which nobody wants to know more
MAX_LINES = 1000  # of one row


@dataclass(frozen=True)
class Fields:
    """One row by column names, or what is wrong with it. `line` is its first, counted from 1."""

    line: int
    values: dict[str, str]
    fault: str = ""


def separated(file: Path, columns: Sequence[str], errors: str = "strict") -> Iterator[Fields]:
    """The rows of a `.csv` or `.tsv` in UTF-8 that begins with a line of column names, `columns` among them.

    errors: what becomes of other bytes, as in `open`.
    Raises DatasetError where the names are not there, and OSError and UnicodeDecodeError of reading.
    """
    # utf-8-sig: spreadsheets put a mark before the first name
    with (
        open_regular(file) as opened,
        TextIOWrapper(opened, "utf-8-sig", errors, newline="") as text,
    ):
        lines = _Lines(bounded_lines(text))
        read = _tabs if file.suffix.lower() == ".tsv" else _commas
        header = read(lines, ())
        names = header if isinstance(header, list) else []
        if not set(columns) <= set(names):
            wanted = " and ".join(f'"{name}"' for name in columns)
            hint = " A TSV has no quotes." if any('"' in name for name in names) else ""
            raise DatasetError(
                f"{file}:1: the column names {wanted} expected, got {names!r:.200}.{hint}"
            )
        bad = 0
        while (line := lines.peek()) is not None and bad < MAX_FAULTS:
            found = read(lines, names)
            if found == []:  # an empty line
                continue
            fault = found if isinstance(found, str) else ""
            values = {} if isinstance(found, str) else dict(zip(names, found, strict=True))
            bad = bad + 1 if fault else 0
            yield Fields(line, values, fault)
        if line is not None:
            yield Fields(
                line, {}, f"{bad:,} rows one after the other cannot be read; the rest is left out"
            )


class _Lines:
    """Lines with their numbers, to which some may be given back."""

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines, self._back = lines, deque[str | None]()
        self._number = 0  # of the last one taken

    def peek(self) -> int | None:
        """The number of the next line; None at the end."""
        if not self._back:
            try:
                self._back.append(next(self._lines))
            except StopIteration:
                return None
        return self._number + 1

    def take(self) -> str | None:
        """The next line; None for one that is too long."""
        self._number += 1
        return self._back.popleft()

    def give_back(self, lines: list[str | None]) -> None:
        """The last lines taken."""
        self._number -= len(lines)
        self._back.extendleft(reversed(lines))


_REMEDY = ". Put captions that hold a comma in double quotes"
_TOO_LONG = f"a line of at most {MAX_LINE:,} characters expected, got more"


def _tabs(lines: _Lines, names: Sequence[str]) -> list[str] | str:
    """The fields of the next row, or what is wrong with it; none for an empty line."""
    if lines.peek() is None:
        return []
    line = lines.take()
    if line is None:
        return _TOO_LONG
    line = line.rstrip("\r\n")
    return _counted(line.split("\t"), names) if line else []


def _commas(lines: _Lines, names: Sequence[str]) -> list[str] | str:
    """As `_tabs`; of a row that cannot be read only the first line is used up."""
    taken: list[str | None] = []

    def following() -> Iterator[str]:
        while lines.peek() is not None:
            number = lines.peek()
            line = lines.take()
            taken.append(line)
            if line is None:
                raise csv.Error(_TOO_LONG)
            if len(taken) > 1 and (len(taken) > MAX_LINES or _is_row(line, names)):
                raise csv.Error(f"a closing quote expected before line {number}, got none")
            yield line

    try:
        found = _counted(next(csv.reader(following(), strict=True), []), names, _REMEDY)
    except csv.Error as error:
        found = f"a row in CSV expected, got {error}"
    if isinstance(found, str):
        lines.give_back(taken[1:])
    return found


def _is_row(line: str, names: Sequence[str]) -> bool:
    """Whether a line inside quotes looks like a row of its own: as many fields, a picture among them."""
    if "image" not in names:
        return False
    fields = next(csv.reader([line]), [])
    if len(fields) != len(names):
        return False
    picture = fields[list(names).index("image")].lower()
    return os.path.splitext(picture)[1] in (*SUFFIXES, *OTHER_SUFFIXES)


def _counted(fields: list[str], names: Sequence[str], remedy: str = "") -> list[str] | str:
    if not names or not fields or len(fields) == len(names):
        return fields
    return f"{len(names)} fields expected, as in line 1, got {len(fields)}{remedy}"
