"""`WriterLock`: one writer at a time for an index directory. The kernel lets go of it however the process ends."""

import contextlib
import fcntl
import json
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from engine.errors import IndexFormatError, IndexLocked
from engine.system.forks import tell_after_fork

LOCK = "lock"


class WriterLock:
    """`flock` on `INDEX/lock`, from `take` to `release`. The file says who holds it, for people to read.

    It belongs to the process that took it: a forked child does not hold it, nor does it keep anybody from it.

    publishing: the checksum of the manifest that is being published under it, or was last.
    """

    def __init__(self, directory: Path, file: FileIO) -> None:
        self.directory = directory
        self.publishing = ""
        self._file = file
        # Also when nobody calls `release` any more.
        self.release = weakref.finalize(self, _let_go, file, os.getpid())
        tell_after_fork(self)

    @classmethod
    def take(cls, directory: Path) -> "WriterLock":
        """Take the lock at once, or raise IndexLocked, which says who has it."""
        place = directory / LOCK
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise IndexFormatError(
                str(place),
                expected="a regular file",
                got="a link, a directory or a device",
                remedy="Remove it.",
            )
        while True:
            # A file object, not a number: whatever interrupts this, it closes the file and frees the lock.
            file = FileIO(place, "a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock = cls(directory, file)
            except BlockingIOError:
                said = os.pread(file.fileno(), 1000, 0).decode(errors="replace")
                file.close()
                raise _locked(directory, said) from None
            if not lock.is_held:  # a failed first save removed the file in between
                lock.release()
                continue
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
                file.truncate(0)
                file.write(_who())
            return lock

    @property
    def is_held(self) -> bool:
        """Whether this process still has it, and it is that of the directory."""
        if self._file.closed:
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.directory / LOCK))
        return False

    def is_of(self, directory: Path) -> bool:
        """Whether it is held, and is that of `directory`, by whatever path."""
        with contextlib.suppress(FileNotFoundError):
            return self.is_held and os.path.samefile(self.directory, directory)
        return False

    def after_fork(self) -> None:
        """In a child: close its copy of the file, which would keep the lock as long as the child lives."""
        self.release()


@contextmanager
def writing(directory: Path, lock: WriterLock | None) -> Iterator[WriterLock]:
    """`lock`, where it is that of `directory`; else one taken for the time being."""
    if lock is not None and lock.is_of(directory):
        yield lock
        return
    taken = WriterLock.take(directory)
    try:
        yield taken
    finally:
        taken.release()


def _let_go(file: FileIO, owner: int) -> None:
    """Unlocked by the owner alone, as that frees the lock though children may still have the file open."""
    if os.getpid() == owner and not file.closed:
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def _locked(directory: Path, said: str) -> IndexLocked:
    """For one who may not write: who may, by what the lock file says."""
    holder = said.strip() or "one that has not said yet who it is"
    remedy = "Wait until it closes the index, or end that process."
    if f'"pid": {os.getpid()},' in said and f'"host": "{socket.gethostname()}"' in said:
        holder = "this process itself, by another retriever or lock"
        remedy = "Use that one, or call its close(); in a notebook, one that no name refers to is closed by itself."
    return IndexLocked(str(directory), expected="no other writer", got=holder, remedy=remedy)


def _who() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()
