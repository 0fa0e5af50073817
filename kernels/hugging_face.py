"""Hugging Face's package of the same import name, where it is installed beside ours."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

NAME = "kernels._hugging_face"


def their_package(folders: Sequence[str]) -> ModuleType | None:
    """Their `__init__`, run once under a name of ours; None where no folder has one.

    `folders` are the places after our own on `kernels.__path__`.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    for folder in folders:
        spec = importlib.util.spec_from_file_location(
            NAME,
            Path(folder) / "__init__.py",
            submodule_search_locations=None,  # no package of its own: `from .layer` is ours to find
        )
        if spec is None or spec.loader is None:
            continue
        module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[NAME]
            raise
        return module
    return None
