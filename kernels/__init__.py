"""The two search operations: tensors in, tensors out. PyTorch and Triton, the same bits.

Names are loaded when first used: `kernels.errors` alone must not import torch, since `engine` opens
an index without it.

An installed wheel has this folder as `hivlp_kernels` (`setup.py`). In a checkout its name is also that
of Hugging Face's package, which `transformers` imports where it is installed. Both are served: our
folder comes first, theirs follows on `__path__`, and a name that we lack is looked up in theirs
(`hugging_face.py`).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__path__ = pkgutil.extend_path(__path__, __name__)

if TYPE_CHECKING:
    from kernels.backends import available_backends
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

_ROOMS = {
    "BackendUnavailable": "errors",
    "EngineError": "errors",
    "InvalidArgument": "errors",
    "TopK": "topk",
    "available_backends": "backends",
    "coarse_topk": "coarse",
    "rerank_topk": "rerank",
}


def __getattr__(name: str) -> Any:
    """A name of ours from its room, or one of Hugging Face's `kernels`."""
    if name in _ROOMS:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    # `from kernels import coarse` asks here before it looks for the module.
    ours = (Path(__file__).parent / f"{name}.py").exists()
    if ours or (name.startswith("_") and name != "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kernels.hugging_face import PACKAGE, their_name

    return their_name(PACKAGE, name)
