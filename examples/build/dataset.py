"""Write sources into a folder so that no run, however it ends, leaves a half-written file.

``.state/SOURCE.json`` keeps what a finished source wrote; a re-run that finds it, with the same
versions and look, only checks that the pictures are still there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.build.render import Look, webp
from examples.build.sources import DrawError, Offer, Picture, Skipped, Source, SourceError
from examples.build.splits import family, splits

FORM = 1  # raise it when captions, concepts, splits or drawing change: old folders are then redone
Record = dict[str, Any]  # a line of captions.jsonl


@dataclass(frozen=True)
class Built:
    """What one source wrote."""

    records: list[Record]
    skipped: list[Skipped]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def stamp(source: Source, look: Look) -> str:
    """What a source's pictures depend on; another stamp means they must be made again."""
    versions = [[package.name, package.version] for package in source.packages]
    return json.dumps([FORM, versions, asdict(look)])


def finished(source: Source, look: Look, out: Path) -> Built | None:
    """What an earlier run wrote, if all of it is there and made the same way."""
    state = _state(source, out)
    if state.get("stamp") != stamp(source, look) or "records" not in state:
        return None
    present = set(os.listdir(out / source.name)) if (out / source.name).is_dir() else set()
    if not all(Path(record["image"]).name in present for record in state["records"]):
        return None
    return Built(state["records"], [Skipped(*pair) for pair in state["skipped"]])


def build(
    source: Source, offer: Offer, look: Look, out: Path, advance: Callable[[], None]
) -> Built:
    """Draw what is not drawn yet; ``advance`` is called once for every picture of the offer."""
    folder, mark = out / source.name, stamp(source, look)
    if _state(source, out).get("stamp") != mark and folder.exists():
        shutil.rmtree(folder)
    _write_state(source, out, {"stamp": mark})  # from here on what is there is of this stamp
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    records: list[Record] = []
    skipped: list[Skipped] = []
    seen: dict[str, Picture] = {}
    for item in offer:
        if isinstance(item, Picture):
            reason = _draw(item, look, folder, seen)
            if reason:
                skipped.append(Skipped(item.id, reason))
            else:
                records.append(_record(source, item))
        else:
            skipped.append(item)
        advance()
    if not records:
        raise SourceError("it offers no picture that can be drawn")
    pairs = [[s.id, s.reason] for s in skipped]
    _write_state(source, out, {"stamp": mark, "records": records, "skipped": pairs})
    return Built(records, skipped)


def assemble(built: Mapping[str, Built], out: Path) -> list[Record]:
    """Write captions.jsonl and skipped.txt from the sources given; returns the records."""
    records = [record for one in built.values() for record in one.records]
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(out / "captions.jsonl", "".join(lines).encode())
    left = (f"{name}/{s.id}\t{s.reason}\n" for name, one in built.items() for s in one.skipped)
    write_whole(out / "skipped.txt", "".join(left).encode())
    return records


def counts(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Pictures on each side of each split."""
    table: dict[str, dict[str, int]] = {}
    for record in records:
        for split, side in record["splits"].items():
            row = table.setdefault(split, {"train": 0, "test": 0})
            row[side] += 1
    return table


def _draw(picture: Picture, look: Look, folder: Path, seen: dict[str, Picture]) -> str | None:
    """Write the picture unless it is there; returns the reason if it is left out."""
    target = folder / f"{picture.id}.webp"
    there = target.exists()
    try:
        content = target.read_bytes() if there else webp(picture.draw(), look)
    except DrawError as error:
        return str(error)
    twin = seen.setdefault(hashlib.sha256(content).hexdigest(), picture)
    if twin is not picture:
        same = family(twin.concept) == family(picture.concept)
        if twin.concept == picture.concept or not same:
            return f"the same picture as {twin.id}"
    if not there:
        write_whole(target, content)
    return None


def _record(source: Source, picture: Picture) -> Record:
    return {
        "image": f"{source.name}/{picture.id}.webp",
        "captions": list(picture.captions),
        "concept": picture.concept,
        "source": source.name,
        "licence": source.licence,
        "splits": splits(source.name, picture.concept),
    }


def _state_path(source: Source, out: Path) -> Path:
    return out / ".state" / f"{source.name}.json"


def _state(source: Source, out: Path) -> dict[str, Any]:
    try:
        state = json.loads(_state_path(source, out).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(source: Source, out: Path, state: Mapping[str, Any]) -> None:
    write_whole(_state_path(source, out), json.dumps(state, ensure_ascii=False).encode())
