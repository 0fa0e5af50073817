"""The index directory: reading it, and publishing a new state of it.

New files are written under names never used before and synced, then their names are, and then the manifest that
names them is renamed over the old one: a crash leaves the old index or the new one. What no manifest names any more
is removed last. Published files are never written to, so they may be mapped; who has them open keeps them.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np

from engine.errors import IndexFormatError
from engine.index import disk
from engine.index.columns import Columns
from engine.index.lock import LOCK, WriterLock
from engine.index.lookup import Lookup
from engine.index.manifest import (
    FILE_NAME,
    MANIFEST,
    NUMPY_DTYPES,
    Array,
    Manifest,
    StoredFile,
    StoredSegment,
    dtype_name,
    opened,
    parse_manifest,
    read_manifest,
)
from engine.index.mapping import map_array
from engine.index.remedies import RESTORE
from engine.index.segment import NO_ROWS, Rows, Segment
from engine.index.strings import Strings

DRAFT = re.compile(re.escape(MANIFEST) + r"\.[0-9a-f]{12}")
BLOCK_BYTES = 1 << 24
MAPPED_BYTES = 1 << 16  # smaller files are read when an index is opened


# ---------------------------------------------------------------------- reading


def read(
    directory: Path, known: Sequence[Segment] = ()
) -> tuple[Manifest, str, tuple[Segment, ...], Array | None]:
    """What is published: the manifest, its checksum, the segments (those `known` as they are), the reduction."""
    by_file = {segment.files["fine"].file: segment for segment in known if segment.saved}
    while True:
        manifest, checksum = read_manifest(directory)
        try:
            segments = tuple(
                open_segment(directory, stored, by_file.get(stored.files["fine"].file))
                for stored in manifest.segments
            )
            reduction = (
                None if manifest.reduction is None else map_file(directory, manifest.reduction)
            )
            return manifest, checksum, segments, reduction
        except FileNotFoundError as missing:
            if read_manifest(directory)[1] == checksum:
                raise IndexFormatError(
                    str(missing.filename),
                    expected="a file that the manifest names",
                    got="none",
                    remedy=RESTORE,
                ) from None
            # A writer has published another state and removed the file: read that.


def open_segment(directory: Path, stored: StoredSegment, known: Segment | None) -> Segment:
    """Map the files of one segment, or take over those of `known`, which differs in its deleted rows at most."""
    if known is not None and known.files == stored.files:
        return known
    arrays = {name: map_file(directory, file) for name, file in stored.files.items()}
    ids = arrays["ids"] if "ids" in arrays else Strings(arrays["ids_text"], arrays["ids_ends"])
    lookup = (
        Lookup(arrays["lookup_keys"], arrays["lookup_rows"])
        if "lookup_keys" in arrays
        else Lookup(arrays["ids"], None)
    )
    metadata = Columns(arrays["metadata"], stored.rows) if "metadata" in arrays else None
    return Segment(
        coarse=arrays["coarse"] if known is None else known.coarse,
        fine=arrays["fine"] if known is None else known.fine,
        ids=ids,
        lookup=lookup,
        metadata=metadata,
        deleted=arrays.get("deleted", NO_ROWS),
        files=stored.files,
    )


def map_file(directory: Path, stored: StoredFile) -> Array:
    """The array in a file, mapped. FileNotFoundError if it is gone, IndexFormatError for another length."""
    file = directory / stored.file
    dtype = NUMPY_DTYPES[stored.dtype]
    try:
        with opened(file) as (descriptor, size):
            if size != stored.bytes:
                raise IndexFormatError(
                    str(file),
                    expected=f"{stored.bytes} bytes for {stored.dtype} {stored.shape}",
                    got=str(size),
                    remedy=RESTORE,
                )
            if size < MAPPED_BYTES:  # a mapping takes a page, and the system allows 65,530 of them
                return np.frombuffer(bytearray(os.read(descriptor, size)), dtype).reshape(
                    stored.shape
                )
            return map_array(descriptor, file, dtype, stored.shape)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, IndexFormatError):
            raise
        raise IndexFormatError(
            str(file), expected="a readable file", got=str(error), remedy=RESTORE
        ) from None


# ---------------------------------------------------------------------- publishing


def check_place(directory: Path) -> None:
    """Raise IndexFormatError where `directory` holds something else than an index or what a failed save left."""
    if (directory / MANIFEST).exists():
        read_manifest(directory)
    elif directory.exists():
        strangers = not directory.is_dir() or any(not _is_ours(n) for n in os.listdir(directory))
        if strangers:
            raise IndexFormatError(
                str(directory),
                expected="an index, an empty directory, or a name that is not taken",
                got="something else",
                remedy="Choose another place.",
            )


class Draft:
    """Files about to be published in a directory whose writer lock is held; `with` removes them on failure.

    It may be interrupted between any two instructions, also when the new manifest is in its place already: what
    may be removed is decided by the manifest that the directory then has, by nothing that is remembered here.
    """

    def __init__(self, directory: Path, lock: WriterLock) -> None:
        self.directory, self._lock = directory, lock
        self._written: list[Path] = []

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        with contextlib.suppress(OSError, IndexFormatError):  # the next save sweeps
            named = _named_in(self.directory)
            for file in self._written:
                if file.name not in named:
                    disk.remove(file)

    def write(
        self, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[memoryview]
    ) -> StoredFile:
        """Write one file and sync it."""
        suffix = "parquet" if name == "metadata" else "bin"
        file = self.directory / f"{name}-{uuid.uuid4().hex[:12]}.{suffix}"
        self._written.append(file)
        length, digest = disk.write_new(file, blocks)
        return StoredFile(file.name, dtype, shape, length, digest)

    def write_array(self, name: str, array: Array) -> StoredFile:
        """Write one array and sync it."""
        return self.write(name, dtype_name(array), array.shape, blocks_of(array))

    def write_segment(self, segment: Segment, kept: Mapping[str, StoredFile]) -> StoredSegment:
        """Write what `kept`, the segment's files in this directory, do not hold yet, or no longer."""
        files = {
            name: self.still_there(kept.get(name)) or self.write_array(name, array)
            for name, array in arrays_of(segment).items()
        }
        return StoredSegment(len(segment), files)

    def still_there(self, stored: StoredFile | None) -> StoredFile | None:
        """`stored`, unless it is gone: a save that was interrupted may have published, and swept, already."""
        return stored if stored and (self.directory / stored.file).exists() else None

    def publish(self, manifest: Manifest) -> str:
        """Make `manifest` what the directory holds, durably; its checksum. Then remove what it does not name."""
        text, checksum = manifest.to_bytes()
        parse_manifest(
            self.directory / MANIFEST, text
        )  # nothing is published that could not be opened
        disk.sync_directory(self.directory)
        draft = self.directory / f"{MANIFEST}.{uuid.uuid4().hex[:12]}"
        self._written.append(draft)
        disk.write_new(draft, [text])
        self._lock.publishing = checksum
        disk.rename(draft, self.directory / MANIFEST)
        disk.sync_directory(self.directory)
        with contextlib.suppress(OSError):  # published: what stays behind is swept by the next save
            sweep(self.directory, {stored.file for stored in manifest.files})
        return checksum


