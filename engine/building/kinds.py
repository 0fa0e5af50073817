"""`Kinds`: one kind of value per metadata column, as an index wants it, out of sources that do not care."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from engine.building.items import Metadata


class Kinds:
    """The first value of a column says of which kind it is: "bool", "int", "float", "str" or "list" (of text).

    Later values are made so where nothing is lost (2 is 2.0, 7 is "7", "a" is ["a"]); others are left out and
    counted by column in `lost`.
    """

    def __init__(self, known: Mapping[str, str], lost: Mapping[str, int]) -> None:
        self.known, self.lost = dict(known), Counter(lost)

    def settle(self, metadata: Metadata) -> Metadata | None:
        """`metadata` with every value of its column's kind; None where nothing is in it."""
        settled = {}
        for name, value in metadata.items():
            kind = self.known.setdefault(name, type(value).__name__)
            fitting = _as(kind, value)
            if fitting is None:
                self.lost[name] += 1
            else:
                settled[name] = fitting
        return settled or None


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
