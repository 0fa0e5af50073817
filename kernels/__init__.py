"""The two search operations: tensors in, tensors out. PyTorch and Triton, the same bits.

Hugging Face's package `kernels` has the same import name, and `transformers` imports it where
it is installed. From a source checkout both are served: our folder comes first, theirs follows
on `__path__`, and a name that we lack is looked up in theirs.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

__path__ = pkgutil.extend_path(__path__, __name__)

from kernels.coarse import coarse_topk
from kernels.errors import BackendUnavailable, EngineError, InvalidArgument
from kernels.rerank import rerank_topk
from kernels.topk import TopK

__all__ = [
    "BackendUnavailable",
    "EngineError",
    "InvalidArgument",
    "TopK",
    "available_backends",
    "coarse_topk",
    "rerank_topk",
]


def available_backends() -> dict[str, str]:
    """Every backend's name with "ok", or with why it cannot run here.

    Triton is asked about the device it would get: CUDA where there is one, else the CPU.
    """
    import torch

    from kernels import _triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = _triton.why_not(torch.empty(0, 1, device=device))
    return {"torch": "ok", "triton": "; ".join(reasons) or "ok"}


def __getattr__(name: str) -> object:
    """A name of Hugging Face's `kernels`, whose `__init__` then runs once under a name of ours."""
    if not name.startswith("__") or name == "__version__":
        theirs = _hugging_face()
        if theirs is not None and hasattr(theirs, name):
            return getattr(theirs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _hugging_face() -> ModuleType | None:
    private = f"{__name__}._hugging_face"
    if private in sys.modules:
        return sys.modules[private]
    for folder in __path__[1:]:
        spec = importlib.util.spec_from_file_location(
            private,
            Path(folder) / "__init__.py",
            submodule_search_locations=None,  # no package of its own: `from .layer` is ours to find
        )
        if spec is None or spec.loader is None:
            continue
        module = sys.modules[private] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[private]
            raise
        return module
    return None
