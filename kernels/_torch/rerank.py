"""rerank_topk in PyTorch: candidates in row order, gathered and scored a cache-sized block at a time.

Memory beside inputs and outputs: about 4 * B * C int64, whatever D and N, and a block of
products (`survivors.TERMS`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._torch.survivors import score_rows
from kernels.topk import TopK, best_hits

__all__ = ["rerank_topk"]


def rerank_topk(
    queries: Tensor, items: Tensor, candidates: Tensor, k: int, *, out: TopK | None = None
) -> TopK:
    """`kernels.rerank_topk` on checked arguments."""
    rows = torch.sort(candidates, dim=1).values  # [B, C]; ties by row, and a gather in order
    inside = (rows >= 0) & (rows < items.shape[0])
    inside[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    rows = torch.where(inside, rows, -1)
    asked = (rows >= 0).nonzero()[:, 0]
    scores = torch.full(rows.shape, -torch.inf, device=queries.device)
    scores[rows >= 0] = score_rows(queries, items, asked, rows[rows >= 0])
    best = best_hits(scores, rows, k)
    if out is None:
        return best
    out.scores.copy_(best.scores)
    out.rows.copy_(best.rows)
    return out
