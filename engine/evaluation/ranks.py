"""At which place of a ranking the first right answer stands: 1 is best.

Everything is ranked by the engine's own two operations, so ties and rounding are those of a search.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.embeddings import Embeddings
from kernels import coarse_topk, rerank_topk

QUERIES_AT_A_TIME = 4096  # bounds the memory: that many rankings of `depth` rows


def full_ranks(queries: Tensor, wanted: Tensor, items: Tensor, shown: Tensor, depth: int) -> Tensor:
    """Places int64 `[B]` when all items are ranked by one vector; depth + 1 = beyond the first `depth`.

    Args:
        queries: `[B, D]`. wanted: int64 `[B]`, the concept that answers each.
        items: `[N, D]`. shown: int64 `[N]`, the concept of each.
    """
    places = [torch.empty(0, dtype=torch.int64)]
    for some, concepts in _in_parts(queries, wanted):
        rows = coarse_topk(some, items, depth).rows
        places.append(_first(_right(rows, concepts, shown)).cpu())
    return torch.cat(places)


def staged_ranks(
    queries: Embeddings,
    wanted: Tensor,
    items: Embeddings,
    shown: Tensor,
    candidates: Sequence[int],
    depth: int,
) -> dict[int, Tensor]:
    """Places when the coarse vectors rank all items and the fine ones the first C again, for each C; 0 = for none.

    What follows the C candidates keeps its coarse order. `depth` is at least the largest C. One coarse search and
    one rerank serve every C: the order by fine score of some rows is that of all rows without the others.
    """
    assert queries.coarse is not None
    assert items.coarse is not None
    places: dict[int, list[Tensor]] = {count: [] for count in (0, *candidates)}
    for coarse, fine, concepts in _in_parts(queries.coarse, queries.fine, wanted):
        coarse_rows = coarse_topk(coarse, items.coarse, depth).rows
        fine_rows = rerank_topk(fine, items.fine, coarse_rows, depth).rows
        # coarse_place[b, i]: where the row of fine place i stands in the coarse ranking. Both hold the same rows.
        coarse_place = torch.empty_like(fine_rows).scatter_(
            1, fine_rows.argsort(stable=True), coarse_rows.argsort(stable=True)
        )
        alone = _first(_right(coarse_rows, concepts, shown))
        right = _right(fine_rows, concepts, shown)
        places[0].append(alone.cpu())
        for count in candidates:
            inside = coarse_place < count
            first = _first(right & inside)
            among = inside.cumsum(1).gather(1, (first - 1).clamp(max=depth - 1)[:, None])[:, 0]
            places[count].append(torch.where(first <= depth, among, alone).cpu())
    return {count: torch.cat(parts) for count, parts in places.items()}


def _in_parts(*tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    return zip(*(tensor.split(QUERIES_AT_A_TIME) for tensor in tensors), strict=True)


def _right(rows: Tensor, wanted: Tensor, shown: Tensor) -> Tensor:
    """bool `[B, K]`: whether the item in that place answers; -1 is none."""
    return (shown[rows.clamp(min=0)] == wanted[:, None]) & (rows >= 0)


def _first(right: Tensor) -> Tensor:
    """int64 `[B]`: the first True counted from 1, K + 1 where there is none."""
    first = right.int().argmax(dim=1) + 1
    return torch.where(right.any(dim=1), first, right.shape[1] + 1)
