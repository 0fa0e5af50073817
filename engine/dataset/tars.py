"""WebDataset shards: uncompressed tars in which the files of one sample share a name and stand together.

    00000.jpg  00000.txt  00000.json  00001.jpg  00001.txt  …

The picture is `.jpg`, `.jpeg`, `.png` or `.webp`. The captions are the lines of `.txt`; without one, "captions" or
"caption" of `.json`, which may also hold "concept", "split" and "splits". Other files are passed over.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.dataset.examples import Member, Record
from engine.errors import DatasetError

PICTURES = ("jpg", "jpeg", "png", "webp")
# WebDataset's own rule: the key ends at the first dot of the file's name.
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")


def tars(shards: Iterable[Path]) -> Iterator[Record]:
    """A record for every sample of the shards."""
    for shard in shards:
        seen: set[str] = set()
        for key, files in groupby(_members(shard), lambda found: found[0]):
            if key in seen:
                raise DatasetError(
                    f"{shard}: the files of sample {key!r} expected side by side, found them apart."
                )
            seen.add(key)
            yield _record(f"{shard}:{key}", {suffix: member for _, suffix, member in files})


def _members(shard: Path) -> Iterator[tuple[str, str, Member]]:
    """Every file: its key, its suffix in lower case, and where it lies."""
    try:
        # "r:": a compressed tar cannot be read from the middle, and is refused here.
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                match = KEY.fullmatch(info.name)
                if info.isreg() and match is not None:
                    member = Member(shard, info.name, info.offset_data, info.size)
                    yield match[1], match[2].lower(), member
    except (OSError, tarfile.TarError) as error:
        raise DatasetError(f"{shard}: a whole, uncompressed tar expected, got {error}.") from None


def _record(place: str, files: dict[str, Member]) -> Record:
    row: dict[str, Any] = {}
    try:
        if "json" in files:
            row = json.loads(files["json"].read_bytes())
        if "txt" in files:
            row["captions"] = files["txt"].read_bytes().decode("utf-8").splitlines()
        elif "caption" not in row:
            row.setdefault("captions", [])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{place}: words in .txt and an object in .json expected, got {error}."
        ) from None
    picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
    return Record.of(place, picture, row)
