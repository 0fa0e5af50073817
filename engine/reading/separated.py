"""Rows of CSV and TSV files: a row that cannot be read is said to be so, and costs no other.

CSV is quoted as RFC 4180 says: a field in double quotes may hold commas and line ends. TSV has no quoting, as data
sets ship it: a row ends with its line, a field at a tab, and a quote is a character like others. Kaggle's Flickr30k
has a bar for the tab (`results.csv`: `image_name| comment_number| comment`).
"""

import csv
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path

from engine.images import OTHER_SUFFIXES, SUFFIXES
from engine.reading.column_types import Convert, typed_columns
from engine.reading.records import (
    IMAGE,
    Fault,
    Record,
    decoded,
    image_column,
    named_picture,
    row_name,
)
from engine.system.files import MAX_LINE, bounded_lines, open_regular
from engine.system.forks import cached_property

MAX_FAULTS = 10_000  # rows one after the other: a file of which nobody wants to know more
MAX_LINES = 1000  # of one row


@dataclass(frozen=True)
class Separated:
    """A `.csv` or `.tsv` in UTF-8, whose pictures are files of `folder` (default: the one that it lies in).

    It begins with a line of column names, one of `records.IMAGES` among them.
    """

    path: Path
    folder: Path | None = None

    @property
    def by_path(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        """One a row; empty lines are passed over. Raises DatasetError where the names are not there.

        Values of a column that holds whole numbers throughout are integers, of one that holds numbers floats, of
        one that holds true and false booleans; empty fields there are none. All others are text. To know this, the
        file is read once more.
        """
        types = self._types
        for record in self._texts():
            if types and record.fault is None:
                values = {
                    name: types[name](text) if name in types else text
                    for name, text in record.values.items()
                    if text.strip() or name not in types
                }
                record = replace(record, values=values)
            yield record

    @cached_property
    def _types(self) -> dict[str, Convert]:
        return typed_columns(record.values for record in self._texts())

    def _texts(self) -> Iterator[Record]:
        """The same, all values as text."""
        try:
            # utf-8-sig: spreadsheets put a mark before the first name
            with (
                open_regular(self.path) as opened,
                TextIOWrapper(opened, "utf-8-sig", "surrogateescape", newline="") as text,
            ):
                yield from self._rows(_Lines(bounded_lines(text)))
        except OSError as error:
            fault = Fault("a file in CSV or TSV", str(error), "Give one that can be read.")
            raise fault.at(self.path) from None

    def _rows(self, lines: "_Lines") -> Iterator[Record]:
        read = _tabs if self.path.suffix.lower() == ".tsv" else _commas
        header = read(lines, ())
        names = [decoded(name)[0] for name in header] if isinstance(header, list) else []
        if read is _commas and len(names) == 1 and "|" in names[0]:
            read = _bars
            # Flickr30k's "comment" is what others call "caption".
            names = [name.strip() for name in names[0].split("|")]
            names = ["caption" if name == "comment" else name for name in names]
        if image_column(names) is None:
            hint = " without quotes" if any('"' in name for name in names) else ""
            fault = Fault(
                f'a line of column names{hint}, "{IMAGE}" among them',
                f"{names!r:.200}",
                "Write it as the first line.",
            )
            raise fault.at(f"{self.path}:1")
        bad = 0
        while (line := lines.peek()) is not None and bad < MAX_FAULTS:
            found = read(lines, names)
            if found == []:  # an empty line
                continue
            if isinstance(found, Fault):
                bad += 1
                yield self._faulty(line, found)
            else:
                bad = 0
                yield self._record(line, names, found)
        if line is not None:
            fault = Fault(
                "rows that can be read",
                f"{bad:,} one after the other that cannot",
                "Mend the file. The rest of it is left out.",
            )
            yield self._faulty(line, fault)

    def _faulty(self, line: int, fault: Fault) -> Record:
        return Record(row_name(line), f"{self.path}:{line}", fault=fault)

    def _record(self, line: int, names: Sequence[str], fields: list[str]) -> Record:
        read = [decoded(text) for text in fields]
        values = dict(zip(names, (text for text, _ in read), strict=True))
        flaw = next((flaw for _, flaw in read if flaw is not None), None)
        folder = self.path.parent if self.folder is None else self.folder
        return named_picture(f"{self.path}:{line}", line, values, folder, flaw=flaw)


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


_TOO_LONG = Fault(f"a line of at most {MAX_LINE:,} characters", "more", "Shorten or remove it.")


def _tabs(lines: _Lines, names: Sequence[str]) -> list[str] | Fault:
    """The fields of the next row, or what is wrong with it; none for an empty line."""
    if lines.peek() is None:
        return []
    line = lines.take()
    if line is None:
        return _TOO_LONG
    line = line.rstrip("\r\n")
    return _counted(line.split("\t"), names, "Mend or remove the row.") if line else []


def _bars(lines: _Lines, names: Sequence[str]) -> list[str] | Fault:
    """As `_tabs`; spaces around a bar are none of the field's, and the last field may hold bars."""
    if lines.peek() is None:
        return []
    line = lines.take()
    if line is None:
        return _TOO_LONG
    if not line.strip():
        return []
    fields = [field.strip() for field in line.split("|", max(len(names) - 1, 0))]
    return _counted(fields, names, "Mend or remove the row.")


def _commas(lines: _Lines, names: Sequence[str]) -> list[str] | Fault:
    """As `_tabs`; of a row that cannot be read only the first line is used up."""
    taken: list[str | None] = []
    fault: Fault | None = None

    def following() -> Iterator[str]:
        nonlocal fault
        while (number := lines.peek()) is not None:
            line = lines.take()
            taken.append(line)
            if line is None:
                fault = _TOO_LONG
                return
            if len(taken) > 1 and (len(taken) > MAX_LINES or _is_row(line, names)):
                fault = Fault(f"a closing quote before line {number}", "none", "Add it.")
                return
            yield line

    found: list[str] | Fault
    try:
        read = next(csv.reader(following(), strict=True), [])
        found = fault or _counted(read, names, "Put fields that hold a comma in double quotes.")
    except csv.Error as error:
        found = fault or Fault("a row in CSV", str(error), "Mend its quotes, or remove it.")
    if isinstance(found, Fault):
        lines.give_back(taken[1:])
    return found


def _is_row(line: str, names: Sequence[str]) -> bool:
    """Whether a line inside quotes looks like a row of its own: as many fields, a picture among them."""
    column = image_column(names)
    if column is None:
        return False
    fields = next(csv.reader([line]), [])
    if len(fields) != len(names):
        return False
    picture = fields[list(names).index(column)].lower()
    return os.path.splitext(picture)[1] in (*SUFFIXES, *OTHER_SUFFIXES)


def _counted(fields: list[str], names: Sequence[str], remedy: str) -> list[str] | Fault:
    if not names or not fields or len(fields) == len(names):
        return fields
    return Fault(f"{len(names)} fields, as in line 1", f"{len(fields)}", remedy)
