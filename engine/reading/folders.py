"""Pictures that lie in folders: their names are paths relative to the folder.

What lies beside a picture under its name describes it, as img2dataset writes it: `000000001.jpg`, `000000001.txt`,
`000000001.json`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from engine.images import KINDS, OTHER_SUFFIXES, SUFFIXES
from engine.reading.beside import values_of
from engine.reading.records import Fault, Passed, Record, described
from engine.system.files import Member

# What cameras, network drives and operating systems put among pictures, beside everything that begins with a dot.
NOT_PICTURES = (
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
    *("__MACOSX", "lost+found"),
)


@dataclass(frozen=True)
class Folder:
    """Every picture below `path`; links to folders outside it are followed, each folder once.

    exclude: patterns as shells have them (`*`, `?`, `[…]`), of names or of paths relative to the folder.
    captioned: whether the files beside the pictures are read.
    covered: folders in it, relative to it, that another source reads.
    """

    path: Path
    exclude: tuple[str, ...] = ()
    captioned: bool = True
    covered: frozenset[str] = frozenset()

    @property
    def by_path(self) -> bool:
        return False

    def records(self) -> Iterator[Record]:
        """In order of their paths; one directory's names are in memory at a time.

        A stack, not recursion: folders may be nested deeper than Python's calls.
        """
        followed = [self.path.resolve()]
        within = [self._inside(self.path, followed)]
        while within:
            found = next(within[-1], None)
            if found is None:
                within.pop()
            elif isinstance(found, Path):
                within.append(self._inside(found, followed))
            else:
                yield found

    def _inside(self, folder: Path, followed: list[Path]) -> Iterator[Record | Path]:
        """The pictures of one folder, and the folders in it."""
        try:
            with os.scandir(folder) as found:
                inside = sorted(found, key=lambda file: file.name)
        except OSError as error:
            fault = Fault("a folder that can be read", str(error), "Get the permission.")
            yield self._faulty(folder, fault)
            return
        names = {file.name for file in inside}
        for file in inside:
            path = folder / file.name
            suffix = os.path.splitext(file.name)[1].lower()
            is_folder = file.is_dir(follow_symlinks=False)
            links = file.is_symlink() and os.path.isdir(path)
            if not (is_folder or links or suffix in SUFFIXES or suffix in OTHER_SUFFIXES):
                continue
            if is_folder and self._name(path) in self.covered:
                continue
            passed = self._passed(file.name, path)
            if links and passed is None:
                passed = _followed_already(path, followed)
            if passed is not None:
                yield self._faulty(path, passed)
            elif is_folder or links:
                yield path
            elif suffix in SUFFIXES:
                yield self._record(path, names)
            else:  # listed as left out, where other files are passed over
                yield self._faulty(path, Fault(KINDS, suffix, "Convert it."))

    def _passed(self, name: str, path: Path) -> Passed | None:
        if name.startswith(".") or name in NOT_PICTURES:
            got = "a hidden one, or one that a system keeps"
            remedy = "Name it as a source of its own to index it."
            return Passed("a file or folder of the user", got, remedy)
        for pattern in self.exclude:
            if fnmatchcase(name, pattern) or fnmatchcase(self._name(path), pattern):
                remedy = "Change the pattern to index it."
                return Passed("a name that no pattern excludes", f"a match of {pattern!r}", remedy)
        return None

    def _record(self, path: Path, names: set[str]) -> Record:
        name, place = self._name(path), str(path)
        beside = {
            suffix: path.with_suffix(f".{spelled}")
            for suffix in ("txt", "json")
            for spelled in (suffix.upper(), suffix)
            if self.captioned and f"{path.stem}.{spelled}" in names
        }
        if not beside:
            return Record(name, place, path)
        try:
            texts = {
                suffix: Member(file, file.name, 0, file.stat().st_size)
                for suffix, file in beside.items()
            }
            return described(name, place, path, values_of(texts))
        except (OSError, ValueError, RecursionError) as error:
            fault = Fault("words in .txt and an object in .json", str(error), "Mend the file.")
            return Record(name, place, path, flaw=fault)

    def _faulty(self, path: Path, fault: Fault) -> Record:
        return Record(self._name(path), str(path), fault=fault)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def _followed_already(path: Path, followed: list[Path]) -> Passed | None:
    """Notes the folder that `path` links to; or why not to follow it."""
    target = path.resolve()
    for folder in followed:
        if target == folder or folder in target.parents or target in folder.parents:
            got = f"a link to a folder that is read anyway, {target}"
            return Passed("a folder that is not read yet", got, "Its pictures are indexed once.")
    followed.append(target)
    return None


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
