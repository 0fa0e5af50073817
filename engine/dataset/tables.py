"""Captions files with a row a picture or a caption: JSON lines, CSV and Parquet."""

import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from engine.dataset.examples import Record
from engine.errors import DatasetError, MissingPackage
from engine.reading.arrow_rows import python_rows
from engine.reading.separated import separated
from engine.system.files import MAX_LINE, bounded_lines, check_regular, open_regular
from engine.system.terminal import brief

COLUMNS = ("image", "caption", "captions", "concept", "split", "splits")


def json_lines(file: Path) -> Iterator[Record]:
    """One JSON object a line; empty lines are passed over."""
    try:
        with open_regular(file) as opened, TextIOWrapper(opened, "utf-8") as text:
            for number, line in enumerate(bounded_lines(text), start=1):
                if line is not None and not line.strip():
                    continue
                place = f"{file}:{number}"
                if line is None:
                    yield Record.faulty(
                        place, f"at most {MAX_LINE:,} characters expected, got more"
                    )
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield Record.faulty(place, f"a JSON object expected, got {error}")
                    continue
                yield _record(place, row)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: a captions file expected, got {error}.") from None


def comma_separated(file: Path) -> Iterator[Record]:
    """CSV or TSV in UTF-8 with a line of column names."""
    try:
        for row in separated(file, ("image", "caption")):
            place = f"{file}:{row.line}"
            yield Record.faulty(place, row.fault) if row.fault else _record(place, row.values)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: a captions file in CSV expected, got {error}.") from None


def parquet(file: Path) -> Iterator[Record]:
    """Apache Parquet; columns of other names are not read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise MissingPackage.of("pyarrow", "evaluate", "Reading Parquet") from None
    number = 0
    try:
        check_regular(file)
        with ParquetFile(file) as opened:
            columns = [name for name in opened.schema_arrow.names if name in COLUMNS]
            for batch in opened.iter_batches(columns=columns):
                for row in python_rows(batch):
                    number += 1
                    yield _record(f"{file}, row {number}", _without_nulls(row))
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: a captions file in Parquet expected, got {error}.") from None


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A struct has all its fields in every row: those that are null are not there."""
    if isinstance(row.get("splits"), dict):
        row["splits"] = {name: part for name, part in row["splits"].items() if part is not None}
    return row


def _record(place: str, row: Any) -> Record:
    if not isinstance(row, dict) or "image" not in row:
        return Record.faulty(place, f'"image" and "captions" expected, got {brief(row)}')
    image = row["image"]
    if not isinstance(image, str) or not image:
        return Record.faulty(place, f'a path expected as "image", got {brief(image)}')
    return Record.of(place, Path(image), row)
