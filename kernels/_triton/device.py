"""Where the kernels run: the device's capability, the interpreter, and the workspace."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from kernels._triton.launch import INTERPRETED
from kernels.errors import InvalidArgument

__all__ = ["Buffers", "capability_of", "layout_bytes", "on_device", "take_workspace"]

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # fixed when the kernels are defined
ALIGNMENT = 256  # bytes; what torch's own allocations have at least

Buffers = dict[str, tuple[tuple[int, ...], torch.dtype]]


def capability_of(tensor: Tensor) -> tuple[int, int]:
    """(major, minor) of the tensor's GPU; INTERPRETED for the interpreter."""
    if INTERPRETS or tensor.device.type != "cuda":
        return INTERPRETED
    return torch.cuda.get_device_capability(tensor.device)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU current, so that its current stream is the one launched on.

    The interpreter computes with NumPy, which would warn where a GPU quietly makes inf or NaN.
    """
    if tensor.device.type == "cuda":
        return torch.cuda.device(tensor.device)
    return np.errstate(over="ignore", invalid="ignore")


def _padded(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def layout_bytes(buffers: Buffers) -> int:
    """Bytes that hold all of them, each aligned."""
    return sum(_padded(shape, dtype) for shape, dtype in buffers.values())


def take_workspace(
    buffers: Buffers, workspace: Tensor | None, device: torch.device
) -> dict[str, Tensor]:
    """The named buffers, cut from `workspace` or from one new allocation."""
    needed = layout_bytes(buffers)
    if workspace is None:
        workspace = torch.empty(needed, dtype=torch.uint8, device=device)
    fits = (
        workspace.dtype == torch.uint8
        and workspace.ndim == 1
        and workspace.is_contiguous()
        and workspace.device == device
        and workspace.numel() >= needed
        and workspace.data_ptr() % 16 == 0
    )
    if not fits:
        raise InvalidArgument(
            "workspace",
            expected=f"a contiguous uint8 tensor of at least {needed} bytes on {device}",
            got=f"{workspace.dtype}{list(workspace.shape)} on {workspace.device}",
            remedy="Allocate what kernels._triton.coarse_workspace or rerank_workspace say.",
        )
    taken, start = {}, 0
    for name, (shape, dtype) in buffers.items():
        stop = start + math.prod(shape) * dtype.itemsize
        taken[name] = workspace[start:stop].view(dtype).view(shape)
        start += _padded(shape, dtype)
    return taken
