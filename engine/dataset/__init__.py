"""Pictures with captions, as `evaluate` and `train` take them: one list of `Example` whatever the source.

| source | what it is |
|---|---|
| a folder | its captions file; else its `*.tar`; else those of its folders; else pictures beside `.txt`, `.json` |
| `.jsonl`, `.csv`, `.tsv`, `.txt`, `.parquet` | a captions file, a row a picture or a caption |
| `.tar` | one WebDataset shard |
| `.json` | `dataset_flickr30k.json`, `dataset_coco.json`, COCO's `captions_val2017.json` |

`engine.reading` reads them. A row of a captions file; in JSON lines and Parquet "captions" may be a list, and
"splits" a mapping:

    {"image": "noto/1f600.webp", "captions": ["grinning face", …], "concept": "1f600",
     "splits": {"style": "test", "concept": "train"}, …}

`image` is relative to the folder of pictures; rows with the same one are joined. `concept` says what is shown:
pictures of one concept answer each other's captions; by default every picture is its own. `splits` gives the
part it plays in each named split, `split` its part in the one split that has no name.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engine.dataset.examples import COLUMNS, Example, Picture, Skipped, gather
from engine.reading.folders import Folder
from engine.reading.parquet import Parquet
from engine.reading.records import Fault, Record
from engine.reading.sources import (
    TABLES,
    Source,
    Table,
    captions_files,
    nested_captions,
    of_suffix,
    opened_table,
    prefix_of,
)
from engine.reading.tars import Tar
from engine.system.files import Member

__all__ = ["CAPTIONS", "Example", "Member", "Picture", "Skipped", "read_dataset"]

CAPTIONS = "captions.jsonl"
_FORMATS = (*TABLES, ".tar")


def read_dataset(
    source: str | Path,
    split: str | None = None,
    part: str | None = None,
    *,
    images: str | Path | None = None,
    check_images: bool = True,
    skipped: Skipped | None = None,
) -> list[Example]:
    """The pictures of `source` with their captions, in its order; only one part of one split, if asked.

    Args:
        source: a folder or file, as in the table above.
        split: a named split, or None for the one without a name that Karpathy's files and a column `split` have.
        part: "train", "test", … of it. Where `split` is None and the source has no split, all are returned.
            COCO's "restval" counts as "train".
        images: the folder of the pictures; default: where the captions file is.
        check_images: whether the pictures must be there; not needed by those who have their vectors.
        skipped: what has a fault, no picture or an empty caption is left out and noted here, a line each.
            None = an error.

    Raises DatasetError naming file and line where something is missing or of another form.
    """
    source = Path(source)
    folder = None if images is None else Path(images)
    examples = gather(_records(source, folder), split, part, check_images, skipped)
    if not examples:
        of_split = "" if split is None else f" in split {split!r}"
        asked = "pictures" + ("" if part is None else f" of part {part!r}{of_split}")
        got = f"none that can be used; {len(skipped)} were left out" if skipped else "none"
        remedy = "Name another source." if part is None else "Name another part, split or source."
        raise Fault(asked, got, remedy).at(source)
    return examples


def _records(source: Path, folder: Path | None) -> Iterator[Record]:
    for one, prefix in _sources(source, folder):
        for record in one.records():
            yield replace(record, name=f"{prefix}{record.name}") if prefix else record


def _sources(source: Path, folder: Path | None) -> list[tuple[Source, str]]:
    """Each with what its names begin with: files of one name in two folders are two pictures."""
    if not source.is_dir():
        return [(_opened(source, folder), "")]
    if files := captions_files(source) or of_suffix(source, ".tar"):
        return [(_opened(file, folder), "") for file in files]
    if nested := [_table(file, folder) for file in nested_captions(source)]:
        return [(one, prefix_of(one, source)) for one in nested]
    pictures = Folder(source)
    if any(record.captions for record in pictures.records()):
        return [(pictures, "")]
    if files := of_suffix(source, ".parquet"):
        return [(_opened(file, folder), "") for file in files]
    expected = (
        f"a captions file (captions{', '.join(TABLES)}), *.tar or pictures with .txt in the folder"
    )
    raise Fault(expected, "none", "Name the captions file.").at(source)


def _opened(file: Path, folder: Path | None) -> Source:
    suffix = file.suffix.lower()
    if suffix not in _FORMATS:
        expected = f"a folder or a file of kind {', '.join(_FORMATS)}"
        fault = Fault(expected, repr(suffix or "none"), "Name a source of these kinds.")
        raise fault.at(file)
    if not file.exists():
        raise Fault("a captions file", "nothing", "Mend the path.").at(file)
    return Tar(file) if suffix == ".tar" else _table(file, folder)


def _table(file: Path, folder: Path | None) -> Table:
    table = opened_table(file, folder)
    if isinstance(table, Parquet):
        return Parquet(file, table.folder, wanted=COLUMNS)
    return table
