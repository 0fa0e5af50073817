"""What sources yield: `Item`, one picture to encode, and `Part`, some entries of a source with their vectors."""

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from engine.dataset import Member, mended
from engine.embeddings import Embeddings
from engine.index import Id
from engine.reading.arrow_rows import MAX_TEXT

Metadata: TypeAlias = dict[str, Any]
IdKind: TypeAlias = Literal["int", "str"]


@dataclass(frozen=True)
class Item:
    """One entry of a source.

    picture: where it is; None = it cannot be used, and `fault` says why.
    place: where in the source, for messages and the list of what was left out.
    """

    id: Id
    picture: Path | Member | bytes | None
    place: str
    metadata: Metadata = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class Skip:
    """An entry that was left out: where it is, and why."""

    id: Id
    place: str
    why: str


@dataclass
class Part:
    """The next entries of a source: what of them is to be added, and what not.

    taken: how many entries these are; each is in `ids`, in `skipped`, or counted in `held`.
    places: where each of them is in the source.
    vectors: one row per id; None where there is no id.
    held: entries that the index held before the build began.
    """

    taken: int = 0
    ids: list[Id] = field(default_factory=list)
    vectors: Embeddings | None = None
    metadata: list[Metadata] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    held: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """What is known of a source before it is read.

    count: how many entries it has, for the progress bar.
    stamp: differs where the source has changed since.
    """

    count: int
    stamp: str


class PictureSource(Protocol):
    """Pictures, in an order that is the same every time."""

    @property
    def path(self) -> Path: ...
    @property
    def id_kind(self) -> IdKind: ...
    def survey(self) -> Survey: ...
    def items(self, start: int) -> Iterator[Item]:
        """The entries from number `start` on."""


def file_stamp(file: Path) -> str:
    """Length and time of the last change."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def plain(values: Mapping[str, Any]) -> Metadata:
    """The values that metadata can hold: text, numbers, truth, dates as text, lists of text. No other."""
    kept = {mended(name): _plain(value) for name, value in values.items()}
    return {name: value for name, value in kept.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return mended(value[:MAX_TEXT])
    if isinstance(value, int):  # or a bool
        return value if -(1 << 63) <= value < 1 << 63 else None
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return [mended(entry[:MAX_TEXT]) for entry in value]
    return None
