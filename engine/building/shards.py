"""WebDataset shards: tars in which the files of one sample share a key and stand together.

    00000.jpg  00000.txt  00000.json  00001.jpg  00001.txt  …

The picture is `.jpg`, `.jpeg`, `.png` or `.webp`; the id is the key. The lines of `.txt` are captions, or else
"captions" or "caption" of `.json`, whose other plain values become metadata.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from engine.building.items import IdKind, Item, Metadata, Survey, file_stamp, plain
from engine.building.rows import captions_of
from engine.dataset import Member
from engine.dataset.tars import PICTURES, members, text_of
from engine.reading.tar_headers import TarError
from engine.system.terminal import brief


@dataclass(frozen=True)
class Shard:
    """One tar, not compressed."""

    path: Path
    id_kind: IdKind = "str"

    def survey(self) -> Survey:
        return Survey(sum(1 for _ in self._samples()), file_stamp(self.path))

    def items(self, start: int) -> Iterator[Item]:
        """A sample each; where the tar breaks off, the last one says so."""
        for key, files, fault in islice(self._samples(), start, None):
            place = f"{self.path}:{key}"
            picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
            if picture is None:
                expected = f"a picture ({', '.join(PICTURES)}) expected, got {brief(sorted(files))}"
                yield Item(key, None, place, fault=fault or expected)
                continue
            try:
                metadata = _described(files)
            except (OSError, ValueError, RecursionError) as error:
                yield Item(
                    key, None, place, fault=f"words in .txt, an object in .json expected: {error}"
                )
                continue
            yield Item(key, picture, place, metadata)

    def _samples(self) -> Iterator[tuple[str, dict[str, Member], str]]:
        """Key, files by suffix, and what is wrong with the tar from here on."""
        for key, run in groupby(self._members(), lambda member: member[0]):
            files, fault = {}, ""
            for _, suffix, member in run:
                if isinstance(member, Member):
                    files[suffix] = member
                else:
                    fault = member
            yield key, files, fault

    def _members(self) -> Iterator[tuple[str, str, Member | str]]:
        try:
            yield from members(self.path)
        except (OSError, TarError) as error:
            fault = f"a whole, uncompressed tar expected, from here on got: {error}"
            yield f"{self.path.name}, the rest", "", fault


def _described(files: dict[str, Member]) -> Metadata:
    values: dict[str, Any] = {}
    if "json" in files:
        values = json.loads(text_of(files["json"]))
        if not isinstance(values, dict):
            raise ValueError(f"got {brief(values)}")
    said = {"captions": text_of(files["txt"]).splitlines()} if "txt" in files else values
    captions = captions_of(said)
    named = {name: value for name, value in values.items() if name not in ("caption", "captions")}
    return plain(named) | ({"captions": captions} if captions else {})
