"""coarse_topk in PyTorch: every chunk of items scored in the fixed order, merged into the best k.

Memory beside inputs and outputs: about 5 * TERMS float32, whatever B and N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.score import score_pairs
from kernels.topk import TopK, best_hits, no_hits

__all__ = ["coarse_topk"]

TERMS = 1 << 22  # products of one chunk held at a time


def coarse_topk(
    queries: Tensor, items: Tensor, k: int, mask: Tensor | None, *, out: TopK | None = None
) -> TopK:
    """`kernels.coarse_topk` on checked arguments."""
    batch, width = queries.shape
    best = no_hits(batch, k, queries.device) if out is None else out
    best.scores.fill_(-torch.inf)
    best.rows.fill_(-1)
    block = max(1, min(batch, TERMS // (width * 1024)))
    for first in range(0, batch, block):
        part = slice(first, first + block)
        allowed = mask[part] if mask is not None and mask.ndim == 2 else mask
        found = _scan(queries[part], items, k, allowed)
        best.scores[part] = found.scores
        best.rows[part] = found.rows
    return best


def _scan(queries: Tensor, items: Tensor, k: int, mask: Tensor | None) -> TopK:
    batch, width = queries.shape
    chunk = max(1, TERMS // (width * batch))
    best = no_hits(batch, k, queries.device)
    for first in range(0, items.shape[0], chunk):
        part = items[first : first + chunk]
        scores = score_pairs(queries[:, None, :], part[None, :, :])  # [B, chunk]
        if mask is not None:
            scores = scores.masked_fill(~mask[..., first : first + chunk], -torch.inf)
        rows = torch.arange(first, first + len(part), device=items.device).expand(scores.shape)
        best = best_hits(
            torch.cat((best.scores, scores), dim=1), torch.cat((best.rows, rows), dim=1), k
        )
    return best
