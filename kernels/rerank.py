"""rerank_topk: score each query's candidates with the fine vectors and keep the best k.

    score[b, c] = sum_j queries[b, j] * items[candidates[b, c], j]
    result[b]   = the k candidates of best score, each row once

Shapes   queries [B, D], items [N, D], candidates [B, C] -> scores [B, k], rows [B, k].
         Any B, N, C >= 0, D >= 1, k >= 1 (Triton: k <= 4096); any strides; N * D may exceed 2^31.
Dtypes   as `coarse_topk`: float32, float16, bfloat16, float8_e4m3fn summed in float32 in the one
         fixed order of `kernels/score.py`; int8 in int32, then rounded to float32.
Rows     candidates int64; -1 = none; a duplicate is returned once. On the CPU a row outside
         -1 ... N-1 is refused; on a GPU, where looking would stop the stream, it counts as
         none and is never read.
Ties     equal scores: the lower row first, wherever it stood among the candidates.
NaN, inf as `coarse_topk`: a candidate whose score is NaN or -inf is no hit.
Bits     the same for any B, C, order of candidates, block size, launch config and backend.
Bytes    floor: B * C * D * itemsize gathered; results 12 * B * k. [B, C, D] is never in memory.
         items may lie in pinned host memory while the rest is on a GPU: `kernels/_triton/`
         says how they come over.
Source   ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._torch import rerank as pytorch
from kernels.backends import choose_backend
from kernels.checks import check_rerank
from kernels.score import score_pairs
from kernels.topk import TopK, best_hits, no_hits

__all__ = ["rerank_topk", "rerank_topk_reference"]


def rerank_topk_reference(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> TopK:
    """The plain version, query by query. For tests only: it holds [C, D]."""
    results = [no_hits(0, k, queries.device)]
    for query, rows in zip(queries, candidates, strict=True):
        rows = torch.unique(rows[rows >= 0])  # ascending
        scores = score_pairs(query, items[rows]) if len(rows) else rows.float()
        results.append(best_hits(scores[None], rows[None], k))
    return TopK(*(torch.cat(parts) for parts in zip(*results, strict=True)))


@torch.no_grad()
def rerank_topk(
    queries: Tensor,
    items: Tensor,
    candidates: Tensor,
    k: int,
    *,
    backend: str = "auto",
) -> TopK:
    """The best k of every query's candidates by inner product, exactly.

    queries [B, D], items [N, D]: same device and dtype (float32, float16, bfloat16, int8,
    float8_e4m3fn); with the queries on a GPU the items may be in pinned host memory.
    candidates int64 [B, C]: rows of items, -1 = none, duplicates returned once. backend
    as in `coarse_topk`.

    Returns TopK(scores [B, k] float32, rows [B, k] int64), best first, equal scores by the
    lower row; row -1 and score -inf where there are fewer than k hits.
    Nothing carries a gradient.

    Raises InvalidArgument, naming the argument, and BackendUnavailable with every reason.
    """
    k = check_rerank(queries, items, candidates, k)
    if choose_backend(backend, k, queries, items, candidates) == "torch":
        return pytorch.rerank_topk(queries, items, candidates, k)
    from kernels._triton import rerank as triton  # imported when it is first used

    return triton.rerank_topk(queries, items, candidates, k)
