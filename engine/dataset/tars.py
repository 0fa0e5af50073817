"""WebDataset shards: uncompressed tars in which the files of one sample share a name and stand together.

    00000.jpg  00000.txt  00000.json  00001.jpg  00001.txt  …

The picture is `.jpg`, `.jpeg`, `.png` or `.webp`. The captions are the lines of `.txt`; without one, "captions" or
"caption" of `.json`, which may also hold "concept", "split" and "splits". Other files are passed over.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.dataset.examples import Member, Record
from engine.errors import DatasetError
from engine.reading.tar_headers import TarError, tar_entries

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_TEXT = 1 << 20  # bytes of a `.txt` or `.json`
# WebDataset's own rule: the key ends at the first dot of the file's name.
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")


def tars(shards: Iterable[Path]) -> Iterator[Record]:
    """A record for every sample of the shards."""
    for shard in shards:
        seen: set[str] = set()
        try:
            for key, files in groupby(members(shard), lambda found: found[0]):
                if key in seen:
                    raise DatasetError(
                        f"{shard}: the files of sample {key!r} expected side by side, found them apart."
                    )
                seen.add(key)
                yield _record(f"{shard}:{key}", {suffix: member for _, suffix, member in files})
        except (OSError, TarError) as error:
            raise DatasetError(
                f"{shard}: a whole, uncompressed tar expected, got {error}."
            ) from None


def members(shard: Path) -> Iterator[tuple[str, str, Member]]:
    """Every file of a shard: its key, its suffix in lower case, and where it lies. Raises as `tar_entries`."""
    for name, offset, size in tar_entries(shard):
        match = KEY.fullmatch(name)
        if match is not None:
            yield match[1], match[2].lower(), Member(shard, name, offset, size)


def text_of(member: Member) -> str:
    """A `.txt` or `.json`; ValueError for one that is too long or no UTF-8."""
    if member.size > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT:,} bytes expected, got {member.size:,}")
    return member.read_bytes().decode("utf-8")


def _record(place: str, files: dict[str, Member]) -> Record:
    row: dict[str, Any] = {}
    try:
        if "json" in files:
            row = json.loads(text_of(files["json"]))
        if "txt" in files:
            row["captions"] = text_of(files["txt"]).splitlines()
        elif "caption" not in row:
            row.setdefault("captions", [])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{place}: words in .txt and an object in .json expected, got {error}."
        ) from None
    picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
    return Record.of(place, picture, row)
