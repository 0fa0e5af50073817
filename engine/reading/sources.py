"""Which format a file is of, and where in a folder its captions are."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

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


# Captions files by their suffix, in the order in which a folder is searched for them. A second argument says where
# the pictures lie; by default, where the file does.
TABLES: Mapping[str, Callable[[Path, Path | None], Source]] = {
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


def captions_file(folder: Path) -> Path | None:
    """`captions.jsonl` of a folder, or else `captions.csv`, …, `metadata.csv`, …; None where there is none.

    Letters may be capitals. A file that names no pictures is none, unless it is called captions.
    """
    try:
        files = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    except OSError:
        return None
    for stem in _STEMS:
        for suffix in TABLES:
            file = files.get(f"{stem}{suffix}")
            named = file is not None and file.is_file()
            if file is not None and named and (stem == "captions" or _names_pictures(file)):
                return file
    return next(
        (
            path
            for name, path in sorted(files.items())
            if name.startswith(("captions_", "dataset_")) and name.endswith(".json")
        ),
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
            file = captions_file(path)
            if file is not None:
                found.append(file)
            elif depth + 1 < MAX_DEPTH:
                within.append((path, depth + 1))
    return sorted(found)


def _names_pictures(file: Path) -> bool:
    if file.suffix.lower() == ".parquet":
        return False
    try:
        with open_regular(file) as opened:
            first = opened.read(_HEAD).partition(b"\n")[0].decode("utf-8", "replace")
    except OSError:
        return False
    return any(name in first for name in IMAGES)
