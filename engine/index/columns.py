"""`Columns`: the metadata of a segment's items, as Parquet, of which only what is asked for is read."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError, InvalidArgument, MissingPackage

GROUP_ROWS = 4096  # read together
GROUPS_KEPT = 16


class Columns:
    """One row per item, null where an item has no value.

    Args:
        parquet: uint8, the bytes of a Parquet file.
        rows: how many rows it must have.
    """

    def __init__(self, parquet: NDArray[np.uint8], rows: int) -> None:
        self.parquet, self.rows = parquet, rows
        self._groups: OrderedDict[int, Any] = OrderedDict()  # the last ones read
        self._lock = Lock()  # a Parquet reader serves one thread at a time

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any] | None]) -> "Columns | None":
        """Of one mapping or None per item; None if there is nothing in any of them.

        InvalidArgument where a column holds what Parquet cannot, or values of several types.
        """
        names = dict.fromkeys(name for item in items if item for name in item)
        if not names:
            return None
        pa = _pyarrow()
        arrays = {}
        for name in names:
            values = [None if not item else item.get(name) for item in items]
            try:
                arrays[name] = pa.array(values)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise _refused(name, str(error)) from None
        for name in arrays:
            if not isinstance(name, str):
                raise _refused(name, f"a name of type {type(name).__name__}")
            try:
                name.encode()
            except UnicodeEncodeError:
                raise _refused(name, "a name that UTF-8 cannot hold") from None
        return cls.from_table(pa.table(arrays))

    @classmethod
    def from_table(cls, table: Any) -> "Columns":
        """Of a `pyarrow.Table`."""
        pa = _pyarrow()
        from pyarrow import parquet

        sink = pa.BufferOutputStream()
        try:
            parquet.write_table(
                table, sink, row_group_size=GROUP_ROWS, write_page_checksum=True, compression="zstd"
            )
        except pa.ArrowException as error:
            raise _refused(None, str(error)) from None
        return cls(np.frombuffer(sink.getvalue(), dtype=np.uint8), table.num_rows)

    @cached_property
    def schema(self) -> Any:
        """The `pyarrow.Schema`."""
        with self._lock:
            return self._file.schema_arrow

    def at(self, row: int) -> dict[str, Any] | None:
        """What is not null of one row, in nested mappings too; None if everything is."""
        values = self._group(row // GROUP_ROWS).slice(row % GROUP_ROWS, 1).to_pylist()[0]
        return _without_nulls(values) or None

    def take(self, rows: NDArray[np.int64]) -> "Columns":
        """Those of these rows, in their order."""
        return Columns.from_table(self.table().take(rows))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """All rows as a `pyarrow.Table`, or some columns of them."""
        with self._lock:
            return self._guarded(lambda: self._file.read(columns=columns))

    def _group(self, number: int) -> Any:
        with self._lock:
            if number not in self._groups:
                group = self._guarded(lambda: self._file.read_row_group(number))
                self._groups[number] = group
            self._groups.move_to_end(number)
            if len(self._groups) > GROUPS_KEPT:
                self._groups.popitem(last=False)
            return self._groups[number]

    @cached_property
    def _file(self) -> Any:
        pa = _pyarrow()
        from pyarrow import parquet

        # Held through the mapping, not by name: a writer may have unlinked the file since.
        source = pa.BufferReader(pa.py_buffer(self.parquet))
        file = self._guarded(lambda: parquet.ParquetFile(source, page_checksum_verification=True))
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        full, rest = divmod(self.rows, GROUP_ROWS)
        if sizes != [GROUP_ROWS] * full + [rest] * bool(rest):
            raise _damaged(f"{sum(sizes)} rows in groups of {sizes[:3]}… instead of {self.rows}")
        return file

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (_pyarrow().ArrowException, OSError, ValueError) as error:
            raise _damaged(str(error)) from None


def joined(parts: Sequence[tuple[Columns | None, int]]) -> Columns | None:
    """The columns of several segments, one after the other; each with its number of rows."""
    held = [columns for columns, _ in parts if columns is not None]
    if not held:
        return None
    schema = common_schema(held)
    tables = [_table_as(schema, columns, rows) for columns, rows in parts]
    return Columns.from_table(_pyarrow().concat_tables(tables))


def matching(parts: Sequence[tuple[Columns | None, int]], expression: Any) -> NDArray[np.bool_]:
    """Which rows of several segments a `pyarrow.compute.Expression` holds for; for null it does not.

    InvalidArgument where the expression names a column that no segment has, or does not fit its type.
    """
    held = [columns for columns, _ in parts if columns is not None]
    pa = _pyarrow()
    from pyarrow import dataset

    schema = common_schema(held)
    found = [np.zeros(0, dtype=bool)]
    for columns, rows in parts:
        table = _table_as(schema, columns, rows)
        try:
            hits = dataset.dataset(table).to_table(columns={"hit": expression})["hit"]
            found.append(hits.cast(pa.bool_()).fill_null(False).to_numpy())
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidArgument(
                "filter",
                expected=f"a pyarrow.compute expression over the columns {schema.names}, true or false",
                got=str(error).splitlines()[0],
                remedy='For example: pyarrow.compute.field("year") > 2020.',
            ) from None
    return np.concatenate(found)


def _table_as(schema: Any, columns: Columns | None, rows: int) -> Any:
    """All rows in another schema; what they have no value for is null."""
    pa = _pyarrow()
    table = None if columns is None else columns.table()
    arrays = [
        pa.nulls(rows, field.type)
        if table is None or field.name not in table.column_names
        else table[field.name].cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def common_schema(parts: Sequence[Columns]) -> Any:
    """The schema that holds the columns of all; InvalidArgument names the column whose type changes."""
    pa = _pyarrow()
    types: dict[str, Any] = {}
    for columns in parts:
        for field in columns.schema:
            known = types.get(field.name, field.type)
            common = _common(known, field.type)
            if common is None:
                raise InvalidArgument(
                    "metadata",
                    expected=f"{known} in column {field.name!r}, as the index has",
                    got=str(field.type),
                    remedy="Convert the values, or choose another name.",
                )
            types[field.name] = common
    return pa.schema(list(types.items()))


def _common(known: Any, new: Any) -> Any:
    """The type that holds what either does: null gives way, integers become floats where floats are known."""
    pa = _pyarrow()
    if known == new or pa.types.is_null(new):
        return known
    if pa.types.is_null(known):
        return new
    if pa.types.is_floating(known) and pa.types.is_integer(new):
        return known
    if pa.types.is_list(known) and pa.types.is_list(new):
        inner = _common(known.value_type, new.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(known) and pa.types.is_struct(new):
        fields = {field.name: field.type for field in known}
        for field in new:
            inner = _common(fields.get(field.name, field.type), field.type)
            if inner is None:
                return None
            fields[field.name] = inner
        return pa.struct(list(fields.items()))
    return None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingPackage.of("pyarrow", "metadata", "metadata of items") from None
    return pyarrow


def _refused(name: Any, got: str) -> InvalidArgument:
    where = "" if name is None else f" in column {name!r}"
    return InvalidArgument(
        "metadata",
        expected=f"values of one type that Parquet can hold{where}",
        got=got,
        remedy="Convert them.",
    )


def _damaged(got: str) -> IndexFormatError:
    return IndexFormatError(
        f"metadata of an index: the Parquet file that was written expected, got {got}. "
        "`python -m engine info INDEX --verify` names the damaged file; restore it."
    )
