"""The wheel, built and used as a stranger would: outside the checkout, and beside Hugging Face's package `kernels`.

Part of `make check`: `python -m pytest tests/wheel.py`. It needs the package index, for setuptools and for theirs.
Fresh environments take torch and other big packages from this one, but not its editable install of the checkout.
"""

import base64
import csv
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import engine

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "examples" / "pictures" / "noto"
THEIRS = "kernels==0.17.2"  # Hugging Face's
PACKAGES = {"engine": "engine", "export": "export", "kernels": "hivlp_kernels"}

OURS_WORKS = """
import engine, hivlp_kernels, numpy as np, torch
items = np.random.default_rng(0).standard_normal((37, 8)).astype("float32")
hits = engine.Retriever.from_embeddings(items, coarse_dim=4).search(items[:5], k=3, mode="exact")
best = np.argsort(-(items[:5] @ items.T), axis=1)[:, :3]
assert hits.ids == best.tolist(), hits.ids
top = hivlp_kernels.coarse_topk(torch.tensor(items[:5]), torch.tensor(items), 3)
assert top.rows.tolist() == best.tolist()
assert engine.__file__.startswith(SITE) and hivlp_kernels.__file__.startswith(SITE)
"""
THEIRS_WORKS = """
import kernels
assert kernels.__file__.startswith(SITE), kernels.__file__
assert callable(kernels.get_kernel) and not hasattr(kernels, "coarse_topk")
"""
TRANSFORMERS_TAKES_THEIRS = """
import transformers.utils.import_utils as found
assert found.is_kernels_available("0.17", "0.18")
found.is_kernels_available = lambda: True  # by default it asks for a version that is not released yet
import transformers.integrations.hub_kernels as hub
assert hub.LayerRepository.__module__.startswith("kernels."), hub.LayerRepository
"""


