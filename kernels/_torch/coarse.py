"""coarse_topk in PyTorch: fast products tile by tile, group maxima, few rows scored exactly.

For each block of queries, after a first floor was guessed from a sample of the items, over tiles
of items that stay in cache:
  1. multiply in the fast dtype (`product.py`), with a bound on how far a product may be off;
  2. take the maximum of each group of rows; a group below the floor cannot hold a hit;
  3. keep the rows of the other groups that reach the floor (`survivors.py`), and raise the
     floor to the k-th best product whenever they pile up.
Then score what is left in the fixed order and sort it. Rows with no bound (NaN, inf, huge) and
queries as large are scored outright by `_scan_plainly`, and so is everything where there is
little: the steps above take half a millisecond of themselves. One query takes fewer
(`one_query.py`). Why this is exact: docs/decisions/0002-exact-topk-cpu.md.

Memory beside inputs and outputs, whatever B and N: one tile (TILE products), its items converted
(CONVERTED numbers) or copied (COPIED) unless they serve as they are, the sample (about
SAMPLE_ROWS * d), and 20 bytes for each of at most MAX_PENDING + TILE surviving pairs, several times
while they are sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels._torch.one_query import best_of_one, best_of_one_by_bounds
from kernels._torch.product import (
    EXACT_WIDTH,
    MAX_NORM,
    Tiles,
    fast_dtype,
    group_maxima,
    multiplies_int8,
    product_dtype,
)
from kernels._torch.survivors import Survivors
from kernels.score import score_pairs
from kernels.topk import TopK, best_hits, inferring, no_hits

__all__ = ["Cuts", "coarse_topk", "cuts_for"]

TILE = 1 << 21  # products in a tile: 4 MiB of bfloat16, which two cores nearly hold by themselves
CONVERTED = 3 << 19  # numbers of a tile's items at most, if they are converted: these stay in cache
COPIED = 1 << 23  # the same where only some of them may be copied, in their own dtype
ON_A_GPU = 1 << 27  # products, or numbers, of a tile there: no cache holds them, a call costs 10 us
QUERIES = 256  # queries in a block at most
PRUNE = 6  # surviving pairs before floors are raised, times k, for each query
SAMPLE = 17  # one item in so many is looked at to guess the floors
SAMPLE_ROWS = 1 << 16  # items looked at for that, at most about
MAX_PENDING = 1 << 21  # surviving pairs before they are cut back
TERMS = 1 << 20  # products held at a time where rows are scored outright
LITTLE = 1 << 18  # B * N * d up to which all is scored outright: 0.1 to 0.5 ms on one core


@dataclass(frozen=True)
class Cuts:
    """How a search is cut up. Speed and memory depend on it, results never."""

    queries: int  # in a block
    rows: int  # items in a tile
    group: int  # rows under one maximum
    fast: torch.dtype  # of the products
    guess: bool = False  # begin with a floor guessed from a sample
    pending: int = MAX_PENDING


def cuts_for(batch: int, items: Tensor, k: int, *, plain: bool = False) -> Cuts:
    """The cuts for B queries, items [N, d], k results. Groups shrink until k of them fit in a tile.

    plain: no mask, and a promise that all items are finite, so that they need not be copied.
    """
    count, dtype = items.shape[0], items.dtype
    fast = torch.float32
    few = {torch.float32: 2, torch.float16: 1}.get(dtype, 0)  # casting the items would cost more
    if items.device.type == "cpu" and batch > few:
        fast = fast_dtype()
        if dtype == torch.int8 and items.shape[1] <= EXACT_WIDTH and multiplies_int8():
            fast = torch.int8
    queries = max(1, min(batch, QUERIES))
    if items.device.type == "cpu" and batch == 2 and dtype == fast != torch.bfloat16:
        queries = 1  # one column is multiplied two to five times as quickly as two
    rows = min(count, TILE // queries)
    if items.dtype != fast or not items.is_contiguous():
        rows = min(rows, CONVERTED // items.shape[1])
    elif not plain:
        rows = min(rows, COPIED // items.shape[1])
    if items.device.type == "cuda":
        rows = min(count, ON_A_GPU // max(queries, items.shape[1]))
    rows = max(1, rows)
    guess = queries >= 8 and count >= 4 * rows
    groups = k if guess else 2 * k  # in a tile at least: a guessed floor needs none
    group = 64 if queries < 8 else 16
    while group > 1 and rows < groups * group:
        group //= 2
    return Cuts(queries, rows, group, fast, guess)


@inferring
def coarse_topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    max_norm: float | None = None,
    cuts: Cuts | None = None,
) -> TopK:
    """`kernels.coarse_topk` on checked arguments; `cuts` is for tests and measurements."""
    batch, count = queries.shape[0], items.shape[0]
    promised = max_norm is not None and max_norm <= MAX_NORM / 8
    plain = mask is None and (promised or items.dtype == torch.int8)
    little = cuts is None and queries.numel() * count <= LITTLE
    cuts = cuts or cuts_for(batch, items, k, plain=plain)

    def searched(first: int) -> TopK:
        asked = queries[first : first + cuts.queries]
        shown = mask[first : first + cuts.queries] if mask is not None and mask.ndim == 2 else mask
        if len(asked) == 1 and cuts.fast == torch.int8:
            return best_of_one(asked, items, k, shown, cuts.rows)
        if little:
            return _scan_plainly(asked, items, k, shown, no_hits(len(asked), k, queries.device))
        if len(asked) == 1:
            found = best_of_one_by_bounds(asked, items, k, shown, cuts.rows, cuts.fast, max_norm)
            if found is not None:
                return found
        return _search(asked, items, k, shown, cuts, max_norm)

    if 0 < batch <= cuts.queries:
        return searched(0)
    found = no_hits(batch, k, queries.device)
    for first in range(0, batch, cuts.queries):
        block = slice(first, first + cuts.queries)
        found.scores[block], found.rows[block] = searched(first)
    return found


def _search(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    cuts: Cuts,
    max_norm: float | None,
) -> TopK:
    """One block of queries."""
    norms = torch.linalg.vector_norm(queries.to(torch.float32), dim=1)
    if not bool((norms <= MAX_NORM).all()):
        return _scan_plainly(queries, items, k, mask, no_hits(len(queries), k, queries.device))
    tiles = Tiles(queries, cuts.rows, cuts.group, cuts.fast, max_norm)
    floor = torch.full_like(norms, -torch.inf)
    if cuts.guess and len(items):
        floor = _guessed_floor(tiles, items, k, mask, cuts)
    survivors = Survivors(queries, items, k, product_dtype(cuts.fast), floor)
    apart = no_hits(len(queries), k, queries.device)  # hits among the loud rows
    due = min(max(PRUNE * k, 256) * len(queries), cuts.pending)
    for first in range(0, items.shape[0], cuts.rows):
        chunk, rows, hidden = _allowed(items, mask, first, cuts.rows)
        if not len(chunk):
            continue
        tile, loud = tiles.of(chunk, hidden)
        if loud is not None:
            at = first + loud if isinstance(rows, int) else rows[loud]
            apart = _scan_plainly(queries, items, k, mask, apart, at)
        survivors.offer(tile, tiles.slack, rows, cuts.group)
        if survivors.pending > due:
            survivors.prune()
            if survivors.pending > cuts.pending:
                survivors.settle()
            due = min(max(due, 2 * survivors.pending), cuts.pending)
    best = survivors.best(apart)
    if not cuts.guess:
        return best
    wrong = (best.scores[:, -1] < survivors.floor).nonzero()[:, 0]  # the guess was too high
    if len(wrong):
        shown = mask[wrong] if mask is not None and mask.ndim == 2 else mask
        again = _search(queries[wrong], items, k, shown, replace(cuts, guess=False), max_norm)
        best.scores[wrong], best.rows[wrong] = again.scores, again.rows
    return best


def _guessed_floor(tiles: Tiles, items: Tensor, k: int, mask: Tensor | None, cuts: Cuts) -> Tensor:
    """[B] what the k-th best score of every query probably reaches, from a sample of the items.

    With f the share sampled, k*f of the best k are expected in it; the sample's r-th best item,
    r some deviations more, is seldom among the best k, and about r/f items reach it. A guess
    that was too high is found out in the end.
    """
    count = items.shape[0]
    stride = max(SAMPLE, count // SAMPLE_ROWS) | 1  # odd: items often come in pairs, fours, ...
    picked = torch.arange(0, count, stride, device=items.device)
    sample, shown = items.index_select(0, picked), mask
    if mask is not None:
        shown = mask.index_select(-1, picked)
    expected = k * len(sample) / count
    place = math.ceil(expected + 4 * math.sqrt(expected) + 3)
    maxima = []
    for first in range(0, len(sample), cuts.rows):
        chunk, _, hidden = _allowed(sample, shown, first, cuts.rows)
        if not len(chunk):
            continue
        tile, _ = tiles.of(chunk, hidden)
        maxima.append(group_maxima(tile, cuts.group))
    floor = torch.full((tiles.slack.shape[0],), -torch.inf, device=items.device)
    if sum(map(len, maxima)) >= place:
        floor = torch.cat(maxima).t().float().topk(place).values[:, -1]
    return floor


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
