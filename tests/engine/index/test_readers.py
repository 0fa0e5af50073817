"""One writer and four readers at once (`readers.py` says how)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS, SEED = 10, 5


def run(place: Path, *arguments: object) -> Any:
    command = [sys.executable, "-m", "tests.engine.index.readers", str(place), "--seed", str(SEED)]
    child = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_every_answer_is_that_of_one_saved_state(tmp_path: Path) -> None:
    found = run(tmp_path / "index", "--seconds", SECONDS)
    print(f"seed {SEED}, {SECONDS} s: {found}")
    for counts in found["readers"]:
        assert "error" not in counts, counts
        assert counts["answers"] > 0
        assert (counts["wrong"], counts["backwards"]) == (0, 0)
    assert sum(counts["states"] for counts in found["readers"]) > 4


def test_a_planted_bug_is_caught(tmp_path: Path) -> None:
    """A writer that saves a change and its number one after the other is seen in between."""
    found = run(tmp_path / "index", "--seconds", SECONDS / 2, "--plant")
    print(f"planted: {found}")
    assert sum(counts["wrong"] for counts in found["readers"])
