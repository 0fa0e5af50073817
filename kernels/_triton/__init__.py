"""The Triton versions. Triton is imported when one of them is first used, never before.

`workspace`, where one is passed, is a uint8 tensor of `coarse_workspace(queries, items, k, masked=...)` or
`rerank_workspace(candidates, k)`
bytes on the queries' device. Triton reads fine vectors in pinned
host memory in place: a gather over PCIe, with no staged copy.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from kernels.topk import TopK

__all__ = ["coarse_topk", "coarse_workspace", "rerank_topk", "rerank_workspace", "why_not"]

MAX_D = 16384  # the widest row that `row_scores` folds


def why_not(*tensors: Tensor) -> list[str]:
    """Every reason why Triton cannot run on these tensors here; [] = it can.

    In the order of the ops' arguments: queries, items, then mask or candidates.
    """
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("Triton is not installed: pip install triton==3.9.0")
    queries = tensors[0]
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    if queries.device.type != "cuda" and not (queries.device.type == "cpu" and interprets):
        reasons.append(
            f"the queries are on {queries.device}: Triton needs CUDA tensors (or, for tests, CPU "
            "tensors and TRITON_INTERPRET=1 in the environment when Python starts)"
        )
    if queries.device.type == "cuda" and not interprets:
        reasons += _why_not_gpu(queries)
    if any(len(tensor) >= 2**31 for tensor in tensors[1:2]):
        reasons.append("items has 2^31 rows or more: its keys hold 31 bits of row")
    if queries.ndim == 2 and queries.shape[1] > MAX_D:
        reasons.append(f"vectors have {queries.shape[1]} entries: at most {MAX_D}")
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


def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    max_norm: float | None = None,
    out: TopK | None = None,
    workspace: Tensor | None = None,
) -> TopK:
    """`kernels.coarse.coarse_topk` for arguments already checked."""
    from kernels._triton import coarse

    return coarse.coarse_topk(
        queries, items, k, mask, max_norm=max_norm, out=out, workspace=workspace
    )


def coarse_workspace(queries: Tensor, items: Tensor, k: int, *, masked: bool = False) -> int:
    """Bytes of `workspace` that a coarse search of these shapes takes on their device."""
    from kernels._triton import coarse

    return coarse.coarse_workspace(queries, items, k, masked)


def rerank_topk(
    queries: Tensor,
    items: Tensor,
    candidates: Tensor,
    k: int,
    *,
    out: TopK | None = None,
    workspace: Tensor | None = None,
) -> TopK:
    """`kernels.rerank.rerank_topk` for arguments already checked."""
    from kernels._triton import rerank

    return rerank.rerank_topk(queries, items, candidates, k, out=out, workspace=workspace)


def rerank_workspace(candidates: Tensor, k: int) -> int:
    """Bytes of `workspace` that a rerank of these candidates takes."""
    from kernels._triton import rerank

    return rerank.rerank_workspace(candidates, k)
