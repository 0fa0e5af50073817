"""From `Index` to its directory and back: saving, compacting there, opening, verifying."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import IndexChanged, IndexFormatError
from engine.index import directory as files
from engine.index import disk
from engine.index.directory import Draft, digest_of
from engine.index.lock import LOCK, WriterLock, writing
from engine.index.manifest import (
    Array,
    Manifest,
    StoredFile,
    StoredSegment,
    read_manifest,
)
from engine.index.merging import grouped, write_group, write_merged
from engine.index.segment import Segment

if TYPE_CHECKING:
    from engine.index.index import Index


def read(directory: Path, known: Sequence[Segment]) -> "Index":
    """The index in `directory`; segments that are `known` as they are."""
    from engine.index.index import Index

    manifest, checksum, segments, reduction = files.read(directory, known)
    return Index(manifest.header, segments, reduction, directory, (manifest, checksum))


def place_of(index: "Index") -> Path:
    """Where it was opened from or saved to."""
    if index.path is None:
        raise IndexFormatError("This index is in memory only: save it to a directory first.")
    return index.path


def check_current(index: "Index") -> None:
    """Raise IndexChanged if the directory holds another state than `index` was opened from."""
    place = place_of(index)
    if index.published is None or read_manifest(place)[1] != index.published[1]:
        raise IndexChanged(
            f"{place}: the state that this index was opened from expected, got one that another writer has "
            "published since. Call refresh() and make the change again."
        )


def save(index: "Index", path: str | Path | None, lock: WriterLock | None) -> "Index":
    """`Index.save`."""
    directory = place_of(index) if path is None else Path(path).absolute()
    here = directory == index.path
    if here and not index.unsaved:
        return index

    def write(draft: Draft) -> list[StoredSegment]:
        groups = grouped(index.segments)
        return [stored for group in groups for stored in write_group(draft, group, here=here)]

    return _published(index, directory, lock, write)


def compact(index: "Index", lock: WriterLock | None) -> "Index":
    """`Index.compact` where the index lies in a directory."""
    if len(index.segments) < 2 and index.live is None:
        return save(index, None, lock)

    def write(draft: Draft) -> list[StoredSegment]:
        return [write_merged(draft, index.segments, dropping=True)] if len(index) else []

    return _published(index, place_of(index), lock, write)


def _published(
    index: "Index",
    directory: Path,
    lock: WriterLock | None,
    write: Callable[[Draft], list[StoredSegment]],
) -> "Index":
    """Publish the segments that `write` writes, and what else `index` holds, in `directory`; the index, mapped."""
    here = directory == index.path
    files.check_place(directory)
    with _made(directory), writing(directory, lock) as held:
        if here and held is not lock:
            check_current(index)
        with Draft(directory) as draft:
            stored = write(draft)
            reduction = None
            if index.reduction is not None:
                kept = index.published[0].reduction if here and index.published else None
                same = kept is not None and kept.sha256 == digest_of(index.reduction)
                reduction = kept if same else draft.write_array("reduction", index.reduction)
            manifest = Manifest(index.header, reduction, tuple(stored))
            known = {s.files["fine"].file: s for s in index.segments if s.saved} if here else {}
            segments = tuple(  # first: a save that raises has published nothing
                files.open_segment(directory, segment, known.get(segment.files["fine"].file))
                for segment in stored
            )
            checksum = draft.publish(manifest)
    return replace(index, segments=segments, path=directory, published=(manifest, checksum))


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """`directory`, made if it lacks, and gone again on failure if it did."""
    made = disk.make_directory(directory)
    try:
        yield
    except BaseException:
        if made:
            disk.remove(directory / LOCK)
        for place in made:
            place.rmdir()
        raise


def verify(index: "Index") -> None:
    """`Index.verify`."""
    if index.published is None:
        raise IndexFormatError("This index is in memory only: save it, then open and verify it.")
    for segment in index.segments:
        for name, array in files.contents(segment).items():
            if name in segment.files:
                _verify_file(place_of(index), segment.files[name], array)
    stored = index.published[0].reduction
    if stored is not None and index.reduction is not None:
        _verify_file(place_of(index), stored, index.reduction)


def _verify_file(directory: Path, stored: StoredFile, array: Array) -> None:
    digest = digest_of(array)
    if digest != stored.sha256:
        raise IndexFormatError(
            f"{directory / stored.file}: sha256 {stored.sha256} expected, got {digest}. "
            "The file is damaged: restore it, or build the index again."
        )
