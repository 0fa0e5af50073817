"""`WriterLock`: one writer at a time for an index directory. The kernel lets go of it however the process ends."""

import fcntl
import json
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from engine.errors import IndexLocked

LOCK = "lock"


class WriterLock:
    """`flock` on `INDEX/lock`, from `take` to `release`. The file says who holds it, for people to read."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        # Also when nobody calls `release` any more.
        self.release = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def take(cls, directory: Path) -> "WriterLock":
        """Take the lock at once, or raise IndexLocked, which says who has it."""
        file = directory / LOCK
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino != os.stat(file).st_ino:
                    raise FileNotFoundError
            except BlockingIOError:
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace")
                os.close(descriptor)
                raise IndexLocked(
                    f"{directory}: no other writer expected, got one: {holder or 'about to say who'}. "
                    "Wait until it closes the index, or end that process."
                ) from None
            except FileNotFoundError:  # a failed first save removed it in between
                os.close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _who(), 0)
            return cls(directory, descriptor)


@contextmanager
def writing(directory: Path, lock: WriterLock | None) -> Iterator[WriterLock]:
    """`lock`, where it is that of `directory`; else one taken for the time being."""
    if lock is not None and lock.directory == directory:
        yield lock
        return
    taken = WriterLock.take(directory)
    try:
        yield taken
    finally:
        taken.release()


def _who() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()
