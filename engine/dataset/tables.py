"""Captions files with a row a picture or a caption: JSON lines, CSV and Parquet."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.dataset.examples import Record
from engine.errors import DatasetError, MissingPackage

COLUMNS = ("image", "caption", "captions", "concept", "split", "splits")


def json_lines(file: Path) -> Iterator[Record]:
    """One JSON object a line; empty lines are passed over."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: a captions file expected, got {error}.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{file}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{place}: a JSON object expected, got {error}.") from None
            yield _record(place, row)


def comma_separated(file: Path) -> Iterator[Record]:
    """CSV in UTF-8 with a line of column names; tabs between the fields of a `.tsv`."""
    delimiter = "\t" if file.suffix == ".tsv" else ","
    try:
        # utf-8-sig: spreadsheets put a mark before the first name
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
            names = rows.fieldnames or []
            if not {"image", "caption"} <= set(names):
                raise DatasetError(
                    f'{file}:1: the column names "image" and "caption" expected, got {list(names)}.'
                )
            for row in rows:
                place = f"{file}:{rows.line_num}"
                if None in row or None in row.values():
                    raise DatasetError(
                        f"{place}: {len(names)} fields expected, as in line 1, got another number. "
                        "Put captions that hold a comma in double quotes."
                    )
                yield _record(place, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
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
        with ParquetFile(file) as opened:
            columns = [name for name in opened.schema_arrow.names if name in COLUMNS]
            for batch in opened.iter_batches(columns=columns):
                for row in batch.to_pylist():
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
    try:
        image = row["image"]
    except (KeyError, TypeError) as error:
        raise DatasetError(f'{place}: "image" and "captions" expected, got {error!r}.') from None
    if not isinstance(image, str) or not image:
        raise DatasetError(f'{place}: a path expected as "image", got {image!r:.80}.')
    return Record.of(place, Path(image), row)
