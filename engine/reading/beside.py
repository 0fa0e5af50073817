"""What the files beside a picture say of it: the lines of `.txt` are captions, `.json` holds values."""

import json
from collections.abc import Mapping
from typing import Any

from engine.reading.records import CAPTIONS
from engine.system.files import Member
from engine.system.terminal import brief

MAX_BYTES = 1 << 20  # of a `.txt` or `.json`


def values_of(files: Mapping[str, Member]) -> dict[str, Any]:
    """The values of "json", their captions replaced by those of "txt" where it is there.

    Raises OSError, RecursionError, and ValueError for a file that is too long, no UTF-8 or no object.
    """
    values: Any = json.loads(_text_of(files["json"])) if "json" in files else {}
    if not isinstance(values, dict):
        raise ValueError(brief(values))
    if "txt" in files:
        others = {name: value for name, value in values.items() if name not in CAPTIONS}
        return others | {"captions": _text_of(files["txt"]).splitlines()}
    return dict(values)


def _text_of(member: Member) -> str:
    if member.size > MAX_BYTES:
        raise ValueError(f"{member.size:,} bytes where at most {MAX_BYTES:,} are read")
    return member.read_bytes().decode("utf-8-sig")
