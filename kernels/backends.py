"""The backends: which there are, their limits, and which one runs.

"torch" runs everywhere and takes everything that the ops take. "triton" runs on NVIDIA GPUs of compute
capability 8.0 or later, and in its interpreter on the CPU, within the limits below.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from kernels.checks import describe
from kernels.errors import BackendUnavailable, InvalidArgument

__all__ = ["BACKENDS", "TRITON_MAX_K", "available_backends", "choose_backend", "triton_max_d"]

BACKENDS = ("auto", "torch", "triton")
TRITON_MAX_K = 4096  # the widest sort its last kernel holds


def triton_max_d(dtype: torch.dtype, *, coarse: bool) -> int:
    """The longest vectors that Triton takes: what a row's score folds, or a few rows held in registers."""
    if not coarse:
        return 16384
    return 1024 if dtype == torch.int8 else 4096


def choose_backend(backend: str, k: int, *tensors: Tensor, coarse: bool = False) -> str:
    """`"torch"` or `"triton"`: the answer to `backend=`, or an error with every reason.

    tensors: as the op takes them: queries, items, then mask or candidates. coarse: for `coarse_topk`.

    Raises InvalidArgument for another name, BackendUnavailable where Triton is asked for and cannot run.
    """
    if backend not in BACKENDS:
        raise InvalidArgument(
            "backend",
            expected='"auto", "torch" or "triton"',
            got=repr(backend),
            remedy="available_backends() says which of them run here.",
        )
    if backend == "torch" or (backend == "auto" and tensors[0].device.type != "cuda"):
        return "torch"
    reasons = _why_not_triton_here(tensors[0]) + _why_not_triton_on(k, *tensors, coarse=coarse)
    if not reasons:
        return "triton"
    if backend == "auto":
        return "torch"
    inputs = ", ".join(map(describe, tensors)) + f", k={k}"
    raise BackendUnavailable.of("triton", inputs=inputs, reasons=reasons)


def available_backends() -> dict[str, str]:
    """Every backend's name with "ok", or with why it cannot run here.

    Triton is asked about the device it would get: CUDA where there is one, else the CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = _why_not_triton_here(torch.empty(0, 1, device=device))
    return {"torch": "ok", "triton": "; ".join(reasons) or "ok"}


def _why_not_triton_here(queries: Tensor) -> list[str]:
    """Every reason why Triton cannot run on the queries' device; [] = it can. Triton is not imported for it."""
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("Triton is not installed: pip install 'triton>=3.6'")
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    if queries.device.type != "cuda" and not (queries.device.type == "cpu" and interprets):
        reasons.append(
            f"the queries are on {queries.device}: Triton needs CUDA tensors (or, for tests, CPU "
            "tensors and TRITON_INTERPRET=1 in the environment when Python starts)"
        )
    if queries.device.type == "cuda" and not interprets:
        reasons += _why_not_gpu(queries)
    return reasons


def _why_not_gpu(queries: Tensor) -> list[str]:
    if torch.version.hip is not None:
        return ["this is an AMD GPU: the kernels are for NVIDIA's"]
    major, minor = torch.cuda.get_device_capability(queries.device)
    if (major, minor) < (8, 0):
        return [f"the GPU has compute capability {major}.{minor}: 8.0 is the least"]
    if queries.dtype == torch.float8_e4m3fn and (major, minor) < (8, 9):
        return [f"float8_e4m3fn needs compute capability 8.9, the GPU has {major}.{minor}"]
    return []


def _why_not_triton_on(
    k: int, queries: Tensor, items: Tensor, *_third: Tensor, coarse: bool
) -> list[str]:
    """Every limit of the kernels that these arguments pass."""
    reasons = []
    if len(items) >= 2**31:
        reasons.append("items has 2^31 rows or more: its keys hold 31 bits of row")
    if k > TRITON_MAX_K:
        reasons.append(f"k is {k}: at most {TRITON_MAX_K}")
    longest = triton_max_d(items.dtype, coarse=coarse)
    if queries.shape[1] > longest:
        reasons.append(f"vectors have {queries.shape[1]} entries: at most {longest}")
    return reasons


def __getattr__(name: str) -> Any:
    """A name of Hugging Face's `kernels.backends`, which this file hides in a source checkout."""
    from kernels.hugging_face import their_name

    if name.startswith("__"):  # Python's own questions are about this file
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return their_name("backends", name)
