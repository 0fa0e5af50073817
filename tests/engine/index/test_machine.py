"""Any sequence of changes against a dictionary (`machine.py` says how)."""

import pytest

from engine.index import changes
from engine.tiers.snapshot import Snapshot
from tests.engine.index import machine

RUNS, STEPS = 200, 15


def test_an_index_is_a_dictionary_that_can_be_searched() -> None:
    machine.RULES.clear()
    machine.run(RUNS, STEPS)
    print(f"{RUNS} runs of up to {STEPS} steps, seed 0: {dict(machine.RULES)}")
    assert machine.RULES.total() > RUNS
    assert min(machine.RULES[name] for name in ("search", "remove", "compact", "refused add")) > 20
    assert machine.RULES["merged by a save"] > 20
    assert machine.RULES["deleted rows dropped by a save"] > 20


@pytest.mark.parametrize("bug", ["deleted rows are found", "compacting keeps deleted rows"])
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "deleted rows are found":
        monkeypatch.setattr(Snapshot, "visible", lambda _, mask: mask)
    else:
        real = changes.without_rows
        monkeypatch.setattr(changes, "without_rows", lambda index, rows: real(index, rows[1:]))
    with pytest.raises(AssertionError):
        machine.run(RUNS, STEPS, shrink=False)
