"""The few operations on files that an index is written with; every one goes through `os`, where tests can watch.

`write_new` returns once the file's bytes are on the disk; that its name is there too takes `sync_directory`.
"""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def write_new(file: Path, blocks: Iterable[memoryview | bytes]) -> tuple[int, str]:
    """Write a file that is not there yet and sync it: its length and SHA-256"""
    length, digest = 0, sha256()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for block in blocks:
            view = memoryview(block)
            length += len(view)
            digest.update(view)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return length, digest.hexdigest()


def rename(file: Path, target: Path) -> None:
    """Give `file` the name `target`, in place of what has it."""
    os.replace(file, target)


def remove(file: Path) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(file)
    except FileNotFoundError:
        return


def sync_directory(directory: Path) -> None:
    """Wait until the names in `directory` are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> list[Path]:
    """Make `directory` and what lacks above it, durably; those that were made, the innermost first."""
    lacking = []
    place = directory
    while not place.exists():
        lacking.append(place)
        place = place.parent
    for place in reversed(lacking):
        os.mkdir(place)
        sync_directory(place.parent)
    return lacking
