"""Every error the engine raises on purpose.

    EngineError                            catch this one for all of them
    ├── InvalidArgument  (ValueError)      a query, k, mask, id or vector that cannot be searched
    │   └── UnknownId    (KeyError)        an id that the index does not hold
    ├── BackendUnavailable (RuntimeError)  the backend asked for cannot run here, and why
    ├── RuntimeUnavailable (RuntimeError)  ONNX Runtime or TensorRT cannot run an export here, and why
    ├── MissingPackage   (ImportError)     an optional package is absent; the remedy is the install line
    ├── CheckpointError  (ValueError)      a checkpoint that is missing, incomplete or of another shape
    │   └── CheckpointMismatch             an index made by another checkpoint than the one at hand
    ├── IndexFormatError (ValueError)      an index directory that is missing, damaged or of a newer format
    ├── IndexLocked      (RuntimeError)    another writer has the index open, and who
    ├── IndexChanged     (RuntimeError)    another writer has published since this index was opened
    ├── StorageError     (OSError)         the system would not read or write: a full disk, no permission
    ├── ImageError       (ValueError)      an image that cannot be read
    ├── DatasetError     (ValueError)      a folder of pictures or a captions file that cannot be used
    └── TrainingError    (RuntimeError)    a training run that went wrong: its loss is no number

Each has four parts, which are its attributes: the argument or file, what was expected, what came, and what to do.
It reads "ARGUMENT: expected EXPECTED, got GOT. REMEDY". An operation that raises has changed nothing.

`MisfitWarning` is the one warning: what an index learned does not fit what it holds.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kernels.errors import BackendUnavailable, EngineError, InvalidArgument

__all__ = [
    "MisfitWarning",
    "BackendUnavailable",
    "CheckpointError",
    "CheckpointMismatch",
    "DatasetError",
    "EngineError",
    "IndexChanged",
    "IndexFormatError",
    "IndexLocked",
    "InvalidArgument",
    "MissingPackage",
    "RuntimeUnavailable",
    "StorageError",
    "TrainingError",
    "ImageError",
    "UnknownId",
]


class MisfitWarning(UserWarning):
    """What an index learned from its first items, such as the reduction, does not fit those that came later."""


class UnknownId(InvalidArgument, KeyError):
    """An id that the index does not hold."""


class RuntimeUnavailable(EngineError, RuntimeError):
    """ONNX Runtime or TensorRT cannot run an export here: each reason, and what to do."""


class MissingPackage(EngineError, ImportError):
    """An optional package is absent."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> "MissingPackage":
        """`package` is part of the optional `extra`; purpose: what needs it, such as "Reading Parquet"."""
        return cls(
            package,
            expected="this package to be installed",
            got="none",
            remedy=f"{purpose} needs it: pip install 'hivlp-engine[{extra}]'",
        )


class CheckpointError(EngineError, ValueError):
    """A checkpoint that is missing, incomplete or of another shape."""


class CheckpointMismatch(CheckpointError):
    """An index made by another checkpoint than the one at hand."""


class IndexFormatError(EngineError, ValueError):
    """An index directory that is missing, damaged or of a newer format."""


class IndexLocked(EngineError, RuntimeError):
    """Another writer has the index open: who, and since when."""


class IndexChanged(EngineError, RuntimeError):
    """Another writer has published a new state since this index was opened."""


class StorageError(EngineError, OSError):
    """The system would not read or write a file of an index; `errno` and `filename` are the system's."""

    @classmethod
    def of(cls, error: OSError, place: object) -> "StorageError":
        """What the system said while an index at `place` was read or written."""
        named = error.filename if error.filename is not None else str(place)
        remedy = _REMEDIES.get(error.errno or 0, "Remove the cause, and try again.")
        made = cls(
            str(named),
            expected="a file or folder that can be read and written",
            got=error.strerror or str(error) or type(error).__name__,
            remedy=f"What was there before is unchanged. {remedy}",
        )
        made.errno, made.strerror, made.filename = error.errno, error.strerror, named
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        build, arguments, state = super().__reduce__()
        system = {name: getattr(self, name) for name in ("errno", "strerror", "filename")}
        return build, arguments, state | system


_REMEDIES = {
    errno.ENOSPC: "Make room on the disk, and try again.",
    errno.EDQUOT: "Make room within the quota, and try again.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EACCES: "Get the permission, or choose another place.",
    errno.EPERM: "Get the permission, or choose another place.",
    errno.EMFILE: "Close files, or raise `ulimit -n`, and try again.",
    errno.ENFILE: "Close files, and try again.",
    errno.ENOTDIR: "Choose a path whose folders are folders.",
    errno.EISDIR: "Choose another place: a folder is in the way.",
    errno.EEXIST: "Choose another place: a file is in the way.",
    errno.ENOENT: "Make the folder that it should lie in, or mend the path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


@contextmanager
def storing(place: object) -> Iterator[None]:
    """An error of the system inside becomes a StorageError that names `place`."""
    try:
        yield
    except EngineError:
        raise
    except OSError as error:
        raise StorageError.of(error, place) from error


class ImageError(EngineError, ValueError):
    """An image that cannot be read."""


class DatasetError(EngineError, ValueError):
    """A folder of pictures or a captions file that cannot be used."""


class TrainingError(EngineError, RuntimeError):
    """A training run that went wrong: its loss or its vectors are no numbers. Nothing was published."""
