"""JSON lines: an object a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from engine.reading.records import Fault, Record, decoded, named_picture, row_name
from engine.system.files import MAX_LINE, bounded_lines, open_regular
from engine.system.terminal import brief

_REMEDY = "Mend the line, or remove it."


@dataclass(frozen=True)
class JsonLines:
    """A `.jsonl` in UTF-8, whose pictures are files of `folder` (default: the one that it lies in)."""

    path: Path
    folder: Path | None = None

    @property
    def by_path(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        """One a line; empty lines are passed over. Raises DatasetError where the file cannot be read."""
        folder = self.path.parent if self.folder is None else self.folder
        try:
            # utf-8-sig: editors and spreadsheets put a mark before the first line
            with (
                open_regular(self.path) as opened,
                TextIOWrapper(opened, "utf-8-sig", "surrogateescape") as text,
            ):
                for number, line in enumerate(bounded_lines(text), start=1):
                    if line is None or line.strip():
                        yield _record(f"{self.path}:{number}", number, line, folder)
        except OSError as error:
            fault = Fault("a file in JSON lines", str(error), "Give one that can be read.")
            raise fault.at(self.path) from None


def _record(place: str, number: int, line: str | None, folder: Path) -> Record:
    if line is None:
        fault = Fault(f"a line of at most {MAX_LINE:,} characters", "more", _REMEDY)
        return Record(row_name(number), place, fault=fault)
    line, flaw = decoded(line)
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Record(row_name(number), place, fault=Fault("a JSON object", str(error), _REMEDY))
    if not isinstance(values, dict):
        fault = Fault("a JSON object", brief(values), _REMEDY)
        return Record(row_name(number), place, fault=fault)
    return named_picture(place, number, values, folder, flaw=flaw)
