"""Forked children: they search, and write only what nobody else is writing."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.index import Index, WriterLock
from engine.system.forks import cached_property, forkable_lock
from tests.engine.brute_force import vectors


def in_child(work: Callable[[], int], seconds: float = 60) -> int:
    """What `work` returns in a forked child; -9 where it had to be killed after so long."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


@pytest.fixture
def place(tmp_path: Path) -> Path:
    engine.Retriever.from_embeddings(vectors(20)).save(tmp_path / "index")
    return tmp_path / "index"


# A process of its own: threads of the test runner would have to survive the fork, too.
PRELOADED = """
import os, sys, torch, engine
torch.set_num_threads(2)
items = torch.nn.functional.normalize(torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
def answers():
    return [r.search(items[:count] + 0.01, 10).rows for r in retrievers for count in (1, 64)]
retrievers = [engine.Retriever.from_embeddings(items, coarse_dtype=t) for t in ("float32", "int8")]
for r in retrievers:
    r.warmup((1, 64))
wanted = answers()
child = os.fork()
if not child:
    same = [torch.equal(mine, theirs) for mine, theirs in zip(answers(), wanted)]
    os._exit(0 if same == [True] * 4 else 3)
done = 0
for _ in range(1500):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    __import__("time").sleep(0.02)
os.kill(child, 9)
sys.exit(9)
"""


def test_a_child_of_a_warm_retriever_answers_as_its_parent() -> None:
    """What a server does that loads, warms up and then forks its workers."""
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    command = [sys.executable, "-c", PRELOADED]
    assert subprocess.run(command, env=environment, check=False, timeout=120).returncode == 0


def test_a_child_is_told_that_its_parent_writes(place: Path) -> None:
    r = engine.Retriever(place)
    r.add(embeddings=vectors(1, seed=1), ids=[100])
    r.save()

    def write() -> int:
        try:
            r.add(embeddings=vectors(1, seed=2), ids=[200])
        except engine.IndexLocked as error:
            return 10 if f'"pid": {os.getppid()}' in str(error) else 11
        return 0

    assert in_child(write) == 10
    r.add(embeddings=vectors(1, seed=3), ids=[300])
    r.save()
    assert {100, 300} <= set(Index.open(place).ids)
    assert 200 not in set(Index.open(place).ids)
    r.close()


def test_what_a_child_saved_its_parent_does_not_erase(place: Path) -> None:
    r = engine.Retriever(place)

    def write() -> int:
        r.add(embeddings=vectors(1, seed=2), ids=[200])
        r.save()
        return 0

    assert in_child(write) == 0
    with pytest.raises(engine.IndexChanged, match="refresh"):
        r.add(embeddings=vectors(1, seed=3), ids=[300])
    r.refresh()
    r.add(embeddings=vectors(1, seed=3), ids=[300])
    r.save()
    r.close()
    assert {200, 300} <= set(Index.open(place).ids)


@pytest.mark.parametrize("ends", ["close", "kill"])
def test_an_idle_child_keeps_nobody_from_writing(place: Path, ends: str) -> None:
    """The child neither outlives the lock of a writer that closes, nor of one that is killed."""
    into, out = os.pipe()
    writer = os.fork()
    if not writer:
        r = engine.Retriever(place)
        r.add(embeddings=vectors(1, seed=1), ids=[100])
        r.save()
        idle = os.fork()
        if not idle:
            time.sleep(60)
            os._exit(0)
        if ends == "close":
            r.close()
        os.write(out, str(idle).encode())
        time.sleep(60)
        os._exit(0)
    idle = int(os.read(into, 20))
    try:
        if ends == "kill":
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        with engine.Retriever(place) as r:
            r.add(embeddings=vectors(1, seed=2), ids=[200])
            r.save()
        assert len(Index.open(place)) == 22
    finally:
        os.kill(idle, signal.SIGKILL)
        if ends == "close":
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)


def test_a_lock_that_another_thread_held_is_free_in_a_child() -> None:
    lock = forkable_lock()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_child(lambda: 0 if lock.acquire(timeout=5) else 1) == 0
        assert not lock.acquire(timeout=0.01)  # the parent's is as it was
    finally:
        done.set()
        thread.join()


def test_a_fork_does_not_free_the_parents_lock(place: Path) -> None:
    lock = WriterLock.take(place)
    assert in_child(lambda: int(lock.is_held)) == 0
    assert lock.is_held
    with pytest.raises(engine.IndexLocked):
        WriterLock.take(place)
    lock.release()


# ---------------------------------------------------------------------- to other processes by pickle


def test_a_pickled_retriever_opens_its_directory_again(place: Path) -> None:
    r = engine.Retriever(place, candidates=7)
    copy = pickle.loads(pickle.dumps(r))
    assert len(pickle.dumps(r)) < 1000
    assert copy.index.path == place
    assert copy.candidates == 7
    wanted = r.search(vectors(3, seed=4), 5)
    assert torch.equal(copy.search(vectors(3, seed=4), 5).rows, wanted.rows)
    assert pickle.loads(pickle.dumps(wanted)).ids == wanted.ids
    r.add(embeddings=vectors(1, seed=1), ids=[100])
    with pytest.raises(engine.InvalidArgument, match=r"pickle: .*save\(\)"):
        pickle.dumps(r)
    r.close()


def test_a_retriever_in_memory_is_pickled_by_value() -> None:
    r = engine.Retriever.from_embeddings(vectors(9), metadata=[{"n": n} for n in range(9)])
    r.remove([3])
    copy = pickle.loads(pickle.dumps(r))
    found, wanted = (each.search(vectors(2, seed=1), 9) for each in (copy, r))
    assert found.ids == wanted.ids
    assert list(found) == list(wanted)  # metadata too
    np.testing.assert_array_equal(copy.index.live, r.index.live)


def test_a_value_that_another_thread_computes_keeps_no_child_waiting() -> None:
    """In Python 3.11 `functools.cached_property` has one lock for all instances, and a fork leaves it locked."""
    entered, done = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def value(self) -> int:
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                done.wait()
            return 7

    thread = threading.Thread(target=lambda: Slow().value)
    thread.start()
    entered.wait()
    try:
        assert Slow().value == 7  # nor this thread
        assert in_child(lambda: Slow().value, seconds=5) == 7
    finally:
        done.set()
        thread.join()
