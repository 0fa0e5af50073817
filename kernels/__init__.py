"""The two search operations: tensors in, tensors out. PyTorch and Triton, the same bits."""

from __future__ import annotations

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

    Triton is asked on the device it would get: CUDA where there is one, else the CPU.
    """
    import torch

    from kernels import _triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = _triton.why_not(torch.empty(0, 1, device=device))
    return {"torch": "ok", "triton": "; ".join(reasons) or "ok"}
