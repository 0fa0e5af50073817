"""Power loss, simulated: what a disk may hold if it stops at any moment of a recorded sequence of operations.

Until a file is synced, what was written to it may be there, be missing, be cut short, or be zeros. Until a
directory is synced, each name made, replaced or removed in it since may or may not have been; in any order.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, IndexFormatError
from engine.index import Index
from tests.engine.index.model import State, held_by, merging_often, publish, steps
from tests.engine.index.watched import watching


@dataclass(frozen=True)
class Event:
    """`kind`: an operation of `watched.OPERATIONS`, or "acknowledge". `point`: what it is about."""

    kind: str
    point: str = ""
    path: Path = Path()
    target: Path = Path()
    content: bytes = b""


def record(place: Path, seed: int, count: int) -> list[Event]:
    """What `count` steps in `place` do to files."""
    events: list[Event] = []

    def note(name: str, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        first = arguments[0]
        path = watched.names[first] if isinstance(first, int) else Path(first)
        if name == "open" and not arguments[1] & os.O_CREAT:
            return operation(*arguments)
        target = Path(arguments[1]) if name == "replace" else Path()
        content = bytes(arguments[1]) if name == "write" else b""
        point = watched.point(name, arguments)
        result = operation(*arguments)
        events.append(Event(name, point, path, target, content))
        return result

    index = None
    with merging_often(), watching(note) as watched:
        for step in islice(steps(seed), count):
            index = publish(index, step, place)
            events.append(Event("acknowledge"))
    return events


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    written: bytes = b""
    durable: bool = False  # synced at least once


@dataclass
class _Disk:
    """Names on the disk for sure, and what may have been done to them since, by directory."""

    names: dict[Path, _File | None] = field(default_factory=dict)  # None: a directory
    pending: dict[Path, list[tuple[Event, _File | None]]] = field(default_factory=dict)
    seen: dict[Path, _File | None] = field(default_factory=dict)  # as programs see it

    def run(self, event: Event) -> None:
        path, kind = event.path, event.kind
        if kind == "open":
            self.seen[path] = _File()
        elif kind == "mkdir":
            self.seen[path] = None
        elif kind == "write":
            file = self.seen[path]
            assert file is not None
            file.written += event.content
        elif kind == "fsync" and self.seen.get(path) is not None:
            file = self.seen[path]
            assert file is not None
            file.synced, file.durable = file.written, True
        elif kind == "fsync":
            for waiting, held in self.pending.pop(path, []):
                _apply(self.names, waiting, held)
        elif kind == "replace":
            self.seen[event.target] = self.seen.pop(path)
        elif kind == "unlink":
            self.seen.pop(path)
        if kind in ("open", "mkdir", "replace", "unlink"):
            name = event.target if kind == "replace" else path
            self.pending.setdefault(path.parent, []).append((event, self.seen.get(name)))

    def left(self, rng: np.random.Generator) -> dict[Path, bytes | None]:
        """One state that the disk may be in."""
        names = dict(self.names)
        for waiting in self.pending.values():
            share = rng.choice([0.0, 0.5, 1.0])
            for event, held in waiting:
                if rng.random() < share:
                    _apply(names, event, held)
        return {name: None if file is None else _torn(file, rng) for name, file in names.items()}


def _apply(names: dict[Path, Any], event: Event, held: Any) -> None:
    if event.kind == "unlink":
        names.pop(event.path, None)
    elif event.kind == "replace":
        names.pop(event.path, None)
        names[event.target] = held
    else:
        names[event.path] = held


def _torn(file: _File, rng: np.random.Generator) -> bytes:
    if file.written == file.synced and file.durable:
        return file.synced
    kind = rng.integers(4)
    if kind == 0:
        return file.synced
    if kind == 1:
        return file.written
    cut = int(rng.integers(len(file.written) + 1))
    return file.written[:cut] if kind == 2 else file.written[:cut].ljust(len(file.written), b"\0")


def lose_power(
    events: Sequence[Event],
    place: Path,
    states: Sequence[State],
    rng: np.random.Generator,
    empty: Path,
) -> str | None:
    """Stop somewhere in `events`, put a possible state of `place` into `empty`: what is wrong with it, or None."""
    stop = int(rng.integers(len(events) + 1))
    disk, acknowledged = _Disk(), 0
    for event in events[:stop]:
        if event.kind == "acknowledge":
            acknowledged += 1
        else:
            disk.run(event)
    for name, content in disk.left(rng).items():
        if content is not None and name.parent == place and disk.names.get(place, 0) is None:
            (empty / name.name).write_bytes(content)
    try:
        index = Index.open(empty)
        index.verify()
        found = held_by(index)
    except IndexFormatError as error:
        if acknowledged == 0 and "got none" in str(error):
            return None
        return f"stopped at {stop}, {acknowledged} acknowledged: {error}"
    except (EngineError, AssertionError) as error:
        return f"stopped at {stop}, {acknowledged} acknowledged: {error!r}"
    if found not in states[acknowledged : acknowledged + 2]:
        return f"stopped at {stop}: neither state {acknowledged} nor the next"
    return None
