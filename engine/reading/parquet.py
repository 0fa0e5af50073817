"""Parquet whose rows name pictures or hold them, as Hugging Face `datasets` and others write it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import MissingPackage
from engine.images import MAX_BYTES
from engine.reading.arrow_rows import python_rows
from engine.reading.records import (
    IMAGE,
    Fault,
    Record,
    described,
    image_column,
    leaves,
    named_picture,
    row_name,
)
from engine.system.files import check_regular
from engine.system.forks import cached_property

IDS = ("id", "key")  # columns that name a record, in order of preference
PICTURES_AT_A_TIME, PATHS_AT_A_TIME = 16, 64  # rows
AT_ONCE = 1 << 27  # bytes of the rows that are read at once, as far as the file tells


@dataclass(frozen=True)
class Parquet:
    """A Parquet file whose pictures are paths, or bytes, or structs of "bytes" and "path".

    folder: where pictures that are paths lie; default: where the file does.
    wanted: the columns that are read beside the picture's; None = all.
    """

    path: Path
    folder: Path | None = None
    wanted: tuple[str, ...] | None = None

    @cached_property
    def by_path(self) -> bool:
        """Whether the pictures are files that it names."""
        return _is_text(self._types[self._image])

    @cached_property
    def integer_names(self) -> bool:
        """Whether the records are named by a column of integers."""
        if self._id_column is None:
            return False
        from pyarrow import types

        return bool(types.is_integer(self._types[self._id_column]))

    def count(self) -> int:
        """How many rows it says to have."""
        with opened_parquet(self.path) as opened:
            return int(opened.metadata.num_rows)

    def records(self, start: int = 0) -> Iterator[Record]:
        """One a row, from row `start` on; row groups before it are not read. Where the file breaks off, the last
        one says so. Raises DatasetError where it is no Parquet."""
        most = PATHS_AT_A_TIME if self.by_path else PICTURES_AT_A_TIME
        columns = None
        if self.wanted is not None:
            columns = [name for name in self._types if name in (self._image, *self.wanted)]
        rows = parquet_rows(self.path, start, most=most, columns=columns)
        for number, values in enumerate(rows, start=start + 1):
            place = f"{self.path}, row {number}"
            if isinstance(values, Fault):
                name = row_name(number) if self.by_path else self._row_name(number)
                yield Record(name, place, fault=values)
            elif self.by_path:
                yield named_picture(place, number, values, self._folder, self._image)
            else:
                yield self._held(place, number, values)

    @property
    def _folder(self) -> Path:
        return self.path.parent if self.folder is None else self.folder

    @cached_property
    def _types(self) -> dict[str, Any]:
        with opened_parquet(self.path) as opened:
            return {field.name: field.type for field in opened.schema_arrow}

    @cached_property
    def _image(self) -> str:
        """The column of the pictures: one of `IMAGES` that holds text or bytes, or else the only one of bytes."""
        usable = [name for name, kind in self._types.items() if _is_text(kind) or _is_bytes(kind)]
        if (named := image_column([*usable, *({IMAGE} & self._types.keys())])) is not None:
            return named
        held = [name for name, kind in self._types.items() if _is_bytes(kind)]
        if len(held) != 1:
            expected = f'a column "{IMAGE}", or one column of bytes'
            fault = Fault(expected, f"{list(self._types)}", "Rename the column of the pictures.")
            raise fault.at(self.path)
        return held[0]

    @cached_property
    def _id_column(self) -> str | None:
        if self.by_path:
            return None
        return next((name for name in IDS if name in self._types), None)

    @cached_property
    def _repeated(self) -> frozenset[int]:
        """The rows whose bytes have the file name of an earlier row: `datasets` drops the folders that tell them
        apart."""
        from pyarrow import ArrowException, types

        if not types.is_struct(self._types[self._image]):
            return frozenset()
        seen, repeated, number = set[str](), set[int](), 0
        try:
            with opened_parquet(self.path) as opened:
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

    def _row_name(self, number: int) -> str:
        return f"{self.path.stem}:{number}"

    def _held(self, place: str, number: int, values: Mapping[str, Any]) -> Record:
        """The record of a row whose picture is bytes, or of a struct that names a file instead."""
        held = values.get(self._image)
        content, path = held, None
        if isinstance(held, Mapping):
            content, path = held.get("bytes"), held.get("path")
        name = values.get(self._id_column) if self._id_column is not None else None
        if name is None:
            name = path or self._row_name(number)
            if number in self._repeated:
                name = f"{name}:{number}"
        if content is None and path and not leaves(path):
            return described(name, place, self._folder / path, values, self._image)
        if not isinstance(content, bytes) or not content:
            fault = Fault(f'an encoded picture as "{self._image}"', "none", "Add it.")
            return Record(name, place, fault=fault)
        if len(content) > MAX_BYTES:
            return Record(name, place, fault=_too_large(len(content)))
        return described(name, place, content, values, self._image)


def opened_parquet(file: Path) -> Any:
    """`pyarrow.parquet.ParquetFile`, a context manager; DatasetError where it is none."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise MissingPackage.of("pyarrow", "evaluate", "Reading Parquet") from None
    try:
        check_regular(file)
        # buffer_size: columns are read as they are needed, not a row group at a time
        return parquet.ParquetFile(file, buffer_size=1 << 20)
    except (OSError, ArrowException) as error:
        fault = Fault("a file in Parquet", str(error), "Copy it again, or write it anew.")
        raise fault.at(file) from None


def parquet_rows(
    file: Path, start: int = 0, *, most: int, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any] | Fault]:
    """The rows from `start` on; a fault for one that is too large to be read, and where the file breaks off.

    `most` rows are read at once, or fewer. By a dictionary, each row may hold as much as its whole row group does;
    so of a group of many bytes few rows are read at once, and of one row those bytes are known before it is read.
    """
    with opened_parquet(file) as opened:
        from pyarrow import ArrowException

        try:
            for group in range(opened.num_row_groups):
                about = opened.metadata.row_group(group)
                if start >= about.num_rows:
                    start -= about.num_rows
                    continue
                if about.num_rows == 1 and about.total_byte_size > MAX_BYTES:
                    yield _too_large(about.total_byte_size)
                    continue
                count = max(1, min(most, AT_ONCE // max(1, about.total_byte_size)))
                for batch in opened.iter_batches(count, row_groups=[group], columns=columns):
                    yield from python_rows(batch.slice(start))
                    start = max(start - len(batch), 0)
        except (OSError, ArrowException, UnicodeDecodeError) as error:
            yield Fault("rows in Parquet from here on", str(error), "Copy the file again.")


def _too_large(size: int) -> Fault:
    expected = f"a picture of at most {MAX_BYTES:,} bytes"
    return Fault(expected, f"{size:,} bytes", "Scale it down, or remove the row.")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):  # as pandas writes categories
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return {"bytes", "path"} <= {field.name for field in kind}
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