def sweep(directory: Path, named: Iterable[str]) -> None:
    """Remove the files of an index that are not `named`, in a directory whose writer lock is held."""
    kept = {*named, MANIFEST, LOCK}
    for name in sorted(os.listdir(directory)):
        if _is_ours(name) and name not in kept:
            disk.remove(directory / name)


def _named_in(directory: Path) -> set[str]:
    """The files that the manifest names which `directory` has now; none where it has no manifest."""
    if not (directory / MANIFEST).exists():
        return set()
    return {stored.file for stored in read_manifest(directory)[0].files}


def blocks_of(array: Array, rows: Rows | None = None) -> Iterator[memoryview]:
    """The bytes of the array, or of these rows of it, in pieces of about 16 MiB."""
    count = len(array) if rows is None else len(rows)
    step = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, count, step):
        piece = slice(first, first + step)
        taken = array[piece] if rows is None else array[rows[piece]]
        yield np.ascontiguousarray(taken).reshape(-1).view(np.uint8).data


def digest_of(array: Array) -> str:
    """The SHA-256 of the bytes of the array."""
    digest = sha256()
    for block in blocks_of(array):
        digest.update(block)
    return digest.hexdigest()


def arrays_of(segment: Segment) -> dict[str, Array]:
    """The arrays of a segment by the names of their files."""
    arrays: dict[str, Array] = {"coarse": segment.coarse, "fine": segment.fine}
    if isinstance(segment.ids, Strings):
        arrays |= {"ids_text": segment.ids.text, "ids_ends": segment.ids.ends}
    else:
        arrays["ids"] = segment.ids
    if segment.lookup.rows is not None:
        arrays |= {"lookup_keys": segment.lookup.keys, "lookup_rows": segment.lookup.rows}
    if segment.metadata is not None:
        arrays["metadata"] = segment.metadata.parquet
    if len(segment.deleted):
        arrays["deleted"] = segment.deleted
    return arrays


def _is_ours(name: str) -> bool:
    """Whether this is a name that only an index gives its files."""
    return bool(name in (LOCK, MANIFEST) or FILE_NAME.fullmatch(name) or DRAFT.fullmatch(name))
