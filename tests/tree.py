"""The rooms of the sources, drawn: `python -m tests.tree`; with `--write`, into CONTRIBUTING.md.

A room is a folder with an `__init__.py`; what is drawn beside it is the first line of its docstring.
"""

import ast
import re
import sys
from collections.abc import Iterator

from tests.conftest import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
PACKAGES = ("kernels", "engine", "export", "benchmarks", "examples", "tests")
BLOCK = re.compile(r"(<!-- tree -->\n```text\n).*?(```\n<!-- end -->)", re.DOTALL)


def drawn() -> str:
    """The packages and their rooms, a line each."""
    return "\n".join(_lines()) + "\n"


def filled(text: str) -> str:
    """The page's text with the tree as it is now."""
    return BLOCK.sub(lambda found: f"{found[1]}{drawn()}{found[2]}", text)


def _lines() -> Iterator[str]:
    for package in PACKAGES:
        yield f"{package + '/':19}{_said(package)}".rstrip()
        if package == "tests":  # these mirror the sources
            continue
        for file in sorted((ROOT / package).glob("*/__init__.py")):
            room = file.parent.name
            yield f"  {room + '/':17}{_said(f'{package}/{room}')}".rstrip()


def _said(room: str) -> str:
    """The first line of a room's docstring."""
    source = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(drawn(), end="")
