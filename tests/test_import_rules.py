"""Imports go one way, and heavy packages are imported only where they are used (docs: DESIGN, "The house")."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kernels": {"kernels"},
    "engine": {"kernels", "engine"},
    "export": {"kernels", "engine", "export"},
    "benchmarks": {"kernels", "engine", "export", "benchmarks"},
    "examples": {"kernels", "engine", "export", "examples"},
}
LAZY = (
    "transformers",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "fastapi",
    "ray",
    "PIL",
    "pyarrow",
    "matplotlib",
    "triton",
    "rich",
    "typer",
)


def _imports(file: Path) -> set[str]:
    """The top-level package of every import in a file, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", [name for name in MAY_IMPORT if (ROOT / name).is_dir()])
def test_imports_go_one_way(package: str) -> None:
    files = _files(package)
    assert files
    for file in files:
        ours = _imports(file) & MAY_IMPORT.keys()
        assert ours <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {ours}"


def test_triton_is_imported_in_one_folder_only() -> None:
    importing = {
        file.relative_to(ROOT / "kernels").parts[0]
        for file in _files("kernels")
        if "triton" in _imports(file)
    }
    assert importing <= {"_triton"}
    assert not any("triton" in _imports(file) for file in _files("engine"))


def _modules_after(program: str) -> set[str]:
    """The top-level modules loaded once a fresh interpreter has run `program`."""
    report = f"{program}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", report],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return set(child.stdout.split())


def test_searching_given_embeddings_loads_no_heavy_package() -> None:
    loaded = _modules_after(
        "import engine, numpy\n"
        "items = numpy.eye(8, dtype='float32')\n"
        "found = engine.Retriever.from_embeddings(items, coarse_dim=4).search(items[:1], k=1)\n"
        "assert found.ids == [[0]]"
    )
    assert not loaded & set(LAZY)


def test_opening_an_index_needs_numpy_only() -> None:
    loaded = _modules_after("import engine; engine.Index; engine.EngineError")
    assert "numpy" in loaded
    assert not loaded & {"torch", *LAZY}


def test_every_public_name_is_there() -> None:
    import engine

    assert sorted(engine.__all__) == engine.__all__
    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Distance'"):
        engine.Distance  # noqa: B018
