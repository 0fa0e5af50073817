"""Copies of the Triton kernels with a line changed: what the tests must catch, or must survive."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch

import kernels._triton
from kernels.topk import TopK

SOURCE = Path(kernels._triton.__file__).parent


def same(pairs: Iterable[tuple[TopK, TopK]]) -> bool:
    """Whether each is (found, expected) bit for bit; nothing more is searched after the first that is not."""
    return all(
        torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)
        for found, expected in pairs
    )


class Mutant:
    """A copy of `kernels/_triton` under another name, with `changes` (file, old, new) made."""

    def __init__(self, folder: Path, name: str, changes: list[tuple[str, str, str]]) -> None:
        self.name = name
        copy = folder / name
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file, old, new in changes:
            text = (copy / file).read_text()
            assert old in text, f"{file} no longer holds {old!r}: write this mutant anew"
            (copy / file).write_text(text.replace(old, new))
        for copied in copy.glob("*.py"):
            copied.write_text(copied.read_text().replace("kernels._triton", name))
        sys.path.insert(0, str(folder))
        try:
            importlib.invalidate_caches()
            self.coarse: ModuleType = importlib.import_module(f"{name}.coarse")
            self.rerank: ModuleType = importlib.import_module(f"{name}.rerank")
        finally:
            sys.path.remove(str(folder))
