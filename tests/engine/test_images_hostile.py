"""500 hostile pictures: refused or decoded right, within bounds of memory; and the harness sees planted bugs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.engine.hostile_images import COUNT

PEAK = 400 << 20  # bytes; the largest picture allowed would take about 1.3 GB


def run(folder: Path, *bug: str) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-m", "tests.engine.hostile_images", str(folder), *bug],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert isinstance(report, dict)
    return report


def test_five_hundred_hostile_pictures(tmp_path: Path) -> None:
    report = run(tmp_path)
    print(report["outcomes"], f"peak {report['peak'] / 1e6:.0f} MB")
    assert report["wrong"] == []
    assert sum(report["outcomes"].values()) == COUNT
    assert min(report["outcomes"].values()) > COUNT // 4  # neither all refused nor all let through
    assert report["peak"] < PEAK


@pytest.mark.parametrize(
    ("bug", "seen"),
    [("cap", "bomb"), ("scans", "progressive"), ("upright", "rotated"), ("white", "sixteen_bit")],
)
def test_planted_bugs_are_seen(tmp_path: Path, bug: str, seen: str) -> None:
    assert any(seen in fault for fault in run(tmp_path, bug)["wrong"])
