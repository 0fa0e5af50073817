"""`Record`: what a source holds of one item, and what is wrong with it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import DatasetError
from engine.reading.arrow_rows import MAX_TEXT
from engine.system.files import Member
from engine.system.terminal import brief

Picture: TypeAlias = Path | Member | bytes  # `engine.images.read_image` reads each

IMAGE = "image"  # the column that names a picture
# As the hub's image folders, Kaggle and others call it; the first that is there counts.
IMAGES = (IMAGE, "file_name", "image_name", "filename", "file", "filepath", "image_path")
CAPTIONS = (
    "captions",
    "caption",
    "text",
)  # the columns that describe it; the first that is there counts


@dataclass(frozen=True)
class Fault:
    """What is wrong at a place: three of the four parts of an error message. The place is the first."""

    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got}. {self.remedy}"

    def at(self, place: object) -> DatasetError:
        """The error for those who cannot go on without what is at `place`."""
        return DatasetError(str(place), expected=self.expected, got=self.got, remedy=self.remedy)


class Passed(Fault):
    """Why something is passed over that nobody would miss. It is listed, and is no error."""


@dataclass(frozen=True)
class Record:
    """What a source holds of one item.

    name: what the source calls it: a path in a folder, a key in a tar, a value of an id column; else its row.
    place: where in the source it is, for messages.
    picture: a file, a member of a tar, or encoded bytes; None where there is none.
    captions: those with words in them, each of at most `MAX_TEXT` characters.
    values: what else the source says of it, unchecked.
    flaw: what was mended or left out. The rest can be used.
    fault: why nothing can be used.
    """

    name: Any
    place: str
    picture: Picture | None = None
    captions: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    flaw: Fault | None = None
    fault: Fault | None = None


def named_picture(
    place: str,
    number: int,
    values: Mapping[str, Any],
    folder: Path,
    column: str | None = None,
    flaw: Fault | None = None,
) -> Record:
    """The record of row `number`, whose `column`, by default the first of `IMAGES`, is a path below `folder`."""
    column = column or image_column(values) or IMAGE
    path = values.get(column)
    if not isinstance(path, str) or not path or leaves(path):
        fault = Fault(
            f'a path inside the folder as "{column}"', brief(path), "Mend the row, or remove it."
        )
        return Record(row_name(number), place, fault=fault)
    return described(Path(path).as_posix(), place, folder / path, values, column, flaw)


def image_column(names: Iterable[str]) -> str | None:
    """Which of these columns names the picture."""
    held = set(names)
    return next((name for name in IMAGES if name in held), None)


def described(
    name: Any,
    place: str,
    picture: Picture,
    values: Mapping[str, Any],
    column: str | None = None,
    flaw: Fault | None = None,
) -> Record:
    """A record with the captions that `values` hold; `column` and the captions are no values of it."""
    used = _captions_column(values)
    captions, unusable = captions_of(values)
    dropped = (column, used, *CAPTIONS[:2])
    others = {key: value for key, value in values.items() if key not in dropped}
    return Record(name, place, picture, captions, others, flaw or unusable)


def captions_of(values: Mapping[str, Any]) -> tuple[tuple[str, ...], Fault | None]:
    """The captions with words in them of the first of `CAPTIONS` that is there, and what the others are.

    One text stands for a list of one.
    """
    used = _captions_column(values)
    said: Any = [] if used is None else values[used]
    listed = said if isinstance(said, list) else [said]
    usable = tuple(
        mended(text[:MAX_TEXT]) for text in listed if isinstance(text, str) and text.strip()
    )
    if len(usable) == len(listed):
        return usable, None
    return usable, Fault("captions with words in them", brief(listed), "Mend them, or remove them.")


def _captions_column(values: Mapping[str, Any]) -> str | None:
    return next((name for name in CAPTIONS if values.get(name) is not None), None)


def row_name(number: int) -> str:
    """The name of a row that has no other; rows and lines count from 1, as in editors."""
    return f"row {number}"


def leaves(path: str) -> bool:
    """Whether `path` may lead out of the folder that it is relative to."""
    return os.path.isabs(path) or ".." in Path(path).parts


def mended(text: str) -> str:
    """`text` less what nothing can store: JSON can say half a surrogate pair, a file name be no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def decoded(text: str) -> tuple[str, Fault | None]:
    """`text`, read with `surrogateescape`, with marks in place of bytes that are no UTF-8, and what is wrong."""
    if text.isascii():
        return text, None
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if whole == text:
        return text, None
    return whole, Fault("text in UTF-8", "other bytes", "Save the file as UTF-8.")
