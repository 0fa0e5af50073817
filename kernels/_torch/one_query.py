"""One query whose products are exact: integers. Nothing is in doubt, so little is left to do but multiply.

The k-th largest maximum of groups of neighbouring rows is a score that k items reach; only rows that
reach it are looked at. A hit is one int64 key, score * 2^32 - row: score descending, row ascending.
Of many queries such steps would take longer than the products: `coarse.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.topk import TopK, no_hits

__all__ = ["best_of_one"]

GROUP = 64
LOWEST = -(2**31)  # below every sum of products: hidden
ROWS = 1 << 21  # items in a tile


def best_of_one(
    query: Tensor, items: Tensor, k: int, mask: Tensor | None, rows: int = ROWS
) -> TopK:
    """The best k, scores [1, k] and rows [1, k]: query int8 [1, d], d <= EXACT_WIDTH, mask [N] or [1, N]."""
    count, width = items.shape
    column = query.new_empty(width, 1).copy_(query.t())
    places = torch.arange(GROUP, device=items.device)
    padded = -(-min(count, rows) // GROUP) * GROUP
    products = torch.empty(padded, 1, dtype=torch.int32, device=items.device)
    best = torch.empty(0, dtype=torch.int64, device=items.device)
    least = LOWEST + 1
    for first in range(0, count, rows):
        chunk = items[first : first + rows].contiguous()
        torch._int_mm(chunk, column, out=products[: len(chunk)])
        products[len(chunk) :] = LOWEST
        if mask is not None:
            hidden = ~mask[..., first : first + rows].reshape(-1)
            products[: len(chunk), 0].masked_fill_(hidden, LOWEST)
        groups = products.view(-1, GROUP)
        maxima = groups.amax(1)
        if len(maxima) >= k:
            least = max(least, int(maxima.topk(k, sorted=False).values.amin()))
        which = (maxima >= least).nonzero()[:, 0]
        entries = groups.index_select(0, which)
        row = ((which * GROUP + first)[:, None] + places).view(-1)
        at = (entries >= least).view(-1).nonzero()[:, 0]
        keys = (entries.view(-1).index_select(0, at).long() << 32) - row.index_select(0, at)
        if first:
            keys = torch.cat((best, keys))
        best = keys.topk(min(k, len(keys))).values
        if len(best) == k:
            least = max(least, _score(int(best[-1])))
    scores = (best + (2**32 - 1)) >> 32
    found = TopK(scores.float()[None], ((scores << 32) - best)[None])
    if len(best) == k:
        return found
    out = no_hits(1, k, items.device)
    out.scores[:, : len(best)], out.rows[:, : len(best)] = found
    return out


def _score(key: int) -> int:
    return (key + 2**32 - 1) >> 32
