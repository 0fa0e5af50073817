"""A full disk, failing syncs and renames: an error, nothing acknowledged lost, and the next save works."""

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.index import Index
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest
from tests.engine.index.model import Step, changed, held_by, publish, steps
from tests.engine.index.watched import watching

SEED, STEPS = 3, 6


def whole(place: Path) -> tuple[Index, dict[int, bytes], list[Step]]:
    """An index of some steps, what it holds, and three more steps: an add, a removal, a compaction."""
    index, state = None, {}  # type: ignore[var-annotated]
    for _, step in zip(range(STEPS), steps(SEED), strict=False):
        index = publish(index, step, place)
        state = changed(state, step)
    assert index is not None
    some = tuple(sorted(state))[:2]
    return (
        index,
        state,
        [Step("add", (900, 901), 5), Step("remove", some, 6), Step("compact", (), 7)],
    )


FAILURES = [
    ("write", errno.ENOSPC),
    ("open", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("replace", errno.EIO),
    ("unlink", errno.EIO),
]


@pytest.mark.parametrize("kind", range(3), ids=["add", "remove", "compact"])
@pytest.mark.parametrize(("operation", "code"), FAILURES)
def test_wherever_it_fails_nothing_acknowledged_is_lost(
    tmp_path: Path, operation: str, code: int, kind: int
) -> None:
    index, state, later = whole(tmp_path)
    step = later[kind]
    following = changed(state, step)
    place, tried = 0, 0
    while True:  # fail at the first such operation, at the second, … until there are no more
        place += 1
        seen = 0

        def watch(name: str, run: Any, arguments: Any, place: int = place) -> Any:
            nonlocal seen
            seen += name == operation
            if name == operation and seen == place:
                if name == "write":
                    run(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(code, os.strerror(code))
            return run(*arguments)

        failed = None
        with watching(watch):
            try:
                if step.kind == "compact":
                    index.append(Index.build(*Step("add", (77,), 8).vectors(), ids=[77])).without(
                        [77]
                    ).compact()
                else:
                    publish(index, step, tmp_path)
            except OSError as error:
                failed = error.errno
        assert failed in (None, code)
        opened = Index.open(tmp_path)
        opened.verify()
        found = held_by(opened)
        assert found == following or (failed and found == state)
        tried += 1
        if seen < place:
            break
        if found == following:  # published: begin again from the old state
            for file in tmp_path.iterdir():
                file.unlink()
            index, state, _ = whole(tmp_path)
    kept = {stored.file for stored in read_manifest(tmp_path)[0].files} | {MANIFEST, LOCK}
    assert {file.name for file in tmp_path.iterdir()} == kept
    print(f"{operation} fails with {errno.errorcode[code]} at each of {tried - 1} places")
    assert tried > 1 or operation == "unlink"


def test_a_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """The same with a limit that the kernel keeps: writing stops in the middle of a file."""
    place = tmp_path / "index"
    index, state, _ = whole(place)
    large = Index.build(
        np.ones((50_000, 3), np.float32),
        np.ones((50_000, 5), np.float32),
        ids=np.arange(10_000, 60_000),
    )
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            index.append(large).save()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == errno.EFBIG
    opened = Index.open(place)
    opened.verify()
    assert held_by(opened) == state
    assert len(opened.append(large).save()) == len(state) + 50_000
