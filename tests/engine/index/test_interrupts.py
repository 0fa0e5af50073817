"""Interrupted at any moment, an index is the old one or the new one (`interrupts.py` says how that is tried)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.index import Index
from tests.engine.index.harness import run_harness
from tests.engine.index.interrupts import NAMES

COUNT, SEED = 1000, 5


def test_interrupted_anywhere_an_index_is_the_old_or_the_new(memory: Path) -> None:
    answer = run_harness("interrupts", memory, "--count", COUNT, "--seed", SEED)
    print(f"{answer['interrupts']} of so many moments each: {answer['moments']}, seed {SEED}")
    assert not answer["faults"], answer["faults"]
    assert set(answer["interrupts"]) == set(NAMES)
    assert sum(answer["interrupts"].values()) > 0.95 * COUNT  # the rest fell into destructors


@pytest.mark.parametrize("bug", ["clean", "lock", "forget"])
def test_a_planted_bug_is_caught(memory: Path, bug: str) -> None:
    faults = run_harness("interrupts", memory, "--count", 150, "--seed", SEED, "--plant", bug)[
        "faults"
    ]
    print(f"planted {bug!r}: {len(faults)} of 150 interrupts show it, such as {faults[:1]}")
    assert faults


def test_a_signal_during_the_rename(tmp_path: Path) -> None:
    """A real SIGTERM whose handler calls sys.exit, sent by the system call that publishes."""
    code = """
import os, signal, sys
import numpy as np
from engine.index import Index, disk
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
rename = disk.rename
def renaming(file, target):
    rename(file, target)
    os.kill(os.getpid(), signal.SIGTERM)
disk.rename = renaming
new = Index.build(np.ones((1, 3), np.float32), np.ones((1, 5), np.float32), ids=[9])
Index.open(sys.argv[1]).append(new).save()
"""
    place = tmp_path / "index"
    Index.build(np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)).save(place)
    child = subprocess.run([sys.executable, "-c", code, place], check=False)
    assert child.returncode == 7
    index = Index.open(place)
    index.verify()
    assert index.ids.tolist() == [0, 1, 9]  # type: ignore[union-attr]
    assert len(index.without([0]).save()) == 2
