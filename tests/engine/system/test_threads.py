"""Commands have their threads sleep where there is no work: OpenMP itself says what it was told."""

import os
import subprocess
import sys

import pytest

from engine.system.threads import wait_passively
from tests.conftest import ROOT

COMMANDS = {
    "python -m engine": "from engine.__main__ import main; main()",
    "make demo": "from examples.demo import main; main()",
    "python -m export.to_onnx": "from export import cli, to_onnx; cli.main(cli.command(to_onnx.to_onnx))",
    "the tests": "import tests.conftest",
}


def _spins(program: str, **environment: str) -> int:
    """How often a thread looks for work before it sleeps; OpenMP says so when torch is loaded.

    It is loaded after `program --help`, in a process of its own.
    """
    begin = "import sys; sys.argv = ['it', '--help']"
    lines = f"{begin}\ntry:\n    {program}\nexcept SystemExit:\n    pass\nimport torch"
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    child = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line for line in child.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert found, child.stderr
    return int(found[0].split("=")[1].strip(" '"))


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_of_a_command_sleep(command: str) -> None:
    assert _spins(COMMANDS[command]) == 0


def test_without_them_threads_spin() -> None:
    """Or this file would show nothing."""
    assert _spins("pass") > 0


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _spins(COMMANDS["python -m engine"], OMP_WAIT_POLICY="ACTIVE") > 0
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
