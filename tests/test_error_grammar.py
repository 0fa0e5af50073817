"""Every error is built from the four parts: argument, expected, got, remedy."""

import ast
import errno
import pickle
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import export.errors  # noqa: F401  # its classes are part of the tree
from engine.errors import (
    BackendUnavailable,
    CheckpointError,
    EngineError,
    MissingPackage,
    StorageError,
    UnknownId,
)

ROOT = Path(__file__).parent.parent
PARTS = {"expected", "got", "remedy"}
# Where classes of the tree are defined: `cls(…)` and `super().__init__(…)` build them there.
DEFINITIONS = ("kernels/errors.py", "engine/errors.py", "export/errors.py")


def tree(root: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


NAMES = {error.__name__ for error in tree() if error.__module__.endswith(".errors")}


def faults(source: str) -> list[str]:
    """The calls in `source` that build an error of the tree, and not from the four parts."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id in NAMES:
            found.append(f"{node.lineno}: {node.exc.id} without its parts")
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        keywords = {keyword.arg for keyword in node.keywords}
        if name in NAMES and (len(node.args) != 1 or keywords != PARTS):
            found.append(f"{node.lineno}: {name} with {len(node.args)} and {keywords}")
        if name in NAMES:
            found += [f"{node.lineno}: {fault}" for fault in _said_badly(node)]
    return found


def _said_badly(call: ast.Call) -> Iterator[str]:
    """What a part's own words cannot be, as they stand in "ARGUMENT: expected EXPECTED, got GOT. REMEDY"."""
    for keyword in call.keywords:
        first, last = _ends(keyword.value)
        if keyword.arg in ("expected", "got") and last.endswith((".", ",", " ")):
            yield f"{keyword.arg} ends with {last[-1]!r}"
        if keyword.arg == "expected" and last.endswith(" expected"):
            yield "expected twice"
        if keyword.arg == "got" and first.startswith("got "):
            yield "got twice"
        if keyword.arg == "remedy" and last and not last.endswith((".", "'")) and ": " not in last:
            yield f"a remedy that is no sentence: {last!r}"


def _ends(value: ast.expr) -> tuple[str, str]:
    """The words at both ends of a part, "" where they are not in the source."""
    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
    words = [
        part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
        for part in (parts[0], parts[-1])
    ]
    return words[0], words[1]


def _files() -> list[str]:
    files = [
        file for room in ("kernels", "engine", "export") for file in (ROOT / room).rglob("*.py")
    ]
    return sorted(str(file.relative_to(ROOT)) for file in files)


@pytest.mark.parametrize("file", [f for f in _files() if f not in DEFINITIONS])
def test_errors_are_built_from_four_parts(file: str) -> None:
    assert not faults((ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('raise CheckpointError("x: a free place expected, found something.")', "with 1"),
        ('raise errors.DatasetError("x", expected="a", got="b")', "with 1"),
        ('error = IndexFormatError("x", "a", "b", "c")', "with 4"),
        ("raise TrainingError", "without its parts"),
        ('InvalidArgument("x", expected="a.", got="b", remedy="C.")', "ends with '.'"),
        ('InvalidArgument("x", expected="a", got=f"got {b}", remedy="C.")', "got twice"),
        ('InvalidArgument("x", expected="an a expected", got="b", remedy="C.")', "expected twice"),
        ('InvalidArgument("x", expected="a", got="b", remedy="Give c")', "no sentence"),
    ],
)
def test_the_check_finds_what_is_wrong(source: str, fault: str) -> None:
    (found,) = faults(source)
    assert fault in found


def test_the_tree_is_drawn() -> None:
    """In the docstrings of the files that define it."""
    for file in DEFINITIONS:
        module = import_module(file.removesuffix(".py").replace("/", "."))
        own = {error.__name__ for error in tree() if error.__module__ == module.__name__}
        assert own
        assert not {name for name in own if name not in str(module.__doc__)}
    assert {"TensorRTUnavailable", "ExportError"} < NAMES


@pytest.mark.parametrize("error", [e for e in tree() if e.__name__ in NAMES])
def test_every_class_takes_prints_and_pickles_the_four_parts(error: type[EngineError]) -> None:
    made = error("a", expected="b", got="c.\n", remedy="D.")
    made.add_note("more")
    again = pickle.loads(pickle.dumps(made))
    for one in (made, again):
        assert type(one) is error
        assert (one.argument, one.expected, one.got, one.remedy) == ("a", "b", "c.\n", "D.")
        assert str(one) == "a: expected b, got c. D."
        assert one.__notes__ == ["more"]
    with pytest.raises(TypeError):
        CheckpointError("a: b expected, got c.")  # type: ignore[call-arg]


def test_what_builds_errors_from_other_facts() -> None:
    full = StorageError.of(OSError(errno.ENOSPC, "No space left", "index/fine"), "index")
    missing = MissingPackage.of("pyarrow", "metadata", "Reading Parquet")
    triton = BackendUnavailable.of("triton", inputs="two tensors", reasons=["no GPU", "k is 9"])
    assert str(full) == (
        "index/fine: expected a file or folder that can be read and written, got No space left. "
        "What was there before is unchanged. Make room on the disk, and try again."
    )
    assert str(missing) == (
        "pyarrow: expected this package to be installed, got none. "
        "Reading Parquet needs it: pip install 'hivlp-engine[metadata]'"
    )
    assert str(triton) == (
        "backend: expected one that can run on two tensors, got 'triton', which cannot: "
        'no GPU; k is 9. Use "auto" or "torch".'
    )
    again = pickle.loads(pickle.dumps(full))
    assert (again.errno, again.strerror, again.filename) == (28, "No space left", "index/fine")
    assert isinstance(UnknownId("a", expected="b", got="c", remedy="D."), KeyError)
