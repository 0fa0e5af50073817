"""From an index to its directory: saving, compacting there, verifying."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from engine.errors import IndexChanged, IndexFormatError, InvalidArgument
from engine.index import directory as files
from engine.index import disk
from engine.index.contents import Contents
from engine.index.directory import Draft, digest_of
from engine.index.lock import LOCK, WriterLock, writing
from engine.index.manifest import (
    MANIFEST,
    Array,
    Manifest,
    StoredFile,
    StoredSegment,
    read_manifest,
)
from engine.index.merging import grouped, write_group, write_merged
from engine.index.remedies import RESTORE

C = TypeVar("C", bound=Contents)


def place_of(index: Contents, argument: str) -> Path:
    """Where it was opened from or saved to; InvalidArgument about `argument` where that is nowhere yet."""
    if index.path is None:
        raise InvalidArgument(
            argument,
            expected="a directory, or an index that lies in one",
            got="None, and an index that is in memory only",
            remedy='Save it to a directory first: save("my.index").',
        )
    return index.path


def check_current(index: Contents, lock: WriterLock | None = None) -> None:
    """Raise IndexChanged if the directory holds another state than `index` was opened from.

    lock: the state that was published under it is known too, if its save was interrupted before it returned.
    """
    place = place_of(index, "path")
    known = {index.published[1] if index.published else "", lock.publishing if lock else ""}
    if read_manifest(place)[1] not in known:
        raise IndexChanged(
            str(place),
            expected="the state that this index was opened from",
            got="one that another writer has published since",
            remedy="Call refresh(), and make the change again.",
        )


def save(index: C, path: str | Path | None, lock: WriterLock | None, overwrite: bool = False) -> C:
    """`Index.save`."""
    directory = place_of(index, "path") if path is None else Path(path).absolute()
    here = index.path is not None and _is_same(directory, index.path)
    if here:
        directory = place_of(index, "path")  # by the name that it was opened by
        if not index.unsaved:
            return index

    def write(draft: Draft) -> list[StoredSegment]:
        groups = grouped(index.segments)
        return [stored for group in groups for stored in write_group(draft, group, here=here)]

    return _published(index, directory, lock, write, overwrite)


def compact(index: C, lock: WriterLock | None) -> C:
    """`Index.compact` where the index lies in a directory."""
    if len(index.segments) < 2 and index.live is None:
        return save(index, None, lock)

    def write(draft: Draft) -> list[StoredSegment]:
        return [write_merged(draft, index.segments, dropping=True)] if len(index) else []

    return _published(index, place_of(index, "path"), lock, write)


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one directory, by whatever links or `..` it is named."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _published(
    index: C,
    directory: Path,
    lock: WriterLock | None,
    write: Callable[[Draft], list[StoredSegment]],
    overwrite: bool = False,
) -> C:
    """Publish the segments that `write` writes, and what else `index` holds, in `directory`; the index, mapped."""
    here = directory == index.path
    files.check_place(directory)
    with locked(directory, lock) as held:
        if here:
            check_current(index, held)
        elif not overwrite:
            _check_free(directory)
        with Draft(directory, held) as draft:
            stored = write(draft)
            reduction = None
            if index.reduction is not None:
                reduction = _kept_reduction(index, draft) if here else None
                reduction = reduction or draft.write_array("reduction", index.reduction)
            header = index.header.placed(directory, index.path)
            manifest = Manifest(header, reduction, tuple(stored))
            # Mapped first: what cannot be opened again is not published.
            known = {s.files["fine"].file: s for s in index.segments if s.saved} if here else {}
            segments = tuple(
                files.open_segment(directory, segment, known.get(segment.files["fine"].file))
                for segment in stored
            )
            checksum = draft.publish(manifest)
    return replace(
        index,
        header=header,
        segments=segments,
        path=directory,
        published=(manifest, checksum),
    )


def _kept_reduction(index: Contents, draft: Draft) -> StoredFile | None:
    """The file of the reduction, if it holds the one that `index` has now."""
    kept = index.published[0].reduction if index.published else None
    if kept is None or index.reduction is None or kept.sha256 != digest_of(index.reduction):
        return None
    return draft.still_there(kept)


def _check_free(directory: Path) -> None:
    """Refuse to replace an index that this one was not opened from."""
    if (directory / MANIFEST).exists():
        held = sum(segment.live for segment in read_manifest(directory)[0].segments)
        raise InvalidArgument(
            "path",
            expected="a free name, or the directory that this index was opened from",
            got=f"{directory}, which holds another index of {held:,} items",
            remedy="Choose another path, open that index and add to it, or replace it: overwrite=True.",
        )


@contextlib.contextmanager
def locked(directory: Path, lock: WriterLock | None = None) -> Iterator[WriterLock]:
    """Hold the writer lock of `directory`, made if it lacks; what was made and not used is gone afterwards.

    lock: the one to use where it is that of `directory`.
    """
    made = disk.make_directory(directory)
    try:
        with writing(directory, lock) as held:
            try:
                yield held
            finally:
                if made and held.is_held and not (directory / MANIFEST).exists():
                    disk.remove(directory / LOCK)  # while it is held: nobody can have taken it
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # not empty, by now
                place.rmdir()


def verify(index: Contents) -> None:
    """`Index.verify`."""
    place = place_of(index, "verify")
    for segment in index.segments:
        for name, array in files.arrays_of(segment).items():
            if name in segment.files:
                _verify_file(place, segment.files[name], array)
    stored = index.published[0].reduction if index.published else None
    if stored is not None and index.reduction is not None:
        _verify_file(place, stored, index.reduction)


def _verify_file(directory: Path, stored: StoredFile, array: Array) -> None:
    digest = digest_of(array)
    if digest != stored.sha256:
        raise IndexFormatError(
            str(directory / stored.file),
            expected=f"sha256 {stored.sha256}",
            got=digest,
            remedy=f"The file is damaged. {RESTORE}",
        )
