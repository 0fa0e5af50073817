"""Metadata of records, and `Kinds`: one kind of value per column, as an index wants it."""

import datetime
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from engine.errors import MissingPackage
from engine.index import Index
from engine.index.columns import common_schema
from engine.reading.arrow_rows import MAX_TEXT
from engine.reading.records import mended

Metadata: TypeAlias = dict[str, Any]

MAX_COLUMNS = 1000  # a table where every row has columns of its own is no table
MAX_NAME = 1000  # characters
BEYOND = "columns beyond the first 1,000, or of long names"

OF_ARROW = {
    "bool": "bool",
    "int64": "int",
    "double": "float",
    "string": "str",
    "list<element: string>": "list",
    "list<element: null>": "list",
}


def metadata(values: Mapping[str, Any], captions: list[str]) -> Metadata:
    """What metadata can hold of a record: text, numbers, truth, dates as text, lists of text. No other.

    The captions come last, as the column "captions"; none, no column.
    """
    plain = {mended(name): _plain(value) for name, value in values.items()}
    kept = {name: value for name, value in plain.items() if value is not None}
    return kept | ({"captions": captions} if captions else {})


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return mended(value[:MAX_TEXT])
    if isinstance(value, int):  # or a bool
        return value if -(1 << 63) <= value < 1 << 63 else None
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return [mended(text[:MAX_TEXT]) for text in value]
    return None


class Kinds:
    """The first value of a column says of which kind it is: "bool", "int", "float", "str" or "list" (of text).

    Later values are made so where nothing is lost (2 is 2.0, 7 is "7", "a" is ["a"]); others are left out and
    counted by column in `lost`. So are columns beyond `MAX_COLUMNS`, as `BEYOND`.
    """

    def __init__(self, known: Mapping[str, str], lost: Mapping[str, int]) -> None:
        self.known, self.lost = dict(known), Counter(lost)

    def settle(self, metadata: Metadata) -> Metadata | None:
        """`metadata` with every value of its column's kind; None where nothing is in it."""
        settled = {}
        for name, value in metadata.items():
            if name not in self.known:
                if len(self.known) >= MAX_COLUMNS or len(name) > MAX_NAME:
                    self.lost[BEYOND] += 1
                    continue
                self.known[name] = type(value).__name__
            fitting = _as(self.known[name], value)
            if fitting is None:
                self.lost[name] += 1
            else:
                settled[name] = fitting
        return settled or None


def kinds_in(index: Index | None) -> dict[str, str]:
    """Of the columns of `index`. One that only Python can make, of dates for instance, is of a kind of its own: no
    value of a source fits."""
    segments = () if index is None else index.segments
    held = [segment.metadata for segment in segments if segment.metadata is not None]
    if not held:
        return {}
    try:
        types = {field.name: str(field.type) for field in common_schema(held)}
    except MissingPackage:  # without it, none can be added either
        return {}
    return {name: OF_ARROW.get(kind, kind) for name, kind in types.items() if kind != "null"}


def _as(kind: str, value: Any) -> Any:
    """`value` as one of `kind`; None where that would change it."""
    if type(value).__name__ == kind:
        return value
    if kind == "str" and not isinstance(value, list):
        return str(value)
    if kind == "list" and isinstance(value, str):
        return [value]
    whole = type(value) is float and value.is_integer() and abs(value) < 1 << 53
    if kind == "int" and whole:
        return int(value)
    if kind == "float" and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    return None
