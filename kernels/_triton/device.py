"""Where the kernels run: the device's capability, the interpreter, and the workspace."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kernels._triton.launch import INTERPRETED
from kernels.topk import TopK

__all__ = ["Layout", "capability_of", "on_device", "take_workspace", "unwritten"]

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # fixed when the kernels are defined
ALIGNMENT = 256  # bytes; what torch's own allocations have at least


@dataclass(frozen=True)
class Layout:
    """How a workspace is cut: names, dtypes, and bytes of each part, whole multiples of ALIGNMENT."""

    dtypes: dict[str, torch.dtype]
    sizes: list[int]

    @classmethod
    def of(cls, **buffers: tuple[int, torch.dtype]) -> Layout:
        """name = (entries, dtype)."""
        sizes = [
            -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT for count, dtype in buffers.values()
        ]
        return cls({name: dtype for name, (_, dtype) in buffers.items()}, sizes)

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)


def capability_of(tensor: Tensor) -> tuple[int, int]:
    """(major, minor) of the tensor's GPU; INTERPRETED for the interpreter."""
    if INTERPRETS or tensor.device.type != "cuda":
        return INTERPRETED
    return _capability(tensor.device)


@lru_cache(maxsize=64)
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU current, so that its current stream is the one launched on.

    The interpreter computes with NumPy, which would warn where a GPU quietly makes inf or NaN.
    """
    if tensor.device.type == "cuda":
        current = tensor.device.index == torch.cuda.current_device()
        return nullcontext() if current else torch.cuda.device(tensor.device)
    return np.errstate(over="ignore", invalid="ignore")


def unwritten(batch: int, k: int, device: torch.device) -> TopK:
    """A result `[batch, k]` that a kernel is to write, every place of it."""
    return TopK(
        torch.empty(batch, k, dtype=torch.float32, device=device),
        torch.empty(batch, k, dtype=torch.int64, device=device),
    )


def take_workspace(layout: Layout, device: torch.device) -> dict[str, Tensor]:
    """The named buffers, each of one axis, cut from one allocation."""
    parts = torch.empty(layout.nbytes, dtype=torch.uint8, device=device).split(layout.sizes)
    return {  # few calls of torch: each costs about a microsecond
        name: part.view(dtype)
        for (name, dtype), part in zip(layout.dtypes.items(), parts, strict=True)
    }
