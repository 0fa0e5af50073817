"""What others named, shown to people: nothing in it may move the cursor, hide text, or look like a line of ours."""

import json
import reprlib
import sys
import unicodedata
from io import TextIOWrapper
from typing import Any

from engine.system.json_values import json_value

# Control characters, format characters that turn or hide text, halves of surrogate pairs, line separators.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # emoji and scripts are written with them

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlist = _REPR.maxdict = _REPR.maxset = _REPR.maxtuple = 4
_REPR.maxlevel = 3


def visible(text: object, keep: str = "") -> str:
    r"""`text` with what cannot be seen written as an escape, such as \x1b; the characters in `keep` stay."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or _is_seen(char) else _escaped(char) for char in text)


def brief(value: Any) -> str:
    """A short `repr`, however large or deep the value."""
    return _REPR.repr(value)


def write_anything() -> None:
    """Let stdout and stderr write what their encoding cannot say as an escape, where it would be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_json(facts: Any) -> str:
    """JSON that every parser reads (no NaN), and any terminal shows: what cannot be seen or encoded is escaped."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(json_value(facts), ensure_ascii=encoding != "utf8", allow_nan=False)
    return text if text.isascii() and text.isprintable() else "".join(map(_json_character, text))


def _json_character(char: str) -> str:
    if _is_seen(char):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else json.dumps(char)[1:-1]


def _is_seen(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char) not in _UNSEEN


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