def said(*command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
    """Stdout of a command in an environment that knows nothing of this checkout; stderr where it ends badly."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    child = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == code, child.stdout + child.stderr
    return child.stderr if code else child.stdout


def uv(*words: str | Path, code: int = 0) -> str:
    return said(sys.executable, "-m", "uv", *words, code=code)


class Environment:
    """A fresh virtual environment that sees this one's packages behind its own."""

    def __init__(self, folder: Path) -> None:
        uv("venv", "--python", sys.executable, folder / "venv")
        self.outside = folder
        self.python = folder / "venv" / "bin" / "python"
        (self.site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # The folder itself goes on the path; the .pth files in it, our editable install's, are not read.
        (self.site / "reuse.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def install(self, *what: str | Path) -> None:
        uv("pip", "install", "--no-deps", "--python", self.python, *what)

    def uninstall(self, name: str) -> None:
        uv("pip", "uninstall", "--python", self.python, name)

    def runs(self, code: str, *, cwd: Path | None = None) -> str:
        return said(
            self.python, "-c", f"SITE = {str(self.site)!r}\n{code}", cwd=cwd or self.outside
        )

    def command(self, *words: str | Path, code: int = 0) -> str:
        return said(self.python.parent / "hivlp-engine", *words, cwd=self.outside, code=code)

    def files(self, distribution: str) -> dict[str, str]:
        """What was installed: the hash of each file, as the installer wrote it down; "" where it did not."""
        (record,) = self.site.glob(f"{distribution}-*.dist-info/RECORD")
        return {name: value for name, value, _ in csv.reader(record.read_text().splitlines())}

    def is_whole(self, distribution: str) -> bool:
        """Whether every file that was installed is there, as it was."""
        return all(
            (self.site / name).is_file() and value in ("", digest(self.site / name))
            for name, value in self.files(distribution).items()
        )


def digest(file: Path) -> str:
    """As RECORD files have it."""
    value = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256={value.rstrip(b'=').decode()}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout to build in: with tests, benchmarks, examples and a leftover of an old build."""
    place = tmp_path_factory.mktemp("sources") / "checkout"
    place.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    for name in (*PACKAGES, "tests", "benchmarks", "examples"):
        ignored = shutil.ignore_patterns("__pycache__", "*.webp", "*.safetensors")
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for old in ("engine", "kernels"):
        (place / "build" / "lib" / old).mkdir(parents=True)
        (place / "build" / "lib" / old / "gone.py").touch()
    return place


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """Built by way of the source distribution."""
    uv("build", "--out-dir", sources / "dist", sources)
    (built,) = (sources / "dist").glob("*.whl")
    return built


@pytest.fixture
def fresh(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("outside"))
    environment.install(wheel)
    return environment


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_three_packages_and_all_of_them(wheel: Path) -> None:
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    expected = {
        str(Path(package, path.relative_to(ROOT / folder)))
        for folder, package in PACKAGES.items()
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("py.typed")]
    }
    assert held == expected
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= held


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    held = contents(wheel)
    info = f"hivlp_engine-{engine.__version__}.dist-info"
    assert held[f"{info}/top_level.txt"].decode().split() == sorted(PACKAGES.values())
    assert f"\nVersion: {engine.__version__}\n" in held[f"{info}/METADATA"].decode()
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= held.keys()


def test_without_a_source_distribution_it_is_the_same(wheel: Path, sources: Path) -> None:
    uv("build", "--wheel", "--out-dir", sources / "direct", sources)
    (direct,) = (sources / "direct").glob("*.whl")
    assert contents(direct) == contents(wheel)


def test_used_outside_a_checkout(installed: Environment) -> None:
    vectors = np.random.default_rng(1).standard_normal((9, 6)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(installed.outside / "vectors.npy", vectors)
    installed.command("index", "vectors.npy", "-o", "made.index")
    found = installed.runs(
        OURS_WORKS + "r = engine.Retriever('made.index')\n"
        "print(*r.search(np.load('vectors.npy')[4:5], k=2).ids[0])"
    )
    assert found.split() == [str(row) for row in np.argsort(-(vectors @ vectors[4]))[:2]]


def test_the_command_line_outside_a_checkout(installed: Environment) -> None:
    assert installed.command("--version") == f"hivlp-engine {engine.__version__}\n"
    assert "search" in installed.command("--help")


def test_pictures_outside_a_checkout_need_a_checkpoint(installed: Environment) -> None:
    (installed.outside / "pictures").mkdir()
    shutil.copy(next(PICTURES.glob("*.webp")), installed.outside / "pictures")
    error = installed.command("index", "pictures", "-o", "pictures.index", code=2)
    assert error.startswith("error: checkpoint: expected ")
    assert "--checkpoint" in error
    assert not (installed.outside / "pictures.index" / "manifest.json").exists()


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_beside_theirs(fresh: Environment, wheel: Path, order: str) -> None:
    first, second = (wheel, THEIRS) if order == "ours first" else (THEIRS, wheel)
    fresh.install(first)
    fresh.install(second)
    assert not fresh.files("hivlp_engine").keys() & fresh.files("kernels").keys()
    assert fresh.is_whole("hivlp_engine")
    assert fresh.is_whole("kernels")
    fresh.runs(OURS_WORKS + THEIRS_WORKS + TRANSFORMERS_TAKES_THEIRS)

    fresh.uninstall("hivlp-engine")
    assert fresh.is_whole("kernels")
    assert not any((fresh.site / package).exists() for package in PACKAGES.values())
    fresh.runs(THEIRS_WORKS)

    fresh.install(wheel)
    fresh.uninstall("kernels")
    assert fresh.is_whole("hivlp_engine")
    assert not (fresh.site / "kernels").exists()
    assert "search" in fresh.command("--help")


def test_a_checkout_beside_theirs(fresh: Environment) -> None:
    """From the root of a checkout our folder comes first, and theirs is reached through it."""
    fresh.install(THEIRS)
    fresh.runs(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import engine, kernels, torch\n"
        f"assert kernels.__file__.startswith({str(ROOT)!r}), kernels.__file__\n"
        "x = torch.eye(4)\n"
        "assert engine.Retriever.from_embeddings(x, coarse_dim=2).search(x[2:3], k=1).ids == [[2]]\n"
        "assert kernels.coarse_topk(x[2:3], x, 1).rows.tolist() == [[2]]\n"
        "assert callable(kernels.get_kernel) and kernels.__version__ == '0.17.2'\n"
        "from kernels.backends import _select_backend\n"
        "assert _select_backend('cpu').name == 'cpu'\n" + TRANSFORMERS_TAKES_THEIRS,
        cwd=ROOT,
    )


def test_an_editable_install_keeps_the_folder_s_name(fresh: Environment, sources: Path) -> None:
    fresh.install("-e", sources)
    fresh.runs(
        "import engine, export, importlib.util, kernels, torch\n"
        f"assert all(p.__file__.startswith({str(sources)!r}) for p in (engine, export, kernels))\n"
        "assert importlib.util.find_spec('hivlp_kernels') is None\n"
        "x = torch.eye(4)\n"
        "assert engine.Retriever.from_embeddings(x, coarse_dim=2).search(x[2:3], k=1).ids == [[2]]\n"
    )
    assert fresh.command("--version") == f"hivlp-engine {engine.__version__}\n"


def renamed(source: str) -> str:
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rename: Callable[[bytes, str], bytes] = module.renamed
    return rename(source.encode(), "made.py").decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from kernels import kernels", "from hivlp_kernels import kernels"),
        ("if x:\n    from kernels.a import (\n        b,\n    )", None),
        ("é = 1; from kernels import a  # of kernels", None),
        (
            "import os, kernels.a as b, kernels as c",
            "import os, hivlp_kernels.a as b, hivlp_kernels as c",
        ),
        ("import_module('kernels.a')", "import_module('hivlp_kernels.a')"),
        ("f'{x} of kernels.a'", "f'{x} of hivlp_kernels.a'"),
        ('"""`kernels.a`: the kernels."""', '"""`hivlp_kernels.a`: the kernels."""'),
        (
            "from .kernels import a\nfrom . import kernels",
            "from .kernels import a\nfrom . import kernels",
        ),
        (
            "from kernels_of import a\nx = 'my_kernels.a'",
            "from kernels_of import a\nx = 'my_kernels.a'",
        ),
        ("from engine import a\nkernels = a.kernels", "from engine import a\nkernels = a.kernels"),
    ],
)
def test_names_in_the_wheel(before: str, after: str | None) -> None:
    expected = before.replace("from kernels", "from hivlp_kernels") if after is None else after
    assert renamed(before) == expected
    assert renamed(expected) == expected


@pytest.mark.parametrize(
    "source",
    ["import kernels", "import os, kernels.a", "import_module('kernels')", "f'kernels.{name}'"],
)
def test_what_the_wheel_cannot_rename_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"made\.py:1: .*which the wheel cannot rename"):
        renamed(source)


def test_what_cannot_be_renamed_fails_the_build(sources: Path) -> None:
    stray = sources / "export" / "stray.py"
    stray.write_text("import kernels\n")
    try:
        error = uv("build", "--wheel", "--out-dir", sources / "failed", sources, code=2)
    finally:
        stray.unlink()
    assert "export/stray.py:1: `import kernels` binds 'kernels'" in error
    assert not list((sources / "failed").glob("*.whl"))
