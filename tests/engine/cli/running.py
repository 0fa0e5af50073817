"""Commands as a user would give them: in this process, as it is quicker, or in one of their own."""

import contextlib
import io
import json
import subprocess
import sys
from typing import Any

import pytest

from engine.__main__ import main
from tests.conftest import ROOT


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m engine`, as `apart` runs it."""
    command, out, err = ["engine", *map(str, arguments)], io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.chdir(ROOT)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "error::DeprecationWarning:engine",
        "-m",
        "engine",
        *map(str, arguments),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_json(*arguments: object) -> dict[str, Any]:
    child = run(*arguments, "--json")
    assert child.returncode == 0, child.stderr
    answer = json.loads(child.stdout)
    assert isinstance(answer, dict)
    return answer


def assert_refused(child: subprocess.CompletedProcess[str], message: str) -> None:
    assert child.returncode == 2, child.stderr
    assert child.stdout == ""
    last = child.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in child.stderr
