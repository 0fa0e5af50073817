"""One writer and four readers at once (`readers.py` says how)."""

from pathlib import Path

from tests.engine.index.harness import run_harness

SECONDS, SEED = 10, 5


def test_every_answer_is_that_of_one_saved_state(tmp_path: Path) -> None:
    found = run_harness("readers", tmp_path / "index", "--seed", SEED, "--seconds", SECONDS)
    print(f"seed {SEED}, {SECONDS} s: {found}")
    for counts in found["readers"]:
        assert "error" not in counts, counts
        assert counts["answers"] > 0
        assert (counts["wrong"], counts["backwards"]) == (0, 0)
    assert sum(counts["states"] for counts in found["readers"]) > 4


def test_a_planted_bug_is_caught(tmp_path: Path) -> None:
    """A writer that saves a change and its number one after the other is seen in between."""
    found = run_harness(
        "readers", tmp_path / "index", "--seed", SEED, "--seconds", SECONDS / 2, "--plant"
    )
    print(f"planted: {found}")
    assert sum(counts["wrong"] for counts in found["readers"])
