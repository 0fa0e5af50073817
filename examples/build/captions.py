"""Captions are real words, cleaned; and the label decides what a picture is a picture of."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable


def clean(captions: Iterable[str | None]) -> tuple[str, ...]:
    """One line each, entities resolved, no empties, no repeats (case aside), order kept."""
    kept: dict[str, str] = {}
    for caption in captions:
        line = unicodedata.normalize("NFC", html.unescape(caption or ""))
        line = " ".join(line.split()).strip(" ,;")
        if any(letter.isalnum() or letter in "#*" for letter in line):
            kept.setdefault(line.casefold(), line)
    return tuple(kept.values())


def with_tags(label: str, tags: Iterable[str]) -> str:
    """``label, tag, tag``: the tags that say something the label does not."""
    said = set(words(label))
    new = [tag for tag in clean(tags) if not set(words(tag)) <= said]
    return ", ".join([label, *new])


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[^\W_]+", text.casefold())


def slug(label: str) -> str:
    """A label as a key: ``"A red fox."`` and ``"Red Fox 2"`` are both ``red-fox``."""
    parts = words(label)
    while len(parts) > 1 and parts[0] in {"a", "an", "the"}:
        parts = parts[1:]
    while len(parts) > 1 and parts[-1].isdigit():
        parts = parts[:-1]
    return "-".join(parts)
