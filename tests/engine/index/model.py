"""What an index must hold: a dictionary, and steps that change it. NumPy and `engine.index` only, to be forked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index import Index, changes, merging

COARSE, FINE = 3, 5

REDUCTION = np.arange(FINE * COARSE, dtype=np.float32).reshape(FINE, COARSE)

State = dict[int, bytes]  # id -> its coarse and fine vector, as bytes


@dataclass(frozen=True)
class Step:
    """One change: add or replace `ids` with vectors drawn from `seed`, or remove them, or compact."""

    kind: str
    ids: tuple[int, ...]
    seed: int

    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng(self.seed)
        shapes = ((len(self.ids), COARSE), (len(self.ids), FINE))
        coarse, fine = (rng.integers(-9, 10, shape).astype(np.float32) for shape in shapes)
        return coarse, fine


def steps(seed: int) -> Iterator[Step]:
    """An endless sequence of changes, the first an add; the same for the same seed."""
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    next_id = 0
    for number in range(1 << 30):
        kinds = ["add", "add", "remove", "replace", "compact"] if len(held) > 3 else ["add"]
        kind = str(rng.choice(kinds))
        if kind == "add":
            count = int(rng.integers(1, 40))
            ids = tuple(range(next_id, next_id + count))
            next_id += count
            held |= set(ids)
        elif kind == "compact":
            ids = ()
        else:
            some = rng.choice(sorted(held), size=int(rng.integers(1, 4)), replace=False)
            ids = tuple(int(id) for id in some)
            if kind == "remove":
                held -= set(ids)
        yield Step(kind, ids, seed * 1_000_003 + number)


def changed(state: State, step: Step) -> State:
    """What the dictionary is after a step."""
    if step.kind == "remove":
        return {id: vectors for id, vectors in state.items() if id not in step.ids}
    coarse, fine = step.vectors()
    new = {id: coarse[row].tobytes() + fine[row].tobytes() for row, id in enumerate(step.ids)}
    return {**state, **new}


@contextmanager
def merging_often(many: int = 3) -> Iterator[None]:
    """So many segments are many meanwhile, as are two deleted rows: a few steps see every kind of merge."""
    usual = merging.FAN, changes.FEWEST_DROPPED
    merging.FAN, changes.FEWEST_DROPPED = many, 2
    try:
        yield
    finally:
        merging.FAN, changes.FEWEST_DROPPED = usual


def states(seed: int, count: int) -> list[State]:
    """The dictionary before any step, and after each of `count` steps."""
    found: list[State] = [{}]
    for _, step in zip(range(count), steps(seed), strict=False):
        found.append(changed(found[-1], step))
    return found


def publish(index: Index | None, step: Step, place: Path) -> Index:
    """Make the change and save it: it is acknowledged when this returns."""
    if step.kind == "compact":
        assert index is not None  # the first step is an add
        return index.compact()
    if step.kind == "remove":
        assert index is not None
        return index.without(step.ids).save()
    new = Index.build(
        *step.vectors(),
        ids=np.array(step.ids),
        metadata=[{"n": id} for id in step.ids],
        reduction=REDUCTION,
    )
    if index is None:
        return new.save(place)
    return index.append(new, "replace" if step.kind == "replace" else "error").save()


def held_by(index: Index) -> State:
    """What an index holds, every way of asking compared; AssertionError where they differ."""
    rows = np.arange(index.row_count) if index.live is None else np.flatnonzero(index.live)
    ids: list[Any] = index.ids_at(rows)
    assert len(ids) == len(set(ids)) == len(index), "an id twice, or a wrong count"
    assert index.rows_of(ids).tolist() == rows.tolist(), "the lookup finds other rows"
    assert np.array_equal(index.reduction, REDUCTION), "another reduction"  # type: ignore[arg-type]
    coarse, fine = index.coarse, index.fine
    for row, id in zip(rows.tolist(), ids, strict=True):
        assert index.metadata_at(row) == {"n": id}, "metadata of another item"
    return {
        id: coarse[row].tobytes() + fine[row].tobytes() for row, id in zip(rows, ids, strict=True)
    }
