"""Power lost at any moment: an index is the last acknowledged one or the next; `power.py` says how it is tried."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.engine.index.model import states
from tests.engine.index.power import Event, lose_power, record

STATES, SEEDS, STEPS = 500, (1, 2, 3, 4, 5), 8


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[Event]]]:
    """By seed: where steps were made, and what was done to files there."""
    found = {}
    for seed in SEEDS:
        place = tmp_path_factory.mktemp("recorded") / "index"
        found[seed] = place, record(place, seed, STEPS)
    return found


def lost(
    events: Sequence[Event], place: Path, seed: int, tries: int, empty: Path
) -> Iterator[str | None]:
    """The fault, or None, in each of `tries` states that a loss of power may leave."""
    rng, expected = np.random.default_rng(seed), states(seed, STEPS)
    for number in range(tries):
        state = empty / f"{number}"
        state.mkdir(parents=True)
        yield lose_power(events, place, expected, rng, state)


def test_nothing_acknowledged_is_lost(
    recorded: dict[int, tuple[Path, list[Event]]], tmp_path: Path
) -> None:
    each = STATES // len(SEEDS)
    faults = []
    for seed, (place, events) in recorded.items():
        tried = lost(events, place, seed, each, tmp_path / f"{seed}")
        faults += [fault for fault in tried if fault is not None]
    points = Counter(event.point for _, events in recorded.values() for event in events)
    print(f"{STATES} states, seeds {SEEDS}, {len(faults)} faults; recorded: {dict(points)}")
    assert not faults


def _without(events: Sequence[Event], kind: str) -> list[Event]:
    """As if one call were missing from the code. Directories are synced before and after the rename, and above."""
    left, since_rename = [], False
    for event in events:
        if event.kind == "replace":
            since_rename = True
        elif event.kind == "write":
            since_rename = False
        point = event.point
        if point == "fsync directory":
            parent = event.path == events[0].path.parent
            point += " above" if parent else " after" if since_rename else " before"
        if point != kind:
            left.append(event)
    return left


@pytest.mark.parametrize(
    "kind",
    [
        *(
            f"fsync {name}"
            for name in ("coarse", "fine", "ids", "metadata", "deleted", "reduction", "manifest")
        ),
        *(f"fsync directory {when}" for when in ("before", "after", "above")),
        "replace manifest",
    ],
)
def test_without_any_one_sync_or_rename_something_is_lost(
    recorded: dict[int, tuple[Path, list[Event]]], tmp_path: Path, kind: str
) -> None:
    tried = 0
    for seed, (place, events) in recorded.items():
        mutant = _without(events, kind)
        assert len(mutant) < len(events)
        for fault in lost(mutant, place, seed, STATES, tmp_path / f"{seed}"):
            tried += 1
            if fault is not None:
                print(f"without {kind}, found in {tried} states: {fault}")
                return
    pytest.fail(f"{tried} states without {kind}, none at fault")
