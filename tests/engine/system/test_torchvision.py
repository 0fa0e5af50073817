"""A torchvision that cannot be imported does not end a program that needs none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from engine.checkpoints import open_checkpoint
from transformers.utils import is_torchvision_available
assert not is_torchvision_available()
from transformers import CLIPModel
print(CLIPModel.__name__)
"""


@pytest.mark.parametrize("raised", ["RuntimeError", "ImportError", "AttributeError"])
def test_it_is_hidden(raised: str, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    fault = f"raise {raised}('operator torchvision::nms does not exist')\n"
    (tmp_path / "torchvision" / "__init__.py").write_text(fault)
    about = tmp_path / "torchvision-0.20.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.20.0\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout == "CLIPModel\n", child.stderr
    assert "torchvision does not fit this torch, and is not used" in child.stderr
