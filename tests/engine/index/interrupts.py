"""Ctrl-C at any moment: `python -m tests.engine.index.interrupts PLACE [--count 1000] [--seed 0] [--plant BUG]`.

Python handles a signal when a function begins and when a call of a C function has returned. A profile function sees
these very moments: it counts those of one undisturbed change, and raises KeyboardInterrupt at one of them. After
that the directory must hold the state before or the state after, whole; the same objects must be able to save; and
the next save must leave no file behind. SIGTERM with a handler that raises ends in the same way.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

import engine
from engine.building import build_index
from engine.errors import EngineError
from engine.index import Index, WriterLock, saving
from engine.index.directory import Draft
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest
from tests.engine.index.model import COARSE, FINE, State, Step, changed, held_by, publish

BEFORE = [Step("add", tuple(range(20)), 1), Step("add", (20, 21), 2), Step("remove", (3, 20), 3)]
ADD = Step("add", (30, 31, 32), 4)


class Interrupting:
    """Raises KeyboardInterrupt at moment number `at`, from 1; 0 = only counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, _frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "c_return"):
            self.seen += 1
            if self.seen == self.at:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def run(self, change: Callable[[], object]) -> bool:
        """Whether it was interrupted."""
        sys.setprofile(self)
        try:
            change()
        except KeyboardInterrupt:
            return True
        except SystemError as error:  # Python 3.11, of a profile function that raises
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            return True
        finally:
            sys.setprofile(None)
        return False


def _vectors(step: Step) -> engine.Embeddings:
    coarse, fine = step.vectors()
    return engine.Embeddings(torch.from_numpy(coarse), torch.from_numpy(fine))


def _added(r: engine.Retriever) -> None:
    metadata = [{"n": id} for id in ADD.ids]
    r.add(embeddings=_vectors(ADD), ids=ADD.ids, metadata=metadata, on_conflict="replace")
    r.save()


class Change:
    """One kind of change to the index in `place`; `again` repeats it with the objects that were interrupted."""

    def __init__(self, name: str, place: Path, sources: Path) -> None:
        self.name, self.place, self.sources = name, place, sources
        self.after: State = _state([*BEFORE, ADD])
        if name == "first save":
            self.after = _state([ADD])
        elif name == "compact":
            self.after = _state(BEFORE)
        elif name == "build":
            self.after = {}
        self.index = None if name in ("first save", "build") else Index.open(place)
        self.r = engine.Retriever(place) if name in ("add", "compact") else None

    def run(self) -> None:
        if self.name in ("save", "first save"):
            publish(self.index, ADD, self.place)
        elif self.name == "build":
            build_index([self.sources], self.place, segment=8)
        elif self.name == "add":
            assert self.r is not None
            _added(self.r)
        else:
            assert self.r is not None
            self.r.compact()

    def again(self) -> None:
        if self.name in ("save", "first save"):
            if not (self.place / MANIFEST).exists():
                publish(None, ADD, self.place)
            elif ADD.ids[0] not in held_by(Index.open(self.place)):
                publish(Index.open(self.place), ADD, self.place)
        elif self.name != "build" or not self.is_done():
            self.run()
        if self.r is not None:
            self.r.close()

    def is_done(self) -> bool:
        """Whether nothing of a build is left to do."""
        unfinished = self.place.with_name(f"{self.place.name}.build.json")
        return (self.place / MANIFEST).exists() and not unfinished.exists()


def _state(steps: list[Step]) -> State:
    state: State = {}
    for step in steps:
        state = changed(state, step)
    return state


def _items(place: Path, name: str) -> Any:
    """What it holds; of a build, whose items have no metadata, ids and vectors."""
    index = Index.open(place)
    index.verify()
    if name != "build":
        return held_by(index)
    return dict(zip(index.ids.tolist(), index.fine.tolist(), strict=True))  # type: ignore[union-attr]


def fault_in(change: Change, interrupted: bool, whole: Any) -> str | None:
    """What is wrong after a change that was interrupted, or was not; None if nothing is."""
    place, name = change.place, change.name
    before: Any = None if name in ("first save", "build") else _state(BEFORE)
    after = whole if name == "build" else change.after
    try:
        found = _items(place, name) if (place / MANIFEST).exists() else None
        partly = name == "build" and found is not None and found.items() <= after.items()
        if not (found == after or (interrupted and (found == before or partly))):
            return f"another state: {None if found is None else sorted(found)}"
        change.again()
        if _items(place, name) != after:
            return "another state after the change was made again"
    except (EngineError, AssertionError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    kept = {stored.file for stored in read_manifest(place)[0].files} | {MANIFEST, LOCK}
    left = {file.name for file in place.iterdir()} - kept
    if left and name not in ("compact", "build"):  # these have nothing to save the second time
        return f"left behind: {sorted(left)}"
    return None


def plant(bug: str) -> None:
    """Break what must not be broken."""
    if bug == "clean":  # what was written is removed, whatever the manifest says

        def clean(self: Draft, _kind: Any, error: Any, _trace: Any) -> None:
            for file in self._written if error else []:
                file.unlink(missing_ok=True)

        Draft.__exit__ = clean  # type: ignore[method-assign]
    elif bug == "lock":  # let go of at the end only, and by nothing else

        @contextmanager
        def writing(directory: Path, held: WriterLock | None) -> Iterator[WriterLock]:
            if held is not None:
                yield held
                return
            _taken.append(WriterLock.take(directory))
            yield _taken[-1]
            _taken[-1].release()

        saving.writing = writing  # type: ignore[assignment, attr-defined]
    elif bug == "forget":  # what is being published under the lock is not remembered
        WriterLock.publishing = property(lambda _: "", lambda _, __: None)  # type: ignore[assignment]


_taken: list[WriterLock] = []

NAMES = ("save", "first save", "add", "compact", "build")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    plant(given.plant)
    template, sources = given.place / "template", given.place / "sources.npy"
    index = None
    for step in BEFORE:
        index = publish(index, step, template)
    np.save(sources, np.random.default_rng(0).standard_normal((50, FINE + COARSE)).astype("f4"))
    rng = np.random.default_rng(given.seed)
    runs, faults, moments = Counter[str](), [], {}  # type: ignore[var-annotated]
    for name in NAMES:
        wholes = []
        for at in [0, 0, *_drawn(rng, given.count // len(NAMES))]:
            place = given.place / "index"
            shutil.rmtree(place, ignore_errors=True)
            for file in given.place.glob("index.*"):
                file.unlink()
            if name not in ("first save", "build"):
                shutil.copytree(template, place)
            change = Change(name, place, sources)
            moment = int(at * moments[name]) + 1 if at else 0
            watch = Interrupting(moment)
            interrupted = watch.run(change.run)
            if not at:  # twice, as the first pays for imports
                moments[name] = watch.seen
                wholes.append(_items(place, name))
            fault = fault_in(change, interrupted, wholes[-1])
            runs[name] += interrupted
            if fault:
                faults.append(f"{name}, moment {moment} of {moments[name]}: {fault}")
    print(json.dumps({"interrupts": runs, "moments": moments, "faults": faults}))


def _drawn(rng: np.random.Generator, count: int) -> list[float]:
    """One share of all moments in each of `count` equal parts."""
    return ((np.arange(count) + rng.uniform(0.01, 0.99, count)) / count).tolist()


if __name__ == "__main__":
    main()
