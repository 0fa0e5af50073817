"""The code blocks of README and of docs/, and what it takes to run them.

A block runs, or a comment before it says why it does not: `<!-- not run: needs a GPU -->`. Then its syntax is
read, and the names of its options are looked up.
"""

import ast
import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"
START = DOCS / "getting-started.md"
GUIDES = (DOCS / "concepts.md", *sorted(DOCS.glob("guides/*.md")))
RUNS = ("python", "pycon", "bash", "sh", "console")
FENCE = re.compile(r"(?:<!-- not run: (.+?) -->\s*)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)  # fmt: skip
OURS = re.compile(
    r"^(?:\w+=\S+ )*(?:python -m |torchrun .*?-m )?(engine|export\.to_onnx|export\.to_trt|hivlp-engine)(?= )"
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `reason` says why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order, that hold code."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(3)), found[2], found[3], found[1])
        for found in FENCE.finditer(text)
        if found[2] in RUNS
    ]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a shell block, with the output that the block shows of it."""
    text = block.text.replace("\\\n", " ")
    if block.language != "console":
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield line, ""
        return
    for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = shown.partition("\n")
        yield command, output


def our_command(line: str) -> tuple[str, list[str]] | None:
    """The package and arguments of one of our commands, or None."""
    found = OURS.match(line)
    if found is None:
        return None
    package = "engine" if found[1] == "hivlp-engine" else found[1]
    return package, shlex.split(line[found.end() :], comments=True)


def faults(block: Block) -> list[str]:
    """What is wrong with a block that is not run."""
    if block.language in ("python", "pycon"):
        return list(_python_faults(block.text))
    read = ["bash", "-n", "-c", block.text]
    child = subprocess.run(read, capture_output=True, text=True, check=False)
    found = [child.stderr] if child.returncode else []
    for line, _ in commands(block):
        if ours := our_command(line):
            known = options(*ours)
            found += [
                f"{line}: no option {word}"
                for word in ours[1]
                if word.startswith("-") and word.partition("=")[0] not in known
            ]
        elif made := re.match(r"make ([\w-]+)", line):
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            if not re.search(rf"^{made[1]}:", makefile, re.MULTILINE):
                found.append(f"{line}: no such target")
    return found


def options(package: str, arguments: list[str]) -> set[str]:
    """The options that a command of ours takes."""
    import typer

    if package == "engine":
        group: Any = typer.main.get_command(import_module("engine.__main__")._app())
        command = group.commands[arguments[0]]
    else:
        function = getattr(import_module(package), package.rpartition(".")[2])
        command = typer.main.get_command(import_module("export.cli").command(function))
    named = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return {*named, "--help"}


def _python_faults(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            known = keywords().get(name)
            for keyword in node.keywords:
                if known is not None and keyword.arg and keyword.arg not in known:
                    yield f"{name} takes no {keyword.arg}"


@cache
def keywords() -> dict[str, set[str]]:
    """What each public class, function and method of ours takes, by name."""
    import engine
    import kernels

    found: dict[str, set[str]] = {}
    for package in (engine, kernels):
        for name in package.__all__:
            thing = getattr(package, name)
            if isinstance(thing, type) and issubclass(thing, BaseException):
                continue
            for called, function in {name: thing, **vars(thing)}.items():
                if callable(function) and not called.startswith("_"):
                    given = getattr(function, "__func__", function)
                    found.setdefault(called, set()).update(inspect.signature(given).parameters)
            if isinstance(thing, type):
                for called, member in vars(thing).items():
                    if isinstance(member, (classmethod, staticmethod)):
                        given = member.__func__
                        found.setdefault(called, set()).update(inspect.signature(given).parameters)
    return found
