"""Pictures that lie in folders: their names are paths relative to the folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.images import OTHER_SUFFIXES, SUFFIXES
from engine.reading.records import Fault, Record


@dataclass(frozen=True)
class Folder:
    """Every picture below `path`."""

    path: Path

    @property
    def by_path(self) -> bool:
        return False

    def records(self) -> Iterator[Record]:
        """In order of their paths; one directory's names are in memory at a time.

        A stack, not recursion: folders may be nested deeper than Python's calls.
        """
        within = [self._inside(self.path)]
        while within:
            found = next(within[-1], None)
            if found is None:
                within.pop()
            elif isinstance(found, Path):
                within.append(self._inside(found))
            else:
                yield found

    def _inside(self, folder: Path) -> Iterator[Record | Path]:
        """The pictures of one folder, and the folders in it."""
        try:
            with os.scandir(folder) as found:
                inside = sorted(found, key=lambda file: file.name)
        except OSError as error:
            fault = Fault("a folder that can be read", str(error), "Get the permission.")
            yield self._faulty(folder, fault)
            return
        for file in inside:
            suffix = os.path.splitext(file.name)[1].lower()
            path = folder / file.name
            if file.is_dir(follow_symlinks=False):
                yield path
            elif file.is_symlink() and os.path.isdir(path):
                fault = Fault("a folder or picture", "a link to a folder", "Name that folder, too.")
                yield self._faulty(path, fault)
            elif suffix in SUFFIXES:
                yield Record(self._name(path), str(path), path)
            elif suffix in OTHER_SUFFIXES:  # listed as left out, where other files are passed over
                yield self._faulty(path, Fault("a JPEG, PNG or WebP image", suffix, "Convert it."))

    def _faulty(self, path: Path, fault: Fault) -> Record:
        return Record(self._name(path), str(path), fault=fault)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class SinglePicture:
    """One picture file, named as it is."""

    path: Path

    @property
    def by_path(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        """It."""
        yield Record(self.path.name, str(self.path), self.path)
