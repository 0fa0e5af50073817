"""Opening what others named: regular files only, whose names may lead anywhere.

A pipe would wait for a writer for ever, a device may have no end; both may lie in a folder under the name of a
picture, or be what a link leads to.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

MAX_LINE = 1 << 24  # characters
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: Path) -> int:
    """The length of a regular file; OSError where it is something else or is not there."""
    found = path.stat()
    _check(path, found.st_mode)
    return found.st_size


def open_regular(path: Path) -> BinaryIO:
    """A regular file opened for reading; OSError where it is something else or is not there."""
    check_regular(path)
    # What was a file a moment ago may be a pipe now.
    return _opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, "rb")


def open_own(path: Path) -> BinaryIO:
    """A file of ours, made if it lacks, to read and append to; OSError where a link or a device is there.

    Beside or within a stranger's index it might lead to any file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return _opened(path, flags, "a+b")


def bounded_lines(stream: TextIO) -> Iterator[str | None]:
    """The lines with their ends; None for one of more than `MAX_LINE` characters, which is not held in memory."""
    while line := stream.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(("\n", "\r")):
            yield line
            continue
        while line and not line.endswith(("\n", "\r")):
            line = stream.readline(MAX_LINE)
        yield None


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar, read where it lies; offset and size in bytes."""

    archive: Path
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        with open_regular(self.archive) as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"


def _opened(path: Path, flags: int, mode: Literal["rb", "a+b"]) -> BinaryIO:
    descriptor = os.open(path, flags, 0o666)
    try:
        _check(path, os.fstat(descriptor).st_mode)
        return open(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        found = next((name for test, name in _KINDS if test(mode)), "something else")
        raise OSError(f"{found}, not a regular file: {str(path)!r}")
