"""rerank_topk in PyTorch: candidates in row order, gathered and scored a cache-sized block at a time.

Memory beside inputs and outputs: about 4 * B * C int64, whatever D and N, and a block of
products (`survivors.TERMS`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._torch.survivors import score_lists, score_rows
from kernels.topk import TopK, best_hits, best_items, inferring

__all__ = ["rerank_topk"]


@inferring
def rerank_topk(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> TopK:
    """`kernels.rerank_topk` on checked arguments."""
    rows = torch.sort(candidates, dim=1).values  # [B, C]; ties by row, and a gather in order
    if _all_there(rows, items.shape[0]):
        return best_items(score_lists(queries, items, rows), rows, k)
    return _best_of_some(queries, items, rows, k)


def _all_there(rows: Tensor, count: int) -> bool:
    """Whether all of the sorted rows [B, C] are of items, and none is there twice: the usual case."""
    if not rows.numel():
        return False
    least, most = torch.aminmax(rows)
    if int(least) < 0 or int(most) >= count:
        return False
    return rows.shape[1] == 1 or int(rows.diff(dim=1).amin()) > 0


def _best_of_some(queries: Tensor, items: Tensor, rows: Tensor, k: int) -> TopK:
    """Of sorted rows [B, C], those that are none of the items and repeats left out."""
    inside = (rows >= 0) & (rows < items.shape[0])
    inside[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    if 2 * int(inside.sum()) > inside.numel():  # some are scored for nothing
        scores = score_lists(queries, items, rows.clamp(0, items.shape[0] - 1))
        scores.masked_fill_(~inside, -torch.inf)
    else:
        asked = inside.nonzero()[:, 0]
        scores = torch.full(rows.shape, -torch.inf, device=queries.device)
        scores[inside] = score_rows(queries, items, asked, rows[inside])
    return best_hits(scores, torch.where(inside, rows, -1), k)
