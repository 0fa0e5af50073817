"""What runs before a commit is part of `make check`, so that a commit which passes one passes the other."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_hooks_run_what_make_check_runs() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(?:style|types):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert re.search(r"^check:.*\n\t.* types .* style ", makefile, re.MULTILINE)
    commands = "".join(targets).replace("$(PY)", ".venv/bin/python").splitlines()
    hooks = re.findall(r"^ +entry: (.+)$", config, re.MULTILINE)
    assert hooks == [command.strip() for command in commands[: len(hooks)]]
    assert len(hooks) == 3
