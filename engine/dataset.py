"""Pictures with captions: a folder and its `captions.jsonl`.

One JSON object a line, for one picture each:

    {"image": "noto/1f600.webp", "captions": ["grinning face", …], "concept": "1f600",
     "splits": {"style": "test", "concept": "train"}, …}

`image` is relative to the folder. `concept` says what is shown: pictures of one concept answer each other's
captions; by default every picture is its own. `splits` gives the part it plays in each named split.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DatasetError

CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Example:
    """One picture: where it is, what is said of it, and what it shows."""

    image: Path
    captions: tuple[str, ...]
    concept: str


def read_dataset(
    folder: str | Path, split: str | None = None, part: str | None = None
) -> list[Example]:
    """The pictures of `folder` with their captions, in file order; only one part of one split, if asked.

    Raises DatasetError naming file and line where something is missing or of another form.
    """
    folder = Path(folder)
    examples, parts = [], set()
    for place, record in _records(folder / CAPTIONS):
        try:
            name, captions = Path(record["image"]), record["captions"]
            concept = str(record.get("concept", name.as_posix()))
            plays = record.get("splits", {}).get(split)
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f'{place}: "image" and "captions" expected, got {error!r}.'
            ) from None
        if not isinstance(captions, list):
            raise DatasetError(f"{place}: a list of captions expected, got {captions!r}.")
        if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
            raise DatasetError(f"{place}: captions with words in them expected, got {captions!r}.")
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{place}: a path inside the folder expected, got {str(name)!r}.")
        image = folder / name
        if not image.is_file():
            raise DatasetError(f"{place}: a picture expected at {image}, found none.")
        parts.add(plays)
        if split is None or plays == part:
            examples.append(Example(image, tuple(captions), concept))
    if not examples:
        asked = "pictures" if split is None else f"pictures of part {part!r} in split {split!r}"
        raise DatasetError(f"{folder / CAPTIONS}: {asked} expected, found none.")
    return examples


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line's place and JSON value."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: a captions file expected, got {error}.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError as error:
                raise DatasetError(
                    f"{file}:{number}: a JSON object expected, got {error}."
                ) from None
