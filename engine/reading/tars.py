"""WebDataset shards: uncompressed tars in which the files of one sample share a key and stand together.

    00000.jpg  00000.txt  00000.json  00001.jpg  00001.txt  …

The picture is `.jpg`, `.jpeg`, `.png` or `.webp`. The captions are the lines of `.txt`; without one, "captions" or
"caption" of `.json`, whose other values are those of the record. Other files are passed over.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.reading.records import CAPTIONS, Fault, Record, described
from engine.reading.tar_headers import TarError, tar_members
from engine.system.files import Member
from engine.system.terminal import brief

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_BYTES = 1 << 20  # of a `.txt` or `.json`
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
        picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
        if picture is None:
            expected = f"a picture ({', '.join(PICTURES)}) in the sample"
            fault = Fault(expected, brief(sorted(files)), "Add it, or remove the sample.")
            return Record(key, place, fault=rest or fault)
        try:
            values = _values(files)
        except (OSError, ValueError, RecursionError) as error:
            expected = "words in UTF-8 in .txt and an object in .json"
            fault = Fault(expected, str(error), "Mend the sample, or remove it.")
            return Record(key, place, fault=fault)
        return described(key, place, picture, values, flaw=flaw)


def _values(files: dict[str, Member]) -> dict[str, Any]:
    values: Any = json.loads(_text_of(files["json"])) if "json" in files else {}
    if not isinstance(values, dict):
        raise ValueError(brief(values))
    if "txt" in files:
        others = {name: value for name, value in values.items() if name not in CAPTIONS}
        return others | {"captions": _text_of(files["txt"]).splitlines()}
    return dict(values)


def _text_of(member: Member) -> str:
    """A `.txt` or `.json`; ValueError for one that is too long or no UTF-8."""
    if member.size > MAX_BYTES:
        raise ValueError(f"{member.size:,} bytes where at most {MAX_BYTES:,} are read")
    return member.read_bytes().decode("utf-8-sig")
