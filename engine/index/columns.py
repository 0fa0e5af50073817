"""`Columns`: the metadata of a segment's items, as Parquet, of which only what is asked for is read.

Texts are read as Arrow's dictionaries, each different one once: so what is read takes about as much memory as
Parquet says, though a text of a megabyte may stand in every row. They are decoded a piece at a time. (Those within
lists and mappings are decoded as they are read: Arrow makes no such dictionaries of several pages.)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError, InvalidArgument, MissingPackage
from engine.index.footer import Footer, read_footer
from engine.index.recent import Recent
from engine.index.remedies import VERIFY
from engine.system.forks import cached_property, forkable_lock

GROUP_ROWS = 4096  # read together
NULLS_AT_A_TIME = 1 << 16
PIECE_BYTES = 1 << 26  # about as many are decoded at a time
RECENT = Recent(1 << 26)  # bytes of groups, whose items may be shown next

# What a group may take once decompressed, a stranger's too. Nobody's captions come near.
ROW_LIMIT, GROUP_LIMIT = 1 << 24, 1 << 32
# zstd makes at most 13,000 bytes of one, in pages of a megabyte.
RATIO_LIMIT, RATIO_FROM = 20_000, 1 << 28


class Columns:
    """One row per item, null where an item has no value.

    Args:
        parquet: uint8, the bytes of a Parquet file.
        rows: how many rows it must have.
    """

    def __init__(self, parquet: NDArray[np.uint8], rows: int) -> None:
        self.parquet, self.rows = parquet, rows
        self._lock = forkable_lock()  # a Parquet reader serves one thread at a time

    def __reduce__(self) -> Any:
        return Columns, (self.parquet, self.rows)

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
        table = pa.table(arrays)
        try:
            made = _written(table.schema, [table])
            made._check_readable()
        except (pa.ArrowException, IndexFormatError) as error:
            raise _refused(None, str(error)) from None
        return made

    @cached_property
    def schema(self) -> Any:
        """The `pyarrow.Schema`."""
        with self._lock:
            return self._guarded(lambda: self._file.schema_arrow)

    def _check_readable(self) -> None:
        """IndexFormatError where it is too deep or too large to be read again."""
        for number in range(len(self._footer.rows)):
            self._bytes_of(number, self.schema.names)

    def at(self, row: int) -> dict[str, Any] | None:
        """What is not null of one row, in nested mappings too; None if everything is."""
        return self.of_rows(np.array([row]))[0]

    def of_rows(self, rows: NDArray[np.int64]) -> list[dict[str, Any] | None]:
        """The same of rows, int64 `[n]`; each group that holds some is read once."""
        found: list[dict[str, Any] | None] = [None] * len(rows)
        numbers, places = np.divmod(rows, GROUP_ROWS)
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            values = self._values(number, places[here])
            for asked, value in zip(here.tolist(), values, strict=True):
                found[asked] = _without_nulls(value) or None
        return found

    def _values(self, number: int, places: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The values at these places of a group, null or not."""
        table = RECENT.get(self, number)
        if table is None:
            count = self._bytes_of(number, self.schema.names)
            if count > PIECE_BYTES:
                return self._values_in(self._batches(number, None, count), places)
            table = self._read([number], None)
            RECENT.put(self, number, table)
        return self._values_in([table], places)

    def _values_in(self, tables: Iterable[Any], places: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The values at places of tables that lie one after the other."""
        found: list[dict[str, Any]] = [{}] * len(places)
        first = 0
        for table in tables:
            here = np.flatnonzero((places >= first) & (places < first + table.num_rows))
            for asked in here.tolist():
                place = int(places[asked]) - first
                found[asked] = self._guarded(
                    lambda table=table, place=place: table.slice(place, 1).to_pylist()[0]
                )
            first += table.num_rows
            if first > places.max():
                break
        return found

    def take(self, rows: NDArray[np.int64]) -> "Columns":
        """Those of these rows, which ascend."""
        kept = np.zeros(self.rows, dtype=bool)
        kept[rows] = True
        return _written(self.schema, _kept(self.tables(), kept))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """All rows as a `pyarrow.Table`, or some columns of them."""
        names = self.schema.names if columns is None else list(columns)
        empty = _pyarrow().schema([self.schema.field(name) for name in names]).empty_table()
        return _pyarrow().concat_tables([empty, *self.tables(names)])

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """All rows, or some columns of them, as tables one after the other: about 64 MiB each, or one row."""
        names = self.schema.names if columns is None else list(columns)
        waiting: list[int] = []
        bytes_waiting = 0
        for number in range(-(-self.rows // GROUP_ROWS)):
            count = self._bytes_of(number, names)
            if waiting and bytes_waiting + count > PIECE_BYTES:
                yield from self._decoded(self._read(waiting, names), names)
                waiting, bytes_waiting = [], 0
            if count > PIECE_BYTES:
                for table in self._batches(number, names, count):
                    yield from self._decoded(table, names)
            else:
                waiting.append(number)
                bytes_waiting += count
        if waiting:
            yield from self._decoded(self._read(waiting, names), names)

    def _read(self, groups: Sequence[int], columns: Sequence[str] | None) -> Any:
        with self._lock:
            return self._guarded(
                lambda: self._reader().read_row_groups(groups, columns, use_threads=False)
            )

    def _batches(self, group: int, columns: Sequence[str] | None, count: int) -> Iterator[Any]:
        """The rows of a group of `count` bytes, piece by piece."""
        rows = min(GROUP_ROWS, self.rows - group * GROUP_ROWS)
        step = max(1, rows * PIECE_BYTES // count)
        batches = self._reader().iter_batches(
            step, row_groups=[group], columns=columns, use_threads=False
        )
        table_of = _pyarrow().Table.from_batches
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            yield table_of([batch])

    def _decoded(self, table: Any, names: Sequence[str]) -> Iterator[Any]:
        """The table with the types of the schema, a piece at a time."""
        schema = _pyarrow().schema([self.schema.field(name) for name in names])
        table = table.select(names)
        size = sum(_decoded_bytes(chunk) for column in table.columns for chunk in column.chunks)
        step = max(1, table.num_rows * PIECE_BYTES // max(size, 1))
        for first in range(0, table.num_rows, step):
            piece = table.slice(first, step)
            yield self._guarded(lambda piece=piece: piece.cast(schema))

    def _bytes_of(self, group: int, columns: Sequence[str]) -> int:
        """About how many bytes some columns of a group take once read; IndexFormatError where it is too much."""
        chunks, rows = self._footer.chunks[group], self._footer.rows[group]
        whole, packed = sum(chunk.size for chunk in chunks), sum(chunk.packed for chunk in chunks)
        if whole > min(GROUP_LIMIT, rows * ROW_LIMIT) or (
            whole > RATIO_FROM and whole > RATIO_LIMIT * packed
        ):
            raise IndexFormatError(
                "metadata of an index",
                expected=f"at most {ROW_LIMIT >> 20} MiB per item and {GROUP_LIMIT >> 30} GiB per "
                f"{GROUP_ROWS:,} items",
                got=f"{whole:,} bytes, compressed to {packed:,}",
                remedy="Store large values elsewhere, and their names here.",
            )
        wanted = set(columns)
        return sum(chunk.size for chunk in chunks if {chunk.path[0], ".".join(chunk.path)} & wanted)

    @cached_property
    def _footer(self) -> Footer:
        footer: Footer = self._guarded(lambda: read_footer(self.parquet))
        full, rest = divmod(self.rows, GROUP_ROWS)
        if footer.rows != [GROUP_ROWS] * full + [rest] * bool(rest):
            raise _damaged(
                f"{sum(footer.rows)} rows in groups of {footer.rows[:3]}… instead of {self.rows}"
            )
        return footer

    @cached_property
    def _file(self) -> Any:
        self._footer  # noqa: B018 - checks first
        file = self._guarded(self._opened)
        names = self._guarded(lambda: file.schema_arrow.names)
        if len(set(names)) < len(names):
            raise _damaged("several columns of one name")
        return file

    def _reader(self) -> Any:
        """A reader for one use, which makes dictionaries of texts."""
        given = {"metadata": self._file.metadata, "read_dictionary": self._footer.texts}
        return self._guarded(lambda: self._opened(**given))

    def _opened(self, **given: Any) -> Any:
        pa = _pyarrow()
        from pyarrow import parquet

        # Held through the mapping, not by name: a writer may have unlinked the file since.
        source = pa.BufferReader(pa.py_buffer(self.parquet))
        return parquet.ParquetFile(source, page_checksum_verification=True, **given)

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (_pyarrow().ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
            raise _damaged(str(error)) from None


def joined(parts: Sequence[tuple[Columns | None, NDArray[np.bool_]]]) -> Columns | None:
    """The columns of several segments, one after the other: of each those of the rows that are marked."""
    held = [columns for columns, _ in parts if columns is not None]
    if not held:
        return None
    schema = common_schema(held)
    tables = (
        table
        for columns, kept in parts
        for table in _kept(_tables_as(schema, columns, len(kept)), kept)
    )
    return _written(schema, tables)


def _kept(tables: Iterator[Any], kept: NDArray[np.bool_]) -> Iterator[Any]:
    """Of tables one after the other, the rows that are marked."""
    first = 0
    for table in tables:
        marked = kept[first : first + table.num_rows]
        first += table.num_rows
        yield table if marked.all() else table.filter(_pyarrow().array(marked))


def _written(schema: Any, tables: Iterable[Any]) -> Columns:
    """Tables one after the other as Parquet, in groups of `GROUP_ROWS`; few of them are held at a time."""
    pa = _pyarrow()
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    rows, waiting = 0, schema.empty_table()
    options = {"write_page_checksum": True, "compression": "zstd"}
    with parquet.ParquetWriter(sink, schema, **options) as writer:
        for table in tables:
            rows += table.num_rows
            waiting = pa.concat_tables([waiting, table])
            full = waiting.num_rows // GROUP_ROWS * GROUP_ROWS
            if full:
                writer.write_table(waiting.slice(0, full), row_group_size=GROUP_ROWS)
                waiting = waiting.slice(full)
        if waiting.num_rows:
            writer.write_table(waiting, row_group_size=GROUP_ROWS)
    return Columns(np.frombuffer(sink.getvalue(), dtype=np.uint8), rows)


def matching(parts: Sequence[tuple[Columns | None, int]], expression: Any) -> NDArray[np.bool_]:
    """Which rows of several segments a `pyarrow.compute.Expression` holds for; for null it does not.

    Only the columns that it names are read, a piece at a time. InvalidArgument where it names a column that no
    segment has, or does not fit its type.
    """
    held = [columns for columns, _ in parts if columns is not None]
    pa = _pyarrow()
    schema = common_schema(held)
    try:
        found = [np.zeros(0, dtype=bool)]
        named = _named(expression, schema)
        for columns, rows in parts:
            for table in _tables_as(named, columns, rows):
                hits = _scanner(table, expression).to_table()["hit"]
                found.append(hits.cast(pa.bool_()).fill_null(False).to_numpy())
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, IndexFormatError):
            raise
        raise InvalidArgument(
            "filter",
            expected=f"a pyarrow.compute expression over the columns {schema.names}, true or false",
            got=str(error).splitlines()[0],
            remedy='For example: pyarrow.compute.field("year") > 2020.',
        ) from None
    return np.concatenate(found)


def _named(expression: Any, schema: Any) -> Any:
    """The part of a schema that an expression names: it does not fit one that lacks any of it."""
    pa = _pyarrow()

    def fits(names: Sequence[str]) -> bool:
        try:
            _scanner(pa.schema([schema.field(name) for name in names]).empty_table(), expression)
        except (pa.ArrowException, KeyError):
            return False
        return True

    def named(among: list[str]) -> list[str]:
        if not among or fits([name for name in schema.names if name not in set(among)]):
            return []
        half = len(among) // 2
        return among if len(among) == 1 else named(among[:half]) + named(among[half:])

    _scanner(schema.empty_table(), expression)  # raises where it fits none
    # A table without columns has no rows: one column at least.
    return pa.schema([schema.field(name) for name in named(schema.names) or schema.names[:1]])


def _scanner(table: Any, expression: Any) -> Any:
    from pyarrow import dataset

    return dataset.dataset(table).scanner(columns={"hit": expression}, use_threads=False)


def _tables_as(schema: Any, columns: Columns | None, rows: int) -> Iterator[Any]:
    """All rows in another schema, as `Columns.tables` gives them; what they have no value for is null."""
    pa = _pyarrow()
    names = [] if columns is None else [n for n in schema.names if n in columns.schema.names]
    if columns is None or not names:
        for first in range(0, rows, NULLS_AT_A_TIME):
            count = min(NULLS_AT_A_TIME, rows - first)
            nulls = [pa.nulls(count, field.type) for field in schema]
            yield pa.Table.from_arrays(nulls, schema=schema)
        return
    for table in columns.tables(names):
        arrays = [
            columns._guarded(
                # Not safely: what `check_fits` let in before it was there may be rounded, and is no damage.
                lambda field=field, table=table: table[field.name].cast(field.type, safe=False)
            )
            if field.name in names
            else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _decoded_bytes(array: Any) -> int:
    """At most so many bytes has an Arrow array once its dictionaries are decoded."""
    pa = _pyarrow()
    from pyarrow import compute

    kind = array.type
    if pa.types.is_dictionary(kind):
        longest = compute.max(compute.binary_length(array.dictionary)).as_py() or 0
        return len(array) * (int(longest) + 8)
    if pa.types.is_struct(kind):
        return sum(_decoded_bytes(part) for part in array.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 8 * len(array) + _decoded_bytes(array.flatten())
    return int(array.nbytes)


def check_fits(columns: Columns, schema: Any) -> None:
    """Raise InvalidArgument for a value that its column in `schema`, one of floats, cannot hold exactly."""
    pa = _pyarrow()
    for field in columns.schema:
        wanted = schema.field(field.name).type
        if wanted == field.type or pa.types.is_null(field.type):
            continue
        for table in columns.tables([field.name]):
            try:
                table[field.name].cast(wanted)
            except pa.ArrowException as error:
                raise InvalidArgument(
                    "metadata",
                    expected=f"{wanted} in column {field.name!r}, as the index has",
                    got=str(error).splitlines()[0],
                    remedy="Convert the values, or choose another name.",
                ) from None


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
    """The type that holds what either does: null gives way, integers become floats, narrow ones wide, whatever came
    first; moments with zones are of UTC."""
    pa = _pyarrow()
    if known == new or pa.types.is_null(new):
        return known
    if pa.types.is_null(known):
        return new
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (known, new)]
    if all(numbers):
        return _common_number(known, new)
    if pa.types.is_decimal(known) and pa.types.is_decimal(new):
        scale = max(known.scale, new.scale)
        digits = scale + max(known.precision - known.scale, new.precision - new.scale)
        return pa.decimal128(digits, scale) if digits <= 38 else None
    if pa.types.is_timestamp(known) and pa.types.is_timestamp(new):
        if (known.tz is None) != (new.tz is None):
            return None
        unit = max(known.unit, new.unit, key=("s", "ms", "us", "ns").index)
        return pa.timestamp(unit, None if known.tz is None else "UTC")
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


def _common_number(known: Any, new: Any) -> Any:
    pa = _pyarrow()
    floats = [kind for kind in (known, new) if pa.types.is_floating(kind)]
    if len(floats) == 2:
        return max(floats, key=lambda kind: kind.bit_width)
    if floats:
        return pa.float64()
    signed = any(pa.types.is_signed_integer(kind) for kind in (known, new))
    if signed == all(pa.types.is_signed_integer(kind) for kind in (known, new)):
        return max(known, new, key=lambda kind: kind.bit_width)
    return pa.int64()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingPackage.of("pyarrow", "metadata", "Storing metadata") from None
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
        "metadata of an index",
        expected="the Parquet file that was written",
        got=got,
        remedy=VERIFY,
    )
