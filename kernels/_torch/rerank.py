"""rerank_topk in PyTorch: candidates in row order, gathered and scored a cache-sized block at a time.

Memory beside inputs and outputs: about 2 * TERMS float32 and 3 * B * C int64, whatever D and N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.score import score_pairs
from kernels.topk import TopK, best_hits

__all__ = ["rerank_topk"]

TERMS = 1 << 20  # products held at a time


def rerank_topk(
    queries: Tensor, items: Tensor, candidates: Tensor, k: int, *, out: TopK | None = None
) -> TopK:
    """`kernels.rerank_topk` on checked arguments."""
    rows = torch.sort(candidates, dim=1).values  # [B, C]; ties by row, and a gather in order
    inside = (rows >= 0) & (rows < items.shape[0])
    inside[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    rows = torch.where(inside, rows, -1)
    best = best_hits(_scores(queries, items, rows), rows, k)
    if out is None:
        return best
    out.scores.copy_(best.scores)
    out.rows.copy_(best.rows)
    return out


def _scores(queries: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """Scores [B, C] float32 of items[rows]; what stands where a row is -1 does not matter."""
    batch, count = rows.shape
    scores = torch.zeros(batch, count, dtype=torch.float32, device=queries.device)
    if items.shape[0] == 0:
        return scores
    block = max(1, TERMS // queries.shape[1])
    flat, asking = rows.reshape(-1).clamp(min=0), torch.arange(batch, device=rows.device)
    asking = asking[:, None].expand(rows.shape).reshape(-1)
    for first in range(0, flat.numel(), block):
        part = slice(first, first + block)
        found = items[flat[part].to(items.device)].to(queries.device)
        scores.view(-1)[part] = score_pairs(queries[asking[part]], found)
    return scores
