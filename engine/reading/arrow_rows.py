"""Rows of Parquet as Python values, whatever single values there are."""

from typing import Any

MAX_TEXT = 1 << 16  # characters of one text; what is longer is cut

# What pyarrow raises for a value that Python cannot hold: no UTF-8, years beyond 9999, nanoseconds, unknown zones.
_FAULTS = (ValueError, OverflowError, KeyError, TypeError)


def python_rows(batch: Any) -> list[dict[str, Any]]:
    """A mapping for each row of a `pyarrow.RecordBatch`. What Python cannot hold becomes text, or else None."""
    from pyarrow import ArrowException

    faults = (*_FAULTS, ArrowException)
    columns = [_values(_cut(column), faults) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _cut(column: Any) -> Any:
    """`column`, long texts cut: a dictionary of one text may stand for gigabytes."""
    from pyarrow import ArrowException, compute, types

    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return column
    if column.nbytes <= MAX_TEXT:
        return column
    try:
        return compute.utf8_slice_codeunits(column, 0, MAX_TEXT)
    except ArrowException:  # no UTF-8
        return column


def _values(column: Any, faults: tuple[type[Exception], ...]) -> list[Any]:
    try:
        return list(column.to_pylist())
    except faults:
        return [_value(scalar, faults) for scalar in column]


def _value(scalar: Any, faults: tuple[type[Exception], ...]) -> Any:
    try:
        return scalar.as_py()
    except faults:
        pass
    try:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")
        return scalar.cast("string").as_py().replace(" ", "T", 1)  # as Python writes a time
    except faults:
        return None
