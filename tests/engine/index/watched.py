"""A stand-in for `os` in `engine.index.disk` that is told of every operation on files, before it happens."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.index import disk

OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "mkdir")

Watch = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


class WatchedOs:
    """`watch(name, operation, arguments)` runs the operation, or does something else."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.names: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(os, name)
        if name not in OPERATIONS:
            return operation

        def watched(*arguments: Any) -> Any:
            result = self._watch(name, operation, arguments)
            if name == "open":
                self.names[result] = Path(arguments[0])
            return result

        return watched

    def point(self, name: str, arguments: tuple[Any, ...]) -> str:
        """What an operation is about: "fsync fine", "replace manifest", …"""
        target = arguments[-1] if name == "replace" else arguments[0]
        path = self.names[target] if isinstance(target, int) else Path(target)
        if path.is_dir() or name == "mkdir":
            return f"{name} directory"
        return f"{name} {path.name.partition('-')[0].partition('.')[0]}"


@contextmanager
def watching(watch: Watch) -> Iterator[WatchedOs]:
    """Every operation of `disk` goes through `watch` meanwhile."""
    watched = WatchedOs(watch)
    disk.os = watched  # type: ignore[assignment, attr-defined]
    try:
        yield watched
    finally:
        disk.os = os  # type: ignore[attr-defined]
