"""Killed at any moment, an index is the last acknowledged one or the next (`crash.py` says how that is tried)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from tests.engine.index.crash import STEPS
from tests.engine.index.harness import run_harness
from tests.engine.index.model import COARSE, State, states

KILLS, SEED = 200, 7


def best_scores(state: State, query: Any, k: int) -> list[float]:
    fine = [np.frombuffer(vectors, np.float32)[COARSE:] for vectors in state.values()]
    return sorted((float(vector @ query) for vector in fine), reverse=True)[:k]


def test_killed_anywhere_nothing_acknowledged_is_lost(memory: Path) -> None:
    answer = run_harness("crash", memory, "--kills", KILLS, "--seed", SEED)
    runs = answer["runs"]
    killed = [run for run in runs if run["killed"]]
    print(f"{len(killed)} kills in {len(runs)} runs, seed {SEED}; named points: {answer['points']}")
    print(f"acknowledged before the kill: {sorted(run['acknowledged'] for run in killed)}")
    faults = [run for run in runs if run["fault"]]
    assert not faults, faults
    assert len(killed) >= KILLS
    assert len({run["acknowledged"] for run in killed}) >= STEPS
    query = np.array([3, -1, 4, 1, -5], dtype=np.float32)
    for run in runs:
        if not (Path(run["place"]) / "manifest.json").exists():
            assert run["acknowledged"] == 0
            continue
        found = engine.Retriever(run["place"]).search(query, 5, mode="exact")
        after = states(run["seed"], STEPS)[run["acknowledged"] :][:2]
        one = np.ones(8, np.float32).tobytes()  # what the next writer added
        allowed = [best_scores({**state, -1: one}, query, 5) for state in after]
        assert found.scores[0][: int(found.counts[0])].tolist() in allowed, run


@pytest.mark.parametrize("bug", ["rewrite", "early"])
def test_a_planted_bug_is_caught(memory: Path, bug: str) -> None:
    runs = run_harness("crash", memory, "--kills", 150, "--seed", SEED, "--plant", bug)["runs"]
    faults = [run for run in runs if run["fault"]]
    print(f"planted {bug!r}: {len(faults)} of {len(runs)} runs show it")
    assert faults
