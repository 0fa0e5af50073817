"""Which format a file is of, and where in a folder its captions are."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from engine.reading.json_lines import JsonLines
from engine.reading.parquet import Parquet
from engine.reading.records import Record
from engine.reading.separated import Separated


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
}


def captions_file(folder: Path, suffixes: tuple[str, ...] = tuple(TABLES)) -> Path | None:
    """`captions.jsonl` of a folder, or else `captions.csv`, …; None where there is none."""
    files = (folder / f"captions{suffix}" for suffix in suffixes)
    return next((file for file in files if file.is_file()), None)
