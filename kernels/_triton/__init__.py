"""The Triton versions."""

from __future__ import annotations

from torch import Tensor

from kernels.topk import TopK


def why_not(*tensors: Tensor) -> list[str]:
    return ["not built yet"]


def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    out: TopK | None = None,
    workspace: Tensor | None = None,
) -> TopK:
    raise NotImplementedError


def rerank_topk(
    queries: Tensor,
    items: Tensor,
    candidates: Tensor,
    k: int,
    *,
    out: TopK | None = None,
    workspace: Tensor | None = None,
) -> TopK:
    raise NotImplementedError
