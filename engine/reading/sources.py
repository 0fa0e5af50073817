"""Which format a file is of, and where in a folder its captions are."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from engine.errors import DatasetError, MissingPackage
from engine.reading.folders import NOT_PICTURES
from engine.reading.json_lines import JsonLines
from engine.reading.karpathy import Karpathy
from engine.reading.parquet import Parquet
from engine.reading.records import IMAGES, Record
from engine.reading.separated import Separated
from engine.system.files import open_regular


class Source(Protocol):
    """Records, in an order that is the same every time.

    by_path: whether they are named by the paths of pictures from one folder, and one picture may have several.
    """

    @property
    def path(self) -> Path: ...
    @property
    def by_path(self) -> bool: ...
    def records(self) -> Iterator[Record]: ...


class Table(Source, Protocol):
    """A captions file; `folder`: where its pictures lie, None = where the file does."""

    @property
    def folder(self) -> Path | None: ...


# Captions files by their suffix, in the order in which a folder is searched for them. A second argument says where
# the pictures lie; by default, where the file does.
TABLES: Mapping[str, Callable[[Path, Path | None], Table]] = {
    ".jsonl": JsonLines,
    ".csv": Separated,
    ".tsv": Separated,
    ".parquet": Parquet,
    ".json": Karpathy,
    ".txt": Separated,  # Flickr8k's captions.txt
}
# Stems of captions files: ours, the hub's image folders', Kaggle's Flickr30k.
_STEMS = ("captions", "metadata", "results")
MAX_DEPTH = 3  # of folders in which captions files are looked for
_HEAD = 1 << 16  # bytes of a file that say whether it names pictures


def opened_table(file: Path, folder: Path | None = None) -> Table:
    """The captions file; without `folder`, its pictures are looked for.

    They lie where the file does, or in a folder beside it or beside its folder: `Images` of Flickr8k's
    `captions.txt`, `val2017` of COCO's `annotations`. The first picture says which.
    """
    table = TABLES[file.suffix.lower()](file, folder)
    if folder is not None or not file.is_file():
        return table
    try:
        if isinstance(table, Parquet) and not table.by_path:
            return table
        first = next((one for one in table.records() if isinstance(one.picture, Path)), None)
        if first is None:
            return table
        for place in _places(file):
            if (place / first.name).is_file():
                return table if place == file.parent else TABLES[file.suffix.lower()](file, place)
    except (DatasetError, MissingPackage, OSError):  # whoever reads the records is told
        pass
    return table


def _places(file: Path) -> Iterator[Path]:
    """Where the pictures of a captions file may lie, the likeliest first: `val2017` of `captions_val2017.json`."""
    here = file.parent
    yield here
    for folder in (here, here.parent) if here.name.lower() == "annotations" else (here,):
        named = file.stem.partition("_")[2]
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        yield from sorted(inside, key=lambda path: path.name != named)


def prefix_of(table: Table, within: Path) -> str:
    """What the names of its pictures begin with, seen from the folder `within`."""
    here = table.path.parent
    folder = table.folder if table.folder and table.folder.is_relative_to(within) else here
    return "" if folder == within else f"{folder.relative_to(within).as_posix()}/"


def captions_files(folder: Path) -> list[Path]:
    """The captions file of a folder; of COCO's and Karpathy's, all."""
    file = captions_file(folder)
    if file is None or not _of_parts(file.name.lower()):
        return [] if file is None else [file]
    return sorted(path for path in folder.iterdir() if _of_parts(path.name.lower()))


def of_suffix(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that end in `suffix`, in small letters or capitals; no hidden ones."""
    named = (path for path in folder.iterdir() if path.suffix.lower() == suffix)
    return sorted(path for path in named if not path.name.startswith("."))


def captions_file(folder: Path) -> Path | None:
    """`captions.jsonl` of a folder, or else `captions.csv`, …, `metadata.csv`, …; None where there is none.

    Letters may be capitals. A file that names no pictures is none, unless it is called captions and is no `.txt`.
    """
    try:
        files = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    except OSError:
        return None
    for stem in _STEMS:
        for suffix in TABLES:
            file = files.get(f"{stem}{suffix}")
            named = file is not None and file.is_file()
            if stem != "captions" and suffix in (".json", ".txt"):  # anybody's
                continue
            sure = stem == "captions" and suffix != ".txt"
            if file is not None and named and (sure or _names_pictures(file)):
                return file
    return next(
        (path for name, path in sorted(files.items()) if _of_parts(name)),
        None,
    )


def nested_captions(folder: Path) -> list[Path]:
    """The captions files of the folders below it, at most `MAX_DEPTH` deep; below a folder that has one, none."""
    found: list[Path] = []
    within = [(folder, 0)]
    while within:
        here, depth = within.pop()
        try:
            inside = [path for path in here.iterdir() if path.is_dir() and not path.is_symlink()]
        except OSError:
            continue
        for path in inside:
            if path.name.startswith(".") or path.name in NOT_PICTURES:
                continue
            if files := captions_files(path):
                found += files
            elif depth + 1 < MAX_DEPTH:
                within.append((path, depth + 1))
    return sorted(found)


def _of_parts(name: str) -> bool:
    return name.startswith(("captions_", "dataset_")) and name.endswith(".json")


def _names_pictures(file: Path) -> bool:
    try:
        if file.suffix.lower() == ".parquet":
            return Parquet(file).by_path
        with open_regular(file) as opened:
            first = opened.read(_HEAD).partition(b"\n")[0].decode("utf-8", "replace")
    except (OSError, DatasetError, MissingPackage):
        return False
    return not {*re.split(r"[^\w]+", first)}.isdisjoint(IMAGES)
