"""Of which type the columns of a table are whose values are text."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Leading zeros are no number's: 007 is a name, a postal code.
_WHOLE = re.compile(r"[-+]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)?(\.\d+|\.(?=[eE])|(?<=\d)\.?)([eE][-+]?\d{1,3})?")
_TRUTH = {"true": True, "false": False}
# What `evaluate` and `train` read, as text.
_TEXTS = ("concept", "split", "splits", "id", "key")

Convert = Callable[[str], Any]


def typed_columns(rows: Iterable[Mapping[str, str]]) -> dict[str, Convert]:
    """How the values of each column that is not text become what they are. Empty ones say nothing."""
    fits: dict[str, set[str]] = {}
    known: set[str] = set()
    for values in rows:
        for name, text in values.items():
            if name not in fits:
                fits[name] = set() if name in _TEXTS else {"whole", "number", "truth"}
            if fits[name] and (said := text.strip()):
                known.add(name)
                fits[name] &= _kinds(said)
    found: dict[str, Convert] = {}
    for name in known:
        if "whole" in fits[name]:
            found[name] = int
        elif "number" in fits[name]:
            found[name] = float
        elif "truth" in fits[name]:
            found[name] = _truth
    return found


def _kinds(text: str) -> set[str]:
    if _WHOLE.fullmatch(text):
        return {"whole", "number"}
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return {"number"}
    return {"truth"} if text.lower() in _TRUTH else set()


def _truth(text: str) -> bool:
    return _TRUTH[text.strip().lower()]
