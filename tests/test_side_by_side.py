"""Our `kernels` beside Hugging Face's, which `transformers` imports under the same name.

Theirs is faked: a package in a folder of its own, with metadata that `transformers` accepts,
that imports itself absolutely, as the real one does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

INIT = """
import importlib.metadata
__version__ = importlib.metadata.version("kernels")
from kernels.layer import NAMES
from .layer.mode import Mode
globals().update({name: type(name, (), {"theirs": True}) for name in NAMES})
with open(__file__ + ".runs", "a") as log:
    log.write("run\\n")
"""
LAYER = """
NAMES = ["CUDAProperties", "Device", "KernelizeFallback", "LayerRepository",
         "LocalLayerRepository", "ROCMProperties", "get_kernel", "kernelize",
         "register_kernel_mapping", "replace_kernel_forward_from_hub",
         "use_kernel_forward_from_hub", "use_kernel_mapping", "use_kernelized_func"]
"""
THEIR_MODULES = """
locking benchmark benchmarks _versions _windows verify validate importer install resolver archs
cli deps variants compat status load layer python_deps hf_hub backends backend _system _rust
utils doctests
"""
SEARCH = """
import torch, kernels
x = torch.eye(4)
assert kernels.coarse_topk(x[2:3], x, 1).rows.tolist() == [[2]]
assert kernels.rerank_topk(x[2:3], x, torch.tensor([[1, 2]]), 1).rows.tolist() == [[2]]
assert kernels.__file__.startswith(ROOT), kernels.__file__
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A site folder that holds a `kernels` 0.18.2 as transformers 5.23 wants it."""
    package, info = tmp_path / "kernels", tmp_path / "kernels-0.18.2.dist-info"
    for folder in (package / "layer", info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(INIT)
    (package / "layer" / "__init__.py").write_text(LAYER)
    (package / "layer" / "mode.py").write_text("class Mode:\n    theirs = True\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    return tmp_path


def run(code: str, *, beside: Path | None = None) -> str:
    """Run code in a child, from the repository root, with their folder behind ours."""
    path = f"import sys; ROOT = {str(ROOT)!r}; sys.path.insert(0, ROOT)\n"
    if beside is not None:
        path += f"sys.path.append({str(beside)!r})\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", path + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_theirs_through_our_name(theirs: Path) -> None:
    run(
        SEARCH + "from kernels import Device, kernelize; from kernels.layer.mode import Mode\n"
        "assert Device.theirs and Mode.theirs and kernels.Mode is Mode\n"
        "assert kernels.__version__ == '0.18.2'\n" + SEARCH,
        beside=theirs,
    )
    assert (theirs / "kernels" / "__init__.py.runs").read_text() == "run\n"  # once


def test_theirs_is_not_run_until_asked_for(theirs: Path) -> None:
    run(SEARCH, beside=theirs)
    assert not (theirs / "kernels" / "__init__.py.runs").exists()


def test_transformers_finds_theirs_and_we_find_ours(theirs: Path) -> None:
    run(
        "import transformers\n"
        "from transformers.utils.import_utils import is_kernels_available\n"
        "assert is_kernels_available()\n"
        "import transformers.integrations.hub_kernels as hub\n"
        "assert hub.LayerRepository.theirs, hub.LayerRepository\n" + SEARCH,
        beside=theirs,
    )
    assert (theirs / "kernels" / "__init__.py.runs").exists()


def test_transformers_without_theirs() -> None:
    run(
        "import kernels, transformers\n"
        "from transformers.utils.import_utils import is_kernels_available\n"
        "import importlib.metadata as metadata\n"
        "installed = any(d.name == 'kernels' for d in metadata.distributions())\n"
        "assert installed or not is_kernels_available()\n"
        "import transformers.integrations.hub_kernels\n" + SEARCH
    )


def test_a_name_that_nobody_has(theirs: Path) -> None:
    asked = (
        "import kernels\n"
        "try:\n    kernels.nobody_has_this\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    for beside in (None, theirs):
        said = run(asked, beside=beside)
        assert said == "module 'kernels' has no attribute 'nobody_has_this'\n"


def test_no_module_of_ours_hides_one_of_theirs() -> None:
    """The sub-modules of Hugging Face's kernels 0.17.2; `backends` hands on the names of theirs."""
    taken = set(THEIR_MODULES.split())
    ours = {path.stem for path in (ROOT / "kernels").iterdir()}
    assert ours & taken == {"backends"}


def test_their_backends_through_ours(theirs: Path) -> None:
    (theirs / "kernels" / "backends.py").write_text(
        "from kernels.layer import NAMES\n_CPU = NAMES[1]\n"
    )
    run(
        "from kernels.backends import _CPU, choose_backend\n"
        "import kernels.backends\n"
        "assert _CPU == 'Device' and not hasattr(kernels.backends, 'nobody_has_this')\n" + SEARCH,
        beside=theirs,
    )
