"""Tables with a row a picture, or a row a caption: JSON lines, CSV, Parquet.

A row's picture is a path relative to the table's folder or, in Parquet, encoded bytes: a binary column, or a struct
of "bytes" and "path" as Hugging Face `datasets` writes it. "caption" and "captions" become the metadata "captions";
other columns of plain values become metadata as they are.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from engine.building.items import IdKind, Item, Metadata, Survey, file_stamp, plain
from engine.dataset import mended
from engine.errors import DatasetError, MissingPackage
from engine.reading.arrow_rows import MAX_TEXT, python_rows
from engine.reading.separated import separated
from engine.system.files import MAX_LINE, bounded_lines, check_regular, open_regular
from engine.system.forks import cached_property
from engine.system.terminal import brief

IDS = ("id", "key")  # columns that name an item, in order of preference
IMAGE = "image"
PICTURES_AT_A_TIME, PATHS_AT_A_TIME = 16, 64  # rows of Parquet


@dataclass(frozen=True)
class Row:
    """One row, or what was wrong with it. `number` counts from 1, as editors do."""

    place: str
    number: int
    values: Mapping[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class CaptionsFile:
    """Rows of "image", a path inside the file's folder, and "caption" or "captions": JSON lines, CSV or TSV.

    Rows of one picture that stand together are joined. The path is the id.
    """

    path: Path
    prefix: str = ""
    id_kind: IdKind = "str"

    def survey(self) -> Survey:
        return Survey(sum(1 for _ in self.items(0)), file_stamp(self.path))

    def items(self, start: int) -> Iterator[Item]:
        """In the order of the rows."""
        rows = json_rows(self.path) if self.path.suffix == ".jsonl" else csv_rows(self.path)
        return islice(joined(rows, self.path.parent, self.prefix), start, None)


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file whose pictures are paths (rows that stand together are joined) or bytes (each row its own)."""

    path: Path
    prefix: str = ""

    @cached_property
    def id_kind(self) -> IdKind:
        from pyarrow import types

        names = self._names
        is_int = self._id_column is not None and types.is_integer(names[self._id_column])
        return "int" if is_int else "str"

    def survey(self) -> Survey:
        with self._opened() as opened:
            count = opened.metadata.num_rows
        if self.holds_paths:
            count = sum(1 for _ in self.items(0))
        return Survey(count, file_stamp(self.path))

    def items(self, start: int) -> Iterator[Item]:
        """In the order of the rows; whole row groups before `start` are not read."""
        if self.holds_paths:
            rows = self._rows(0)
            return islice(joined(rows, self.path.parent, self.prefix, self._image), start, None)
        return (self._item(row) for row in self._rows(start))

    @cached_property
    def _names(self) -> dict[str, Any]:
        with self._opened() as opened:
            return {field.name: field.type for field in opened.schema_arrow}

    @cached_property
    def _image(self) -> str:
        """The column of the pictures: "image", or the only one that holds bytes."""
        from pyarrow import types

        if IMAGE in self._names:
            return IMAGE
        held = [
            name
            for name, kind in self._names.items()
            if _is_bytes(kind)
            or (types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind})
        ]
        if len(held) != 1:
            raise DatasetError(
                f'{self.path}: a column "image", or one column of bytes, expected, got {list(self._names)}.'
            )
        return held[0]

    @cached_property
    def holds_paths(self) -> bool:
        """Whether its pictures are files that it names."""
        from pyarrow import types

        kind = self._names[self._image]
        return bool(types.is_string(kind) or types.is_large_string(kind))

    @cached_property
    def _id_column(self) -> str | None:
        if self.holds_paths:
            return None
        return next((name for name in IDS if name in self._names), None)

    @cached_property
    def _repeated(self) -> frozenset[int]:
        """The rows whose bytes have the file name of an earlier row: `datasets` drops the folders that tell them
        apart."""
        from pyarrow import ArrowException, types

        if not types.is_struct(self._names[self._image]):
            return frozenset()
        seen, repeated, number = set[str](), set[int](), 0
        try:
            with self._opened() as opened:
                for batch in opened.iter_batches(columns=[f"{self._image}.path"]):
                    for held in batch.column(0).to_pylist():
                        number += 1
                        name = held and held.get("path")
                        if name in seen:
                            repeated.add(number)
                        elif name:
                            seen.add(name)
        except (OSError, ArrowException, UnicodeDecodeError):
            pass  # reading the rows says where the file breaks off
        return frozenset(repeated)

    def _opened(self) -> Any:
        try:
            from pyarrow import ArrowException, parquet
        except ModuleNotFoundError:
            raise MissingPackage.of("pyarrow", "evaluate", "Reading Parquet") from None
        try:
            check_regular(self.path)
            # buffer_size: columns are read as they are needed, not a row group at a time
            return parquet.ParquetFile(self.path, buffer_size=1 << 20)
        except (OSError, ArrowException) as error:
            raise DatasetError(f"{self.path}: Parquet expected, got {error}.") from None

    def _rows(self, start: int) -> Iterator[Row]:
        """From row `start` on. Where the file breaks off, the last one says so."""
        from pyarrow import ArrowException

        number = start
        try:
            with self._opened() as opened:
                lengths = [
                    opened.metadata.row_group(group).num_rows
                    for group in range(opened.num_row_groups)
                ]
                first = 0
                while first < len(lengths) and start >= lengths[first]:
                    start -= lengths[first]
                    first += 1
                groups = list(range(first, len(lengths)))
                count = PATHS_AT_A_TIME if self.holds_paths else PICTURES_AT_A_TIME
                for batch in opened.iter_batches(count, row_groups=groups):
                    for values in python_rows(batch.slice(start)):
                        number += 1
                        yield Row(f"{self.path}, row {number}", number, values)
                    start = max(start - len(batch), 0)
        except (OSError, ArrowException, UnicodeDecodeError) as error:
            fault = f"the rows from here on cannot be read: {error}"
            yield Row(f"{self.path}, row {number + 1}", number + 1, {}, fault)

    def _item(self, row: Row) -> Item:
        held = row.values.get(self._image)
        content, name = held, None
        if isinstance(held, Mapping):
            content, name = held.get("bytes"), held.get("path")
        id = row.values.get(self._id_column) if self._id_column is not None else None
        if id is None:
            id = name or f"{self.path.stem}:{row.number}"
            if row.number in self._repeated:
                id = f"{id}:{row.number}"
        if row.fault:
            return Item(id, None, row.place, fault=row.fault)
        if content is None and name and not _leaves(name):
            return Item(id, self.path.parent / name, row.place, _described(row, self._image))
        if not isinstance(content, bytes) or not content:
            return Item(id, None, row.place, fault="an encoded picture expected, got none")
        return Item(id, content, row.place, _described(row, self._image))


