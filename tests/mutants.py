"""Which faults do the tests let pass? Break one thing in the code and see whether a test of its room fails.

    python -m tests.mutants [FILE…] [--sample 100] [--seed 0] [--seconds 240] [--report survivors.jsonl]

Works on a copy of the tree. Prints each mutation that no test caught, and how many were caught. Comparisons,
arithmetic, conditions and numbers are changed, and calls that stand alone are dropped; messages are left alone.
Not every survivor shows a gap: some mutants do the same in another way.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAST = "not million and not killed and not interrupted"
INDEX = "bad_files changes columns index machine merging untrusted writers failing_disk"
# The tests of a room without its long harnesses, the quickest first.
ROOMS = {
    "engine/retriever.py": ["candidates", "retriever", "result", "tiers", "recall", "queries"],
    "engine/coarse/": ["retriever", "candidates", "tiers"],
    "engine/recall/": ["recall", "retriever"],
    "engine/tiers/": ["tiers", "candidates", "retriever"],
    "engine/queries/": ["queries", "retriever", "result"],
    "engine/index/": [f"index/test_{name}.py" for name in INDEX.split()],
}
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def mutations(tree: ast.Module) -> Iterator[tuple[ast.AST, Callable[[], None]]]:
    """Each place, and what breaks it there."""
    for node in _code(tree):
        if isinstance(node, ast.Compare):
            yield from ((node, _swap(node.ops, i)) for i in range(len(node.ops)))
        elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPPED:
            yield node, _set(node, "op", SWAPPED[type(node.op)]())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, _set(node, "op", ast.UAdd())
            yield node, _set(node, "operand", ast.Constant(False))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, _set(node, "value", not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, _set(node, "value", node.value + 1)
        elif isinstance(node, ast.Name) and node.id in SWAPPED_CALLS:
            yield node, _set(node, "id", SWAPPED_CALLS[node.id])
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node, _set(node, "test", ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, _set(node, "value", ast.Constant(None))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What runs and is tested: no annotations, messages, assertions, or code for type checkers."""
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Assert):
                continue
            if isinstance(child, ast.FunctionDef) and child.name == "__repr__":
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            yield from _code(child)


def _swap(ops: list[ast.cmpop], place: int) -> Callable[[], None]:
    other = SWAPPED[type(ops[place])]()
    assert isinstance(other, ast.cmpop)
    return lambda: ops.__setitem__(place, other)


def _set(node: ast.AST, name: str, value: object) -> Callable[[], None]:
    return lambda: setattr(node, name, value)


def mutant(source: str, number: int) -> tuple[str, str]:
    """The source with its mutation of that number, and a line on it."""
    tree = ast.parse(source)
    node, change = list(mutations(tree))[number]
    assert isinstance(node, ast.expr | ast.stmt)
    before = ast.unparse(node).splitlines()[0]
    change()
    after = ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
    return ast.unparse(tree), f"{node.lineno}: {before}  ->  {after}"


def passes(copy: Path, tests: list[str], seconds: float) -> bool:
    """Whether all tests pass, in a fork that imports the copy; too long counts as a failure."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(copy)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]  # of the tree that was copied
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", FAST, *tests])))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def tests_of(file: str) -> list[str]:
    named = next(tests for room, tests in ROOMS.items() if file.startswith(room))
    folder = ROOT / "tests" / "engine"
    return [
        f"tests/engine/{name if (folder / name).exists() else f'test_{name}.py'}" for name in named
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="as engine/retriever.py; default: all of ROOMS")
    parser.add_argument("--sample", type=int, help="so many, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=240, help="that the tests may take")
    parser.add_argument("--report", type=Path, help="JSON lines, one a mutation")
    asked = parser.parse_args()
    every = [
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (sorted((ROOT / room).rglob("*.py")) if room.endswith("/") else [ROOT / room])
    ]
    places = [
        (file, number)
        for file in asked.files or every
        for number, _ in enumerate(mutations(ast.parse((ROOT / file).read_text())))
    ]
    drawn = random.Random(asked.seed).sample(places, asked.sample or len(places))
    print(f"{len(drawn)} of {len(places)} mutations", flush=True)
    import numpy  # noqa: F401  # here, once, and not in each fork
    import torch

    torch.set_num_threads(1)
    survived = 0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "build", "*cache*")
        )
        for tests in {tuple(tests_of(file)) for file, _ in drawn}:
            assert passes(copy, list(tests), asked.seconds), f"they fail unbroken: {tests}"
        for count, (file, number) in enumerate(drawn, 1):
            source = (ROOT / file).read_text()
            broken, line = mutant(source, number)
            (copy / file).write_text(broken)
            alive = passes(copy, tests_of(file), asked.seconds)
            (copy / file).write_text(source)
            survived += alive
            if alive:
                print(f"survived  {file}:{line}   ({survived} of {count})", flush=True)
            if asked.report:
                with asked.report.open("a") as report:
                    report.write(json.dumps([file, number, line, alive]) + "\n")
    print(f"{len(drawn) - survived} of {len(drawn)} caught")


if __name__ == "__main__":
    main()
