"""What runs before a commit is part of `make check`, so that a commit which passes one passes the other."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_hooks_run_what_make_check_runs() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert check is not None
    commands = check[1].replace("$(PY)", ".venv/bin/python").split("\n\t")
    hooks = re.findall(r"^ +entry: (.+)$", config, re.MULTILINE)
    assert hooks == [command.strip() for command in commands[: len(hooks)]]
    assert len(hooks) == 3
