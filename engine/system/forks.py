"""What a forked child must not share with its parent: locks of threads, the writer's lock, pools of threads.

A fork copies the memory of a process and one of its threads. A lock that another thread held stays locked in the
child for ever; a pool of threads has no threads there, and whoever gives it work waits for ever; an open file that
carries a `flock` keeps it for as long as the child lives.
"""

import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Forked(Protocol):
    """What has something to do in a forked child."""

    def after_fork(self) -> None: ...


_holders: "weakref.WeakSet[Forked]" = weakref.WeakSet()
_locks: "weakref.WeakSet[threading.Lock]" = weakref.WeakSet()


def tell_after_fork(holder: Forked) -> None:
    """Call `holder.after_fork` in every child that is forked while `holder` lives."""
    _holders.add(holder)


def forkable_lock() -> threading.Lock:
    """A lock that is free in a forked child, whoever held it in the parent."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


class cached_property(functools.cached_property[T]):  # noqa: N801  named as the one that it replaces
    """`functools.cached_property`, without its lock: two threads may compute a value at the same time.

    Python 3.11 has one lock for all instances of a class: who computes a value in one index keeps the others from
    theirs, and a child that is forked meanwhile would wait for ever.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        super().__init__(function)
        self.lock = nullcontext()


def _in_child() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does with its own
    for holder in list(_holders):
        holder.after_fork()


os.register_at_fork(after_in_child=_in_child)
