"""`Example`, a captioned picture, and how the records of a source become examples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from engine.reading.records import CAPTIONS, Fault, Passed, Record, mended
from engine.system.files import Member
from engine.system.terminal import brief

Skipped: TypeAlias = list[str]  # a line for each thing left out: where it is, and why
Picture: TypeAlias = Path | Member  # `engine.images.read_image` reads either

COLUMNS = (*CAPTIONS, "concept", "split", "splits")  # what is asked of a record


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


def gather(
    records: Iterable[Record],
    split: str | None,
    part: str | None,
    check_images: bool,
    skipped: Skipped | None,
) -> list[Example]:
    """The examples of `records`, those of one picture joined, in the order in which pictures first come.

    What cannot be used is noted in `skipped`, or raises DatasetError where that is None. See `read_dataset`.
    """
    found: dict[Picture, Example] = {}
    checked = [_without_bytes(record, skipped) for record in records]
    for record in map(_captioned, _of_part(checked, split, part)):
        image = record.picture
        if record.fault is None and check_images and isinstance(image, Path):
            record = record if image in found else _there(record, image)
        if problem := record.fault or record.flaw:
            _note(record, problem, skipped)
        if record.fault is not None or not record.captions:
            continue
        assert isinstance(image, Path | Member)  # or there would be a fault
        concept = _concept(record)
        known = found.get(image)
        if known is not None and known.concept != concept:
            fault = Fault(
                f"one concept for {image}",
                f"{concept!r} after {known.concept!r}",
                "Give all of its rows the same.",
            )
            raise fault.at(record.place)
        said = known.captions if known is not None else ()
        found[image] = Example(image, (*said, *record.captions), concept)
    return list(found.values())


def _without_bytes(record: Record, skipped: Skipped | None) -> Record:
    """`record`, with a fault where its picture is bytes or its splits are no mapping.

    The bytes are let go, as all records are held; and raised for at once, as the others have them, too.
    """
    if isinstance(record.picture, bytes):
        remedy = "Write the pictures as files, or into tars."
        fault = Fault('a path as "image"', "the picture itself", remedy)
        if skipped is None:
            _note(record, fault, None)
        return replace(record, picture=None, fault=fault)
    splits = record.values.get("splits") or {}
    if record.fault is None and not isinstance(splits, Mapping):
        fault = Fault('a mapping as "splits"', brief(splits), "Mend it, or remove it.")
        return replace(record, fault=fault)
    return record


def _captioned(record: Record) -> Record:
    """`record`, with a fault where it has no captions."""
    if record.fault is not None or record.captions:
        return record
    expected = 'captions with words in them, as "caption" or "captions"'
    fault = record.flaw or Fault(expected, "none", "Add one, or remove the picture.")
    return replace(record, fault=fault)


def _there(record: Record, image: Path) -> Record:
    """`record`, with a fault where its picture is not there."""
    if image.is_file():
        return record
    fault = Fault(f"a picture at {image}", "none", "Add it, or name the folder of pictures.")
    return replace(record, fault=fault)


def _of_part(records: list[Record], split: str | None, part: str | None) -> list[Record]:
    """The records of `part` of `split`; all of them where there is nothing to choose by."""
    if part is None or (split is None and not any(None in _parts(record) for record in records)):
        return records
    # "restval" is the part of COCO's own validation set that everybody trains on.
    wanted = {part, "restval"} if part == "train" else {part}
    return [record for record in records if record.fault or _parts(record).get(split) in wanted]


def _parts(record: Record) -> dict[str | None, str]:
    """The part that the picture plays in each split; the split that a source does not name is None.

    A struct of Parquet has all its fields in every row: those that are null are not there.
    """
    if record.fault is not None:
        return {}
    own = record.values.get("split")
    named = record.values.get("splits") or {}
    parts: dict[str | None, str] = {} if own in (None, "") else {None: str(own)}
    return parts | {name: str(part) for name, part in named.items() if part is not None}


def _concept(record: Record) -> str:
    """What the record says, or its picture: its path in the folder, or its place in a tar."""
    said = record.values.get("concept")
    if said not in (None, ""):
        return mended(str(said))
    return mended(str(record.picture) if isinstance(record.picture, Member) else record.name)


def _note(record: Record, fault: Fault, skipped: Skipped | None) -> None:
    error = fault.at(record.place)
    if skipped is None:
        if isinstance(fault, Passed):
            return
        raise error
    skipped.append(str(error))
