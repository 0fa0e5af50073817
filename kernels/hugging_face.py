"""Hugging Face's package of the same import name, where it is installed beside ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "__init__"


def their_name(module: str, name: str) -> Any:
    """`name` of their `module`, which one of ours hides; AttributeError where nobody has it.

    module: the file's stem; "__init__" is the package itself. It runs once, under a name of ours.
    """
    theirs = _their_module(module)
    if theirs is None or not hasattr(theirs, name):
        ours = __package__ if module == PACKAGE else f"{__package__}.{module}"
        raise AttributeError(f"module {ours!r} has no attribute {name!r}")
    return getattr(theirs, name)


def _their_module(module: str) -> ModuleType | None:
    """None where no folder after ours on `kernels.__path__` has it."""
    known = f"{__package__}._hugging_face_{module.strip('_')}"
    if known in sys.modules:
        return sys.modules[known]
    # Not imported: it imports this file.
    for folder in list(sys.modules[__package__].__path__)[1:]:
        file = Path(folder) / f"{module}.py"
        # No package of its own: `from .layer` is ours to find.
        spec = importlib.util.spec_from_file_location(known, file, submodule_search_locations=None)
        if not file.is_file() or spec is None or spec.loader is None:
            continue
        loaded = sys.modules[known] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[known]
            raise
        return loaded
    return None
