"""Pictures that lie in folders: ids are paths relative to the folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from engine.building.items import IdKind, Item, Survey, file_stamp
from engine.images import OTHER_SUFFIXES, SUFFIXES


@dataclass(frozen=True)
class Folder:
    """Every picture below `path`.

    prefix: what ids begin with; the folder's name where several folders are indexed together, else "".
    """

    path: Path
    prefix: str = ""
    id_kind: IdKind = "str"

    def survey(self) -> Survey:
        names = blake2b(digest_size=16)
        count = 0
        for item in self.items(0):
            names.update(str(item.id).encode(errors="surrogateescape") + b"\0")
            count += 1
        return Survey(count, names.hexdigest())

    def items(self, start: int) -> Iterator[Item]:
        """In order of their paths; one directory's names are in memory at a time."""
        return islice(self._walk(self.path), start, None)

    def _walk(self, folder: Path) -> Iterator[Item]:
        """A stack, not recursion: folders may be nested deeper than Python's calls."""
        within = [self._entries(folder)]
        while within:
            found = next(within[-1], None)
            if found is None:
                within.pop()
            elif isinstance(found, Path):
                within.append(self._entries(found))
            else:
                yield found

    def _entries(self, folder: Path) -> Iterator[Item | Path]:
        """The pictures of one folder, and the folders in it."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield self._unusable(folder, f"a readable folder expected, got {error}")
            return
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                yield path
            elif entry.is_symlink() and os.path.isdir(path):
                yield self._unusable(path, "a folder or picture expected, got a link to a folder")
            elif suffix in SUFFIXES:
                yield Item(self._name(path), path, str(path))
            elif suffix in OTHER_SUFFIXES:  # listed as left out, where other files are passed over
                fault = f"a JPEG, PNG or WebP image expected, got {suffix}. Convert it"
                yield self._unusable(path, fault)

    def _unusable(self, path: Path, fault: str) -> Item:
        return Item(self._name(path), None, str(path), fault=fault)

    def _name(self, path: Path) -> str:
        return self.prefix + path.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class SinglePicture:
    """One picture file; its name is the id."""

    path: Path
    id_kind: IdKind = "str"

    def survey(self) -> Survey:
        return Survey(1, file_stamp(self.path))

    def items(self, start: int) -> Iterator[Item]:
        """It."""
        return islice([Item(self.path.name, self.path, str(self.path))], start, None)
