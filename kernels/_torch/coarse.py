"""coarse_topk in PyTorch: fast products tile by tile, group maxima, few rows scored exactly.

For each block of queries, over tiles of items that stay in cache:
  1. multiply in the fast dtype (`product.py`), with a bound on how far a product may be off;
  2. take the maximum of each group of rows; a group below the floor cannot hold a hit;
  3. keep the rows of the other groups that reach the floor (`survivors.py`), and raise the
     floor to the k-th best product after 1, 4, 16, ... tiles.
Then score what is left in the fixed order and sort it. Rows with no bound (NaN, inf, huge) and
queries as large are scored outright by `_scan_plainly`. Why this is exact:
docs/decisions/0002-exact-topk-cpu.md.

Memory beside inputs and outputs, whatever B and N: one tile (TILE products), its items
(TILE_ROWS * d), and 20 bytes for each of at most MAX_PENDING + TILE surviving pairs, several
times while they are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels._torch.product import MAX_NORM, Tiles, fast_dtype
from kernels._torch.survivors import Survivors
from kernels.score import score_pairs
from kernels.topk import TopK, best_hits, no_hits

__all__ = ["Plan", "coarse_topk", "plan_for"]

TILE = 1 << 22  # products in a tile: 8 MiB of bfloat16, in a shared cache
TILE_ROWS = 1 << 15  # items in a tile at most: 4 MiB at d = 64 in bfloat16
QUERIES = 256  # queries in a block at most
PRUNE = 4  # floors are raised after 1, 4, 16, ... tiles
MAX_PENDING = 1 << 21  # surviving pairs before they are cut back
TERMS = 1 << 20  # products held at a time where rows are scored outright


@dataclass(frozen=True)
class Plan:
    """How a search is cut up. Speed and memory depend on it, results never."""

    queries: int  # in a block
    rows: int  # items in a tile
    group: int  # rows under one maximum
    fast: torch.dtype  # of the products
    pending: int = MAX_PENDING


def plan_for(batch: int, count: int, k: int, dtype: torch.dtype, device: torch.device) -> Plan:
    """The plan for B queries, N items, k results. Groups shrink until k of them fit in a tile."""
    queries = max(1, min(batch, QUERIES))
    rows = max(1, min(count, TILE_ROWS, TILE // queries))
    group = 64 if queries <= 64 else 16
    while group > 1 and rows < 2 * k * group:
        group //= 2
    fast = torch.float32
    if device.type == "cpu" and (dtype != torch.float32 or batch > 2):
        fast = fast_dtype()  # else: so few products that casting the items would cost more
    return Plan(queries, rows, group, fast)


def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    out: TopK | None = None,
    plan: Plan | None = None,
) -> TopK:
    """`kernels.coarse_topk` on checked arguments; `plan` is for tests and measurements."""
    batch, count = queries.shape[0], items.shape[0]
    if out is None:
        out = no_hits(batch, k, queries.device)
    plan = plan or plan_for(batch, count, k, items.dtype, items.device)
    for first in range(0, batch, plan.queries):
        block = slice(first, first + plan.queries)
        shown = mask[block] if mask is not None and mask.ndim == 2 else mask
        found = _search(queries[block], items, k, shown, plan)
        out.scores[block] = found.scores
        out.rows[block] = found.rows
    return out


def _search(queries: Tensor, items: Tensor, k: int, mask: Tensor | None, plan: Plan) -> TopK:
    """One block of queries."""
    norms = torch.linalg.vector_norm(queries.to(torch.float32), dim=1)
    if not bool((norms <= MAX_NORM).all()):
        return _scan_plainly(queries, items, k, mask, no_hits(len(queries), k, queries.device))
    tiles = Tiles(queries, plan.rows, plan.group, plan.fast)
    survivors = Survivors(queries, items, k, plan.fast)
    apart = no_hits(len(queries), k, queries.device)  # hits among the loud rows
    due = 1
    for turn, first in enumerate(range(0, items.shape[0], plan.rows), start=1):
        chunk, rows, hidden = _allowed(items, mask, first, plan.rows)
        if not len(chunk):
            continue
        tile, slack, loud = tiles.of(chunk)
        if hidden is not None:
            tile[: len(chunk)].masked_fill_(hidden, -torch.inf)
        if loud is not None:
            tile[loud] = -torch.inf
            at = first + loud if isinstance(rows, int) else rows[loud]
            apart = _scan_plainly(queries, items, k, mask, apart, at)
        survivors.offer(tile, slack, rows, plan.group)
        if turn >= due or survivors.pending > plan.pending:
            survivors.prune()
            due = PRUNE * turn if turn >= due else due
            if survivors.pending > plan.pending:
                survivors.settle()
    return survivors.best(apart)


def _allowed(
    items: Tensor, mask: Tensor | None, first: int, count: int
) -> tuple[Tensor, Tensor | int, Tensor | None]:
    """The next items, their rows (or the first, if they follow each other), and what to hide.

    A mask over items leaves out what it forbids before anything is multiplied; a mask per query
    [B, N] gives the products [n, B] to hide.
    """
    chunk = items[first : first + count]
    if mask is None:
        return chunk, first, None
    if mask.ndim == 2:
        return chunk, first, ~mask[:, first : first + count].t()
    allowed = mask[first : first + count].nonzero()[:, 0]
    if len(allowed) == len(chunk):
        return chunk, first, None
    return chunk.index_select(0, allowed), first + allowed, None


def _scan_plainly(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    best: TopK,
    rows: Tensor | None = None,
) -> TopK:
    """Score all items (or `rows`, ascending, above those in `best`) in the fixed order."""
    count = items.shape[0] if rows is None else len(rows)
    step = max(1, TERMS // max(1, queries.numel()))
    for first in range(0, count, step):
        last = min(first + step, count)
        at = torch.arange(first, last, device=items.device) if rows is None else rows[first:last]
        scores = score_pairs(queries[:, None, :], items.index_select(0, at)[None, :, :])
        if mask is not None:
            scores = scores.masked_fill(~mask.index_select(-1, at), -torch.inf)
        best = best_hits(
            torch.cat((best.scores, scores), dim=1),
            torch.cat((best.rows, at.expand(scores.shape)), dim=1),
            k,
        )
    return best
