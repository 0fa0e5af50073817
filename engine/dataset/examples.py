"""`Example`, a captioned picture, and how the records of a source become examples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import DatasetError
from engine.system.files import open_regular
from engine.system.terminal import brief

Skipped: TypeAlias = list[str]  # a line for each thing left out: where it is, and why


def mended(text: str) -> str:
    """`text` less what nothing can store: JSON can say half a surrogate pair, a file name be no UTF-8."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar, read where it lies.

    offset, size: in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        with open_regular(self.archive) as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"


Picture: TypeAlias = Path | Member  # `engine.images.read_image` reads either


@dataclass(frozen=True)
class Example:
    """One picture: where it is, what is said of it, and what it shows."""

    image: Picture
    captions: tuple[str, ...]
    concept: str

    @property
    def file_size(self) -> int:
        """How long the picture's file is, in bytes."""
        image = self.image
        return image.size if isinstance(image, Member) else image.stat().st_size


@dataclass(frozen=True)
class Record:
    """One picture as its source has it, not checked yet.

    place: where in the source, for messages.
    image: relative to the folder of pictures, or a member of a tar; None = captions without a picture.
    concept: None = this picture's own.
    parts: split -> the part that the picture plays in it; the split that a source has without naming it is None.
    fault: why nothing of it can be used.
    """

    place: str
    image: Picture | None
    captions: list[Any]
    concept: str | None
    parts: Mapping[str | None, str]
    fault: str = ""

    @classmethod
    def faulty(cls, place: str, fault: str) -> "Record":
        """A row of which nothing can be used."""
        return cls(place, None, [], None, {}, fault)

    @classmethod
    def of(cls, place: str, image: Picture | None, row: Any) -> "Record":
        """A record from a mapping of "captions" or "caption", and perhaps "concept", "split" (a part of the
        unnamed split) and "splits" (name -> part)."""
        try:
            captions = row["captions"] if "captions" in row else [row["caption"]]
            concept, part = row.get("concept"), row.get("split")
            parts = {name: str(plays) for name, plays in (row.get("splits") or {}).items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f'{place}: "image" and "captions" expected, got {error!r}.'
            ) from None
        if not isinstance(captions, list):
            raise DatasetError(f"{place}: a list of captions expected, got {brief(captions)}.")
        return cls(
            place,
            image,
            captions,
            mended(str(concept)) if concept not in (None, "") else None,
            parts if part in (None, "") else {None: str(part), **parts},
        )


def gather(
    records: Iterable[Record],
    folder: Path,
    split: str | None,
    part: str | None,
    check_images: bool,
    skipped: Skipped | None,
) -> list[Example]:
    """The examples of `records`, those of one picture joined, in the order in which pictures first come.

    What cannot be used is noted in `skipped`, or raises DatasetError where that is None. See `read_dataset`.
    """
    found: dict[Picture, Example] = {}
    for record in _of_part(list(records), split, part):
        if record.fault:
            _leave_out(record, record.fault, skipped)
            continue
        captions = [mended(t) for t in record.captions if isinstance(t, str) and t.strip()]
        if not captions or len(captions) < len(record.captions):
            fault = f"captions with words in them expected, got {brief(record.captions)}"
            _leave_out(record, fault, skipped)
        image = record.image
        if image is None:
            _leave_out(record, "a picture beside the captions expected, found none", skipped)
        if image is None or not captions:
            continue
        concept = record.concept or _name(image)
        if isinstance(image, Path):
            if image.is_absolute() or ".." in image.parts:
                raise DatasetError(
                    f"{record.place}: a path inside the folder expected, got {str(image)!r}."
                )
            image = folder / image
            if check_images and image not in found and not image.is_file():
                _leave_out(record, f"a picture expected at {image}, found none", skipped)
                continue
        known = found.get(image)
        if known is not None and known.concept != concept:
            raise DatasetError(
                f"{record.place}: one concept for {image} expected, got {concept!r} after {known.concept!r}."
            )
        said = known.captions if known is not None else ()
        found[image] = Example(image, (*said, *captions), concept)
    return list(found.values())


def _of_part(records: list[Record], split: str | None, part: str | None) -> list[Record]:
    """The records of `part` of `split`; all of them where there is nothing to choose by."""
    if part is None or (split is None and not any(None in record.parts for record in records)):
        return records
    # "restval" is the part of COCO's own validation set that everybody trains on.
    parts = {part, "restval"} if part == "train" else {part}
    return [record for record in records if record.fault or record.parts.get(split) in parts]


def _leave_out(record: Record, fault: str, skipped: Skipped | None) -> None:
    message = f"{record.place}: {fault}."
    if skipped is None:
        raise DatasetError(message)
    skipped.append(message)


def _name(image: Picture) -> str:
    return mended(image.as_posix() if isinstance(image, Path) else str(image))
