"""coarse_topk: score every item with the coarse vectors and keep the best k.

    score[b, n] = sum_j queries[b, j] * items[n, j]
    result[b]   = the k items of best score among those the mask allows

Shapes   queries [B, d], items [N, d], mask [N] or [B, N] -> scores [B, k], rows [B, k].
         Any B, N >= 0, d >= 1, k >= 1 (Triton: d, k <= 4096; int8: d <= 1024); any strides; N * d may exceed 2^31.
Dtypes   float32, float16, bfloat16, float8_e4m3fn: products and sums in float32, in the one
         fixed order of `kernels/score.py`. int8: summed in int32, then rounded to float32
         (exact up to 2^24); the order of results is that of the float32 score.
Ties     equal scores: the lower row first. Fewer than k hits: row -1 and score -inf.
NaN, inf queries are checked on the CPU (on a GPU that would stop the stream), items are not.
         An item whose score is NaN or -inf is no hit; +inf ranks first; so one NaN vector
         hides itself and nothing else.
Bits     the same for any B, block size, launch config and backend.
Bytes    floor: each item is read once, N * d * itemsize; results 12 * B * k. [B, N] is never
         in memory: `kernels/_torch/coarse.py` and `kernels/_triton/` state what they hold.
Source   ours; the group-maximum plan and its proof: docs/decisions/0002-exact-topk-cpu.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._torch import coarse as pytorch
from kernels.backends import choose_backend
from kernels.checks import check_coarse
from kernels.score import score_pairs
from kernels.topk import TopK, best_hits

__all__ = ["coarse_topk", "coarse_topk_reference"]


def coarse_topk_reference(
    queries: Tensor, items: Tensor, k: int, *, mask: Tensor | None = None
) -> TopK:
    """The plain version: all scores, one stable sort. For tests only: it holds [B, N, d]."""
    scores = score_pairs(queries[:, None, :], items[None, :, :])  # [B, N]
    if mask is not None:
        scores = scores.masked_fill(~mask, -float("inf"))
    rows = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    return best_hits(scores, rows, k)


@torch.no_grad()
def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    max_norm: float | None = None,
    backend: str = "auto",
) -> TopK:
    """The best k items of every query by inner product, exactly.

    queries [B, d], items [N, d]: same device and dtype (float32, float16, bfloat16, int8,
    float8_e4m3fn). mask: bool [N] or [B, N], True = may be returned. backend: "torch",
    "triton", or "auto" = Triton for CUDA tensors it supports, else PyTorch.
    max_norm: a promise that every item is finite and none is longer than this (1.0 for unit
    vectors). The search then need not look for itself: PyTorch reads the items once instead of
    twice, Triton's bounds are tighter. It is not checked: a promise that does not hold can lose hits.

    Returns TopK(scores [B, k] float32, rows [B, k] int64), best first, equal scores by the
    lower row; row -1 and score -inf where there are fewer than k hits.
    Nothing carries a gradient.

    Raises InvalidArgument, naming the argument, and BackendUnavailable with every reason.
    """
    k = check_coarse(queries, items, k, mask, max_norm)
    tensors = (queries, items) if mask is None else (queries, items, mask)
    if choose_backend(backend, k, *tensors, coarse=True) == "torch":
        return pytorch.coarse_topk(queries, items, k, mask, max_norm=max_norm)
    from kernels._triton import coarse as triton  # imported when it is first used

    return triton.coarse_topk(queries, items, k, mask, max_norm=max_norm)
