"""The (query, row) pairs that may still be among the best k, and the floor they must reach.

floor[b] is a lower bound of query b's k-th best score. A row is dropped only where its product
proves that its score lies below the floor, so ties and rounding cannot lose a hit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels._torch.product import group_maxima, step_in_group
from kernels.score import accumulator, sum_terms
from kernels.topk import TopK, no_hits

__all__ = ["LOWEST", "Survivors", "flagged", "score_lists", "score_rows"]

TERMS = 1 << 19  # products held at a time when pairs are scored
LISTED = 3 << 19  # the same for whole lists of rows
BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.int32: torch.int32}
LOWEST = -3e38  # below every product in a tile, above -inf
LOWEST_INTEGER = -(2**30)  # the same where products are int32


class Survivors:
    """Pairs collected tile by tile for one block of queries [B, d]; made: the dtype of products.

    Those of one query with equal scores always stand in ascending row order, as they are found:
    tile after tile, in each tile ascending, and every later sort is stable.
    """

    def __init__(
        self, queries: Tensor, items: Tensor, k: int, made: torch.dtype, floor: Tensor
    ) -> None:
        self.queries, self.items, self.k, self.made = queries, items, k, made
        self.floor = floor  # [B] float32
        self._slack = torch.zeros_like(floor)  # of all tiles so far
        self._limit: Tensor | None = None  # kept until the floor or the slack moves
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # query, row, product
        self.pending = 0

    def offer(self, tile: Tensor, slack: Tensor, rows: Tensor | int, group: int) -> None:
        """Keep what may be a hit of this tile [n, B]; rows: of each line, or of the first."""
        if slack is not self._slack:
            self._slack, self._limit = slack, None
        maxima = None
        if self.pending == 0 and bool((self.floor == -torch.inf).any()):
            maxima = group_maxima(tile, group)
            if len(maxima) >= self.k:  # k groups, each with an item at least this good
                best = maxima.t().float().topk(self.k)
                self._raise_floor(best.values[:, -1])
        if self._limit is None:
            self._limit = self._limits()
        limit = self._limit
        if limit.dtype != tile.dtype:
            tile, maxima = tile.view(limit.dtype), None
        if maxima is None:
            maxima = group_maxima(tile, group)
        found = flagged(maxima >= limit)
        if not len(found):
            return
        batch = tile.shape[1]
        step = step_in_group(batch)  # mostly 1, and then spared two divisions: 3 % of 256 queries
        block, at_once = found // (step * batch), found % (step * batch)
        query = at_once if step == 1 else at_once % batch
        entries = tile.view(-1, group, step * batch)[block, :, at_once]  # [m, group]
        reached = entries >= limit.index_select(0, query)[:, None]
        hit = flagged(reached)
        at = hit // group
        first = block * group if step == 1 else block * (group * step) + at_once // batch
        line = first.index_select(0, at) + hit % group * step
        product = entries.view(-1).index_select(0, hit).view(self.made)
        if step > 1:  # else they ascend
            line, order = line.sort()
            at, product = at.index_select(0, order), product.index_select(0, order)
        row = line + rows if isinstance(rows, int) else rows.index_select(0, line)
        self._pairs.append((query.index_select(0, at), row, product))
        self.pending += len(at)

    def prune(self) -> None:
        """Raise the floor to the k-th best product of every query; drop what lies below."""
        if not self._pairs:
            return
        query, row, product = self._joined()
        order, place = _ranked(query, product, len(self.floor))
        last = order[place == self.k - 1]
        kth = torch.full_like(self.floor, -torch.inf)
        kth[query[last]] = product[last].float()
        self._raise_floor(kth)
        limit = self._limits(bits=False)
        self._keep(query, row, product, product >= limit.index_select(0, query))

    def settle(self) -> None:
        """Score every pair and keep the best k of each query: for when products cannot tell."""
        query, row, product = self._joined()
        scores = score_rows(self.queries, self.items, query, row)
        order, place = _ranked(query, scores, len(self.floor))
        last = order[place == self.k - 1]
        self.floor[query[last]] = torch.maximum(self.floor[query[last]], scores[last])
        self._limit = None
        order = order[place < self.k]
        self._pairs = [(query[order], row[order], product[order])]
        self.pending = len(order)

    def best(self, more: TopK) -> TopK:
        """The best k of the pairs and of the hits in `more`, other rows of the same queries."""
        exact = not self.made.is_floating_point
        if not exact:
            self.prune()
        query, row, product = self._joined()
        scores = product.float() if exact else score_rows(self.queries, self.items, query, row)
        others = more.rows >= 0
        if bool(others.any()):
            query = torch.cat((query, others.nonzero()[:, 0]))
            row = torch.cat((row, more.rows[others]))
            scores = torch.cat((scores, more.scores[others]))
            row, by_row = torch.sort(row)
            query, scores = query[by_row], scores[by_row]
        order, place = _ranked(query, scores, len(self.floor))
        order, place = order[place < self.k], place[place < self.k]
        query, row, scores = query[order], row[order], scores[order]
        best = no_hits(len(self.floor), self.k, scores.device)
        best.scores[query, place] = scores
        best.rows[query, place] = torch.where(scores > -torch.inf, row, -1)
        return best

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self._pairs:
            none = torch.empty(0, dtype=torch.int64, device=self.floor.device)
            return none, none, none.to(self.made)
        query, row, product = (torch.cat(parts) for parts in zip(*self._pairs, strict=True))
        return query, row, product

    def _keep(self, query: Tensor, row: Tensor, product: Tensor, kept: Tensor) -> None:
        at = flagged(kept)
        pairs = (query, row, product)
        query, row, product = (part.index_select(0, at) for part in pairs)
        self._pairs = [(query, row, product)]
        self.pending = len(at)

    def _raise_floor(self, kth: Tensor) -> None:
        """kth [B] float32: k products are at least this, so k scores are at least that less
        the rounding of the product and the slack."""
        if self.made.is_floating_point:
            kth = under(kth.to(self.made)).float()
        self.floor = torch.maximum(self.floor, kth - self._slack)
        self._limit = None

    def _limits(self, *, bits: bool = True) -> Tensor:
        """[B] in the product's dtype: where the score reaches the floor, the product is not below.

        One step under the floor less the slack, so that it holds however products are rounded.
        Floats above zero sort as their bits do, and faster: then, and if asked, the bits.
        Products in int32 are the scores themselves, and the floor is a whole number or below all.
        """
        if not self.made.is_floating_point:
            return self.floor.clamp(min=LOWEST_INTEGER).floor().to(self.made)
        limit = under((self.floor - self._slack).clamp(min=LOWEST).to(self.made))
        return limit.view(BITS[self.made]) if bits and bool((limit > 0).all()) else limit


def score_rows(queries: Tensor, items: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Scores [m] float32 of pairs, query and row int64 [m], a cache-sized block at a time.

    NaN counts as -inf, and -0.0 as +0.0.
    """
    scores = torch.empty(len(row), dtype=torch.float32, device=queries.device)
    wide, width = queries.to(accumulator(items.dtype)), queries.shape[1]
    block = min(len(row), max(1, TERMS // width))
    # Kept from block to block: memory given back and asked for again costs more than the sums.
    terms, asked = wide.new_empty(2, block, width)
    found = items.new_empty(block, width)
    for first in range(0, len(row), max(1, block)):
        part = slice(first, min(first + block, len(row)))
        count = part.stop - first
        torch.index_select(items, 0, row[part].to(items.device), out=found[:count])
        torch.index_select(wide, 0, query[part], out=asked[:count])
        scores[part] = sum_terms(terms[:count].copy_(found[:count]).mul_(asked[:count]))
    return torch.where(scores > -torch.inf, scores + 0.0, -torch.inf)


def score_lists(queries: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """Scores [B, C] float32 of each query's rows, int64 [B, C], all of which there are.

    As `score_rows`, but nobody needs to look up who asks, and NaN and -0.0 stay: `best_hits` sees to them.
    """
    batch, listed = rows.shape
    width, wide = queries.shape[1], queries.to(accumulator(items.dtype))[:, None]
    scores = torch.empty(batch, listed, dtype=torch.float32, device=queries.device)
    columns = max(1, min(listed, LISTED // width))
    lists = max(1, min(batch, LISTED // (width * max(1, listed))))
    terms = wide.new_empty(lists * columns, width)
    found = items.new_empty(lists * columns, width)
    for first in range(0, batch, lists):
        for start in range(0, listed, columns):
            at = slice(first, first + lists), slice(start, start + columns)
            part = rows[at].to(items.device)
            count = part.numel()
            torch.index_select(items, 0, part.reshape(-1), out=found[:count])
            block = terms[:count].copy_(found[:count]).view(*part.shape, width)
            scores[at] = sum_terms(block.mul_(wide[at[0]]))
    return scores


def under(values: Tensor) -> Tensor:
    """The next number below each."""
    return torch.nextafter(values, torch.full_like(values, -torch.inf))


def flagged(flags: Tensor) -> Tensor:
    """Where bool flags, flattened, are set, ascending: NumPy passes twice as quickly over those that are not."""
    if flags.device.type != "cpu":
        return flags.view(-1).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(flags.numpy()))


def _ranked(query: Tensor, values: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Pairs ordered by query, then value descending, equal ones as they stand; and the place of
    each within its query. One stable sort of integers, of as few bits as tell the values apart."""
    if not len(query):
        return query, query
    bits = values.view(BITS[values.dtype]).to(torch.int64)
    if values.dtype.is_floating_point:
        width = 8 * values.element_size()
        bits ^= (bits >> (width - 1)) & ((1 << (width - 1)) - 1)  # sorts as the float does
    below = bits.amax() - bits
    width = int(below.amax()).bit_length()
    keys = (query << width) | below
    if width + batch.bit_length() < 32:
        keys = keys.to(torch.int32)  # half the time
    order = torch.sort(keys, stable=True).indices
    counts = torch.bincount(query, minlength=batch)
    start = counts.cumsum(0) - counts
    return order, torch.arange(len(query), device=query.device) - start.index_select(
        0, query.index_select(0, order)
    )
