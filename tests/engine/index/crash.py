"""kill -9 inside save and compact: `python -m tests.engine.index.crash PLACE [--kills 200] [--seed 0]`.

Children, forked from a process that has imported NumPy and `engine.index` only, make and save changes, and say
through a pipe what was acknowledged. Half are killed at a named point, before, half through or after an operation
on files; half at a random time. Then what the directory holds must be the last acknowledged state, or the next.
"""

import argparse
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, IndexFormatError
from engine.index import Index, disk
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest
from tests.engine.index.model import held_by, merging_often, publish, states, steps
from tests.engine.index.watched import watching

STEPS = 8


def work(place: Path, seed: int, acknowledge: Callable[[int], object]) -> None:
    """Make all changes."""
    index = None
    with merging_often():
        for number, step in enumerate(islice(steps(seed), STEPS), start=1):
            index = publish(index, step, place)
            acknowledge(number)


def points(place: Path, seed: int) -> list[str]:
    """The operations on files that `work` does, in order, by name."""
    found: list[str] = []

    def note(name: str, operation: Any, arguments: Any) -> Any:
        found.append(watched.point(name, arguments))
        return operation(*arguments)

    with watching(note) as watched:
        work(place, seed, list[int]().append)
    return found


def _child(place: Path, seed: int, pipe: int, at: int, when: str) -> None:
    """Work until killed; at operation number `at`, kill yourself before, half through or after it."""
    seen = 0

    def watch(name: str, operation: Any, arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen != at:
            return operation(*arguments)
        if when == "half" and name == "write":
            operation(arguments[0], arguments[1][: len(arguments[1]) // 2])
        elif when != "before":
            operation(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with watching(watch):
        work(place, seed, lambda number: os.write(pipe, bytes([number])))


def kill_once(place: Path, seed: int, at: int, when: str, delay: float) -> tuple[int, bool]:
    """Fork, let it be killed; how many steps were acknowledged, and whether it was killed before it was done."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            _child(place, seed, write, at, when)
        finally:
            os._exit(0)
    os.close(write)
    if delay:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    acknowledged = len(os.read(read, 100))
    os.close(read)
    return acknowledged, os.WIFSIGNALED(status)


def fault_in(place: Path, seed: int, acknowledged: int) -> str | None:
    """What is wrong with the directory after a kill, or None."""
    allowed = states(seed, STEPS)
    following = allowed[acknowledged : acknowledged + 2]
    try:
        index = Index.open(place)
        index.verify()
        found = held_by(index)
    except IndexFormatError as error:
        if acknowledged == 0 and "got none" in str(error):
            return None
        return f"{error}"
    except AssertionError as error:
        return f"{error}"
    if found not in following:
        lost = [id for id in following[0] if id not in found]
        return f"another state than number {acknowledged} or the next; lost: {lost}"
    try:  # the next writer is not hindered, and sweeps
        Index.open(place).append(
            Index.build(np.ones((1, 3), np.float32), np.ones((1, 5), np.float32), ids=[-1])
        ).save()
    except (EngineError, OSError) as error:
        return f"the next writer: {error}"
    kept = {stored.file for stored in read_manifest(place)[0].files} | {MANIFEST, LOCK}
    left = {file.name for file in place.iterdir()} - kept
    return f"left behind: {sorted(left)}" if left else None


def plant(bug: str) -> None:
    """Break what must not be broken."""
    if bug == "rewrite":  # the manifest is written over, not renamed

        def rewrite(file: Path, target: Path) -> None:
            descriptor = disk.os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)  # type: ignore[attr-defined]
            disk.os.write(descriptor, file.read_bytes())  # type: ignore[attr-defined]
            disk.os.close(descriptor)  # type: ignore[attr-defined]
            file.unlink()

        disk.rename = rewrite
    elif bug == "early":  # old files go before the new manifest comes
        real = disk.rename

        def rename(file: Path, target: Path) -> None:
            for old in read_manifest(target.parent)[0].files if target.exists() else []:
                if old.file.encode() not in file.read_bytes():
                    disk.remove(target.parent / old.file)
            real(file, target)

        disk.rename = rename


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", default="")
    given = parser.parse_args()
    plant(given.plant)
    rng = np.random.default_rng(given.seed)
    where: Counter[str] = Counter()
    runs: list[dict[str, Any]] = []
    tried = 0
    while sum(run["killed"] for run in runs) < given.kills:
        seed = given.seed * 10_000 + tried // 20
        if tried % 20 == 0:
            started = time.perf_counter()
            named = points(given.place / f"whole-{tried}", seed)
            duration = time.perf_counter() - started
        place = given.place / f"{tried}"
        at, when, delay = 0, "", 0.0
        if tried % 2:
            at = int(rng.integers(1, len(named) + 1))
            when = str(rng.choice(["before", "half", "after"]))
            where[f"{when} {named[at - 1]}"] += 1
        else:
            delay = float(rng.uniform(0.0005, duration))
        acknowledged, killed = kill_once(place, seed, at, when, delay)
        fault = fault_in(place, seed, acknowledged)
        point = f"{when} {named[at - 1]}" if at else f"after {1e3 * delay:.1f} ms"
        runs.append(
            {
                "place": str(place),
                "seed": seed,
                "acknowledged": acknowledged,
                "killed": killed,
                "point": point,
                "fault": fault,
            }
        )
        tried += 1
    print(json.dumps({"runs": runs, "points": where}))


if __name__ == "__main__":
    main()