def joined(rows: Iterator[Row], folder: Path, prefix: str, column: str = IMAGE) -> Iterator[Item]:
    """An item for each run of rows of one picture; their captions are put together."""

    def key(row: Row) -> str:
        name = row.values.get(column)
        return name if isinstance(name, str) and not row.fault else f"row {row.number}\0"

    for _, run in groupby(rows, key):
        first, *rest = run
        name = first.values.get(column)
        if first.fault or not isinstance(name, str) or not name or _leaves(name):
            fault = (
                first.fault or f'a path inside the folder expected as "{column}", got {brief(name)}'
            )
            yield Item(f"{prefix}row {first.number}", None, first.place, fault=fault)
            continue
        metadata = _described(first, column)
        captions = [
            *metadata.get("captions", []),
            *(text for row in rest for text in captions_of(row.values)),
        ]
        if captions:
            metadata["captions"] = captions
        yield Item(prefix + Path(name).as_posix(), folder / name, first.place, metadata)


def captions_of(values: Mapping[str, Any]) -> list[str]:
    """What is said of the picture: "captions", or else "caption"; empty ones are left out."""
    said = values["captions"] if values.get("captions") is not None else values.get("caption")
    listed = said if isinstance(said, list) else [said]
    return [mended(text[:MAX_TEXT]) for text in listed if isinstance(text, str) and text.strip()]


def json_rows(file: Path) -> Iterator[Row]:
    """JSON lines, read as they are needed; empty lines are passed over."""
    try:
        opened = open_regular(file)
    except OSError as error:
        raise DatasetError(f"{file}: a captions file expected, got {error}.") from None
    # utf-8-sig: spreadsheets put a mark before the first name
    with opened, TextIOWrapper(opened, "utf-8-sig", "replace") as text:
        for number, line in enumerate(bounded_lines(text), start=1):
            if line is not None and not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                values = (
                    json.loads(line) if line is not None else f"more than {MAX_LINE:,} characters"
                )
            except (ValueError, RecursionError) as error:
                yield Row(place, number, {}, f"a JSON object expected, got {error}")
                continue
            if isinstance(values, dict):
                yield Row(place, number, values)
            else:
                yield Row(place, number, {}, f"a JSON object expected, got {brief(values)}")


def csv_rows(file: Path) -> Iterator[Row]:
    """CSV or TSV with a line of column names."""
    try:
        for row in separated(file, (IMAGE,), errors="replace"):
            yield Row(f"{file}:{row.line}", row.line, row.values, row.fault)
    except OSError as error:
        raise DatasetError(f"{file}: a captions file expected, got {error}.") from None


def _described(row: Row, column: str) -> Metadata:
    named = {
        name: value
        for name, value in row.values.items()
        if name not in (column, "caption", "captions")
    }
    captions = captions_of(row.values)
    return plain(named) | ({"captions": captions} if captions else {})


def _leaves(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    tests: tuple[Callable[[Any], bool], ...] = (types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)
