"""One query at a time: what `coarse.py` does, in as few steps as one query needs.

The k-th largest maximum of groups of neighbouring rows is a product that k items reach; only rows whose
products may lie as high are looked at. Integers are exact: a hit is one int64 key, score * 2^32 - row, so
score descending, row ascending. What floats leave is scored in the fixed order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels._torch.product import MAX_NORM, Tiles
from kernels._torch.survivors import LOWEST, flagged, score_lists
from kernels.topk import TopK, best_items, no_hits

__all__ = ["best_of_one", "best_of_one_by_bounds"]

LARGEST_GROUP = 64  # rows; Tiles pads to as many
HIDDEN = -(2**31)  # below every sum of products
ROWS = 1 << 21  # items in a tile
FOLDED = 8  # values among which the k-th largest is looked for, times k
DIGITS = {torch.bfloat16: 8, torch.float32: 24}  # of their significands
TINY = 2.0**-120  # beside the slack, nothing
MAX_PENDING = 1 << 16  # rows that may wait to be scored; more tie or nearly so


def best_of_one(
    query: Tensor, items: Tensor, k: int, mask: Tensor | None, rows: int = ROWS
) -> TopK:
    """The best k, scores [1, k] and rows [1, k]: query int8 [1, d], d <= EXACT_WIDTH, mask [N] or [1, N]."""
    count, width = items.shape
    column = query.new_empty(width, 1).copy_(query.t())
    group = _group(min(count, rows), k)
    padded = -(-min(count, rows) // group) * group
    products = torch.empty(padded, 1, dtype=torch.int32, device=items.device)
    best = torch.empty(0, dtype=torch.int64, device=items.device)
    least = HIDDEN + 1
    for first in range(0, count, rows):
        chunk, at_rows, shown = _allowed(items, mask, first, rows)
        torch._int_mm(chunk.contiguous(), column, out=products[: len(chunk)])
        products[len(chunk) :] = HIDDEN
        if shown is not None:
            _hide(products[: len(chunk), 0], shown)
        groups = products.view(-1, group)
        maxima = groups.amax(1)
        if len(maxima) >= k:
            least = max(least, int(_kth(maxima, k)))
        row, product = _reaching(groups, maxima, least, first, at_rows)
        keys = (product.long() << 32) - row
        if first:
            keys = torch.cat((best, keys))
        best = keys.topk(min(k, len(keys))).values
        if len(best) == k and first + rows < count:
            least = max(least, _score(int(best[-1])))
    scores = (best + (2**32 - 1)) >> 32
    found = TopK(scores.float()[None], ((scores << 32) - best)[None])
    if len(best) == k:
        return found
    out = no_hits(1, k, items.device)
    out.scores[:, : len(best)], out.rows[:, : len(best)] = found
    return out


def _allowed(
    items: Tensor, mask: Tensor | None, first: int, rows: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The next items: all, and which are shown if not all are; or, where few are, these and their places."""
    chunk = items[first : first + rows]
    if mask is None:
        return chunk, None, None
    shown = mask[..., first : first + rows].reshape(-1)
    if 4 * int(torch.count_nonzero(shown)) >= len(shown):
        return chunk, None, shown
    at = flagged(shown)
    return chunk.index_select(0, at), at, None


def _group(rows: int, k: int) -> int:
    """Rows of a group: as many as leave 2 k groups, so that a maximum says something of k items."""
    group = LARGEST_GROUP
    while group > 4 and rows < 2 * k * group:
        group //= 2
    return group


def _kth(values: Tensor, k: int) -> Tensor:
    """What k of these values are not below: the k-th largest or, of many, somewhat less, which is sooner found."""
    folds = len(values) // (FOLDED * k)
    if folds > 1:  # k of the maxima of values that lie far apart are k of the values
        length = len(values) // folds
        values = values[: folds * length].view(folds, length).amax(0)
    return values.topk(k, sorted=False).values.amin()


def _hide(products: Tensor, shown: Tensor) -> None:
    """Make the products that are not shown the least there is: without branches, which chance would mislead."""
    most = shown.to(products.dtype)  # 1 and 0 become the largest and the least
    if products.dtype.is_floating_point:
        most.mul_(2).sub_(1).mul_(torch.inf)
    else:
        most.sub_(1).bitwise_xor_(-HIDDEN - 1)
    torch.minimum(products, most, out=products)


def _reaching(
    groups: Tensor, maxima: Tensor, limit: float, first: int, places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows, ascending, and products of what reaches `limit` in groups [n, G] with these maxima [n].

    The tile begins at row `first`, or holds `places` after it.
    """
    group = groups.shape[1]
    which = flagged(maxima >= limit)
    entries = groups.index_select(0, which)
    at = flagged(entries >= limit)
    nth = at // group
    row = torch.add(at, which.index_select(0, nth) - nth, alpha=group)  # past groups left out
    row = row if places is None else places.index_select(0, row)
    return row + first if first else row, entries.view(-1).index_select(0, at)


def _score(key: int) -> int:
    return (key + 2**32 - 1) >> 32


def best_of_one_by_bounds(
    query: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    rows: int,
    fast: torch.dtype,
    max_norm: float | None,
) -> TopK | None:
    """As `best_of_one` for floats [1, d], multiplied in `fast`; None where it takes the steps of `coarse.py`.

    That is for a query or items with NaN, inf or huge norms, and for very many items that all but tie.
    """
    if not len(items):
        return no_hits(1, k, items.device)
    if not float(torch.linalg.vector_norm(query.float())) <= MAX_NORM:
        return None
    tiles = Tiles(query, rows, 1, fast, max_norm)
    group = _group(min(len(items), rows), k)
    floor = -math.inf  # k items' scores are not below it
    kept: list[tuple[Tensor, Tensor]] = []  # rows, ascending, and their products
    pending = 0
    for first in range(0, len(items), rows):
        chunk, at_rows, shown = _allowed(items, mask, first, rows)
        if not len(chunk):
            continue
        tile, loud = tiles.of(chunk)
        if loud is not None and len(loud):
            return None
        if shown is not None:
            _hide(tile[: len(chunk), 0], shown)
        slack = float(tiles.slack[0])
        groups = tile.view(-1, group)
        maxima = groups.amax(1)
        if len(maxima) >= k:
            floor = max(floor, _reached(maxima, k) - slack)
        limit = _under(floor - slack, tile.dtype)
        kept.append(_reaching(groups, maxima, limit, first, at_rows))
        pending += len(kept[-1][0])
        if pending > MAX_PENDING:
            return None
    if not kept:
        return no_hits(1, k, items.device)
    row, product = (
        torch.cat(part) if len(part) > 1 else part[0] for part in zip(*kept, strict=True)
    )
    if len(row) > 2 * k:  # else to score them takes no longer than to leave some out
        slack = float(tiles.slack[0])
        floor = max(floor, _reached(product, k) - slack)
        at = flagged(product >= _under(floor - slack, product.dtype))
        row = row.index_select(0, at)
    return best_items(score_lists(query, items, row[None]), row[None], k)


def _reached(products: Tensor, k: int) -> float:
    """What k of the products were not below before they were rounded."""
    return _under(float(_kth(products, k)), products.dtype)


def _under(value: float, dtype: torch.dtype) -> float:
    """A number that the dtype holds, a step or two below the value; finite, even of NaN and inf."""
    if value == 0:
        return -TINY
    digits = DIGITS[dtype]
    fraction, exponent = math.frexp(min(max(LOWEST, value), -LOWEST))  # NaN: LOWEST
    return math.ldexp(math.ceil(math.ldexp(fraction, digits)) - 1, exponent - digits)
