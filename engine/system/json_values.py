"""What JSON can hold of metadata and figures: one way for results, `--json` and report files."""

import base64
import datetime
import math
from collections.abc import Mapping, Set
from typing import Any


def json_value(value: Any) -> Any:
    """`value` in JSON's own kinds, in lists and mappings too.

    NaN and infinities, which JSON has not: null. Dates and times: ISO 8601. Time spans: seconds. Bytes: base64.
    Arrays: lists. Decimals, UUIDs and all else: text.
    """
    if isinstance(value, str):
        return str(value)  # of NumPy's strings, too
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):  # datetimes are dates
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple | Set):
        return [json_value(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy, torch
        plain = value.tolist()
        return str(value) if plain is value or hasattr(plain, "tolist") else json_value(plain)
    return str(value)
