"""Sources are read in `engine/reading` only, and nothing there knows who asks."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENGINE = ROOT / "engine"
ROOMS = ("building", "dataset", "evaluation")
# What reads a source, and who else may use it for files that are no sources.
READERS = {
    "csv": ("cli",),  # which writes it
    "tarfile": (),
    "pyarrow.parquet": ("index",),  # metadata of items
    "numpy.load": (),
    "engine.system.files.bounded_lines": (),
    "safetensors.safe_open": ("training",),  # vectors that a run keeps
    "safetensors.torch.load_file": ("training", "checkpoints"),  # weights
}
# A build's own state; what a run writes.
JSON = {"building/state.py"}


def names_used(file: Path) -> set[str]:
    """Modules and names that a file imports, and what it takes from modules, by their full names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found, known = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name] = alias.name
                found.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{known.get(node.value.id, node.value.id)}.{node.attr}")
    return found


def room(file: Path) -> str:
    return file.relative_to(ENGINE).parts[0]


@pytest.mark.parametrize("reader", READERS)
def test_sources_are_read_in_one_room(reader: str) -> None:
    using = {room(file) for file in ENGINE.rglob("*.py") if reader in names_used(file)}
    using -= {"system"}  # where `bounded_lines` is
    allowed = {"reading", *READERS[reader]}
    assert using <= allowed, f"{reader} is used in {sorted(using - allowed)}"
    if reader != "tarfile":  # hostile tars are read by hand
        assert using or reader == "safetensors.torch.load_file"


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_that_use_sources_parse_nothing(name: str) -> None:
    """No JSON, no Parquet, no safetensors: records come from `engine.reading`."""
    readers = {"json.loads", "json.load", "pyarrow", "numpy.fromfile", "numpy.memmap", *READERS}
    for file in (ENGINE / name).rglob("*.py"):
        used = names_used(file) & readers
        if str(file.relative_to(ENGINE)) in JSON:
            used -= {"json.loads"}
        assert not used, f"{file.relative_to(ROOT)} uses {sorted(used)}"


def test_reading_imports_loose_files_and_the_system_only() -> None:
    rooms = {path.name for path in ENGINE.iterdir() if path.is_dir()} - {"reading", "system"}
    for file in (ENGINE / "reading").rglob("*.py"):
        for name in names_used(file):
            parts = name.split(".")
            assert parts[0] != "engine" or len(parts) < 2 or parts[1] not in rooms, (
                f"{file}: {name}"
            )
