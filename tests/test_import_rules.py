"""Imports go one way, and heavy packages are imported only where they are used (docs: DESIGN, "The house")."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
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


def _graph(root: Path, package: str) -> dict[str, set[str]]:
    """What each module of a package imports of it, wherever the import stands: in functions and for types, too."""
    files = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((root / package).rglob("*.py"))
    }
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import"
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                within = names & files.keys()
                found |= within | ({node.module or ""} if names - within else set())
        graph[module] = found & files.keys()
    return graph


def _rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders and loose files that a package consists of."""
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        room = _room(module)
        rooms.setdefault(room, set()).update({*map(_room, imported)} - {room})
    return rooms


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _circle(graph: Mapping[str, set[str]]) -> str:
    """Modules of which each imports the next, and the last the first; "" where there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


@pytest.mark.parametrize("package", ["engine", "export", "kernels", "benchmarks", "examples"])
def test_no_file_imports_one_that_imports_it(package: str) -> None:
    graph = _graph(ROOT, package)
    assert sum(map(len, graph.values()))
    assert not _circle(graph)


@pytest.mark.parametrize("package", ["engine", "export", "kernels"])
def test_no_room_imports_one_that_imports_it(package: str) -> None:
    assert not _circle(_rooms(_graph(ROOT, package)))


def test_a_circle_is_seen_wherever_its_imports_stand(tmp_path: Path) -> None:
    house = {
        "p/__init__.py": "",
        "p/a/__init__.py": "",
        "p/a/one.py": "def f():\n    from p.b import two\n",
        "p/b/__init__.py": "from p.b.two import x",
        "p/b/two.py": "if TYPE_CHECKING:\n    import p.c\nx = 1",
        "p/c.py": "from p.a.other import y",
        "p/a/other.py": "y = 1",
    }
    for name, text in house.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert not _circle(_graph(tmp_path, "p"))  # no file comes back to itself, but a folder does
    assert set(_circle(_rooms(_graph(tmp_path, "p"))).split(" -> ")) == {"p.a", "p.b", "p.c"}
    (tmp_path / "p/a/other.py").write_text("from p.a.one import f")
    circle = _circle(_graph(tmp_path, "p")).split(" -> ")
    assert circle[0] == circle[-1]
    assert set(circle) == {"p.a.one", "p.b.two", "p.c", "p.a.other"}


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
