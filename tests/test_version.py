"""`engine.__version__` is where the version stands; tests/wheel.py holds that the wheel has it too."""

import subprocess
import sys
import tomllib
from pathlib import Path

import engine

ROOT = Path(__file__).parent.parent


def test_the_command_line_prints_it() -> None:
    printed = subprocess.check_output(
        [sys.executable, "-m", "engine", "--version"], cwd=ROOT, text=True
    )
    assert printed == f"hivlp-engine {engine.__version__}\n"


def test_pyproject_takes_it_from_the_package() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "engine.__version__"}


def test_the_changelog_begins_with_it() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    newest = next(line for line in lines if line.startswith("## "))
    assert newest.split()[1].strip("[]") in (engine.__version__, "Unreleased")
