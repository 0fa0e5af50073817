"""A batch searched in blocks, where the candidates of all its queries would take too much memory at a time."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.result import Guarantee
from kernels import TopK

# Candidates of a block: about 0.2 GB of scores and rows, and 0.5 GB while they are ranked.
PLACES = 1 << 24

Found: TypeAlias = tuple[TopK, tuple[Guarantee | None, ...]]


def in_blocks(
    search: Callable[[Embeddings, Tensor | None], Found],
    queries: Embeddings,
    mask: Tensor | None,
    listed: int,
) -> Found:
    """What `search` finds for queries and the mask they share, or theirs, `[B, N]`; listed: candidates of each.

    Answers do not depend on who shares a block. The usual batch is one.
    """
    step = max(1, PLACES // listed)
    if len(queries) <= step:
        return search(queries, mask)
    parts = []
    for first in range(0, len(queries), step):
        block = slice(first, first + step)
        coarse = None if queries.coarse is None else queries.coarse[block]
        shown = mask[block] if mask is not None and mask.ndim == 2 else mask
        parts.append(search(Embeddings(coarse, queries.fine[block]), shown))
    best = TopK(*(torch.cat(column) for column in zip(*(part[0] for part in parts), strict=True)))
    return best, tuple(one for part in parts for one in part[1])
