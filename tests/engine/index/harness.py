"""Running a harness as a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_harness(name: str, *arguments: object) -> Any:
    """What `python -m tests.engine.index.NAME ARGUMENTS` prints, which is JSON."""
    child = subprocess.run(
        [sys.executable, "-m", f"tests.engine.index.{name}", *map(str, arguments)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)
