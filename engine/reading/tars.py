"""WebDataset shards: uncompressed tars in which the files of one sample share a key and stand together.

    00000.jpg  00000.txt  00000.json  00001.jpg  00001.txt  …

The picture has a suffix of pictures, or `.img`. The captions are the lines of `.txt`, `.text`, `.caption`,
`.captions` or `.cap`; without one, those of `.json`, whose other values are those of the record. A suffix may have
parts, of which the last counts: `.input.jpg`. Other files are passed over.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from engine.images import SUFFIXES
from engine.reading.beside import values_of
from engine.reading.records import Fault, Record, described
from engine.reading.tar_headers import TarError, tar_members
from engine.system.files import Member
from engine.system.terminal import brief

PICTURES = (*(suffix.removeprefix(".") for suffix in SUFFIXES), "img", "image")
TEXTS = ("txt", "text", "caption", "captions", "cap")
# WebDataset's own rule: the key ends at the first dot of the file's name.
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")


@dataclass(frozen=True)
class Tar:
    """One shard."""

    path: Path

    @property
    def by_path(self) -> bool:
        return False

    def records(self) -> Iterator[Record]:
        """One a sample, named by its key; where the tar breaks off, or is none, the last one says so."""
        seen = set[int]()
        before: Record | None = None
        for key, run in groupby(self._members(), lambda found: found[0]):
            files: dict[str, Member] = {}
            rest: Fault | None = None
            for _, suffix, found in run:
                if isinstance(found, Fault):
                    rest = found
                else:
                    files[suffix] = found
            if before is not None:  # where the tar breaks off, files of this sample may lack
                yield replace(before, flaw=before.flaw or rest)
            flaw = None
            if hash(key) in seen:
                flaw = Fault("the files of a sample side by side", "some apart", "Pack it anew.")
            seen.add(hash(key))
            before = self._record(key, files, rest, flaw)
        if before is not None:
            yield before

    def _members(self) -> Iterator[tuple[str, str, Member | Fault]]:
        """Every file with its key and its suffix in lower case."""
        try:
            for member in tar_members(self.path):
                match = KEY.fullmatch(member.name)
                if match is not None:
                    yield match[1], match[2].lower(), member
        except (OSError, TarError) as error:
            fault = Fault(
                "a whole, uncompressed tar", str(error), "Copy it again, or pack it anew."
            )
            yield f"{self.path.name}, the rest", "", fault

    def _record(
        self, key: str, files: dict[str, Member], rest: Fault | None, flaw: Fault | None
    ) -> Record:
        place = f"{self.path}:{key}"
        picture = _of_kind(files, PICTURES)
        if picture is None:
            expected = f"a picture ({', '.join(PICTURES[:4])}, …) in the sample"
            fault = Fault(expected, brief(sorted(files)), "Add it, or remove the sample.")
            return Record(key, place, fault=rest or fault)
        try:
            said = {"txt": _of_kind(files, TEXTS), "json": _of_kind(files, ("json",))}
            values = values_of({name: file for name, file in said.items() if file is not None})
        except (OSError, ValueError, RecursionError) as error:
            expected = "words in UTF-8 in .txt and an object in .json"
            fault = Fault(expected, str(error), "Mend the sample, or remove it.")
            return Record(key, place, fault=fault)
        return described(key, place, picture, values, flaw=flaw)


def _of_kind(files: dict[str, Member], suffixes: tuple[str, ...]) -> Member | None:
    """The file of one of these suffixes, or else that whose last part is one: `0.input.jpg`."""
    whole = next((files[suffix] for suffix in suffixes if suffix in files), None)
    if whole is not None:
        return whole
    parts = (member for suffix, member in files.items() if suffix.rpartition(".")[2] in suffixes)
    return next(parts, None)
