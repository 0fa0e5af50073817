"""Writing a directory so that it is there whole, or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.encoders.manifest import MANIFEST
from engine.errors import InvalidArgument


def refuse_foreign(out: Path, mark: str = MANIFEST) -> None:
    """InvalidArgument where `out` holds what we did not write: something, but no file called `mark`."""
    if not out.exists():
        return
    if out.is_dir() and ((out / mark).is_file() or not any(out.iterdir())):
        return
    raise InvalidArgument(
        "output",
        expected=f"a free name, an empty directory, or an earlier one of its kind (with its {mark})",
        got=f"{out}, which holds something else",
        remedy="Choose another place.",
    )


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A new directory beside `out` to write into; at the end it takes the place of `out`, on failure it is gone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    draft, old = (out.with_name(f".{out.name}.{token}.{part}") for part in ("draft", "old"))
    draft.mkdir()
    try:
        yield draft
        for file in draft.iterdir():
            _sync(file)
        _sync(draft)
        if out.exists():
            out.rename(old)
        draft.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
