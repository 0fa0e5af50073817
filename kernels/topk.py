"""The result type of both searches, and the tie rule.

Tie rule: the score descending, then the row ascending. A place with no hit holds row -1 and
score -inf. An item whose score is NaN or -inf is never a hit. A zero score is +0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import isfinite
from typing import NamedTuple, ParamSpec

import torch
from torch import Tensor

__all__ = ["TopK", "best_hits", "best_items", "inferring", "no_hits", "ordinary"]

P = ParamSpec("P")


class TopK(NamedTuple):
    """The best k items of every query, best first; equal scores: the lower row first."""

    scores: Tensor  # [B, k] float32, -inf where there is no hit
    rows: Tensor  # [B, k] int64, -1 where there is no hit


def no_hits(batch: int, k: int, device: torch.device) -> TopK:
    """A result `[batch, k]` that holds no hit yet."""
    return TopK(
        torch.full((batch, k), -torch.inf, dtype=torch.float32, device=device),
        torch.full((batch, k), -1, dtype=torch.int64, device=device),
    )


def best_hits(scores: Tensor, rows: Tensor, k: int) -> TopK:
    """The k best columns under the tie rule, padded to k.

    scores [B, M] float32, rows [B, M] int64. Among equal scores the columns must already stand
    in ascending row order: then one stable sort is the whole tie rule.
    """
    hit = (scores > -torch.inf) & (rows >= 0)  # false for NaN too
    scores, order = torch.sort(
        torch.where(hit, scores, -torch.inf), dim=1, descending=True, stable=True
    )
    scores, order = scores[:, :k], order[:, :k]
    kept = torch.where(scores > -torch.inf, rows.gather(1, order), -1)
    missing = k - scores.shape[1]
    if missing > 0:
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        kept = torch.nn.functional.pad(kept, (0, missing), value=-1)
    return TopK(scores + 0.0, kept)  # + 0.0: -0.0 becomes +0.0, equal scores have equal bits


def best_items(scores: Tensor, rows: Tensor, k: int) -> TopK:
    """As `best_hits`, in half its steps where all rows are there and the k best scores are finite."""
    ranked, order = torch.sort(scores, dim=1, descending=True, stable=True)
    ranked = ranked[:, :k]
    if ranked.shape[1] < k or not isfinite(float(ranked.sum())):  # NaN comes first, -inf last
        return best_hits(scores, rows, k)
    return TopK(ranked + 0.0, rows.gather(1, order[:, :k]))


def inferring(search: Callable[P, TopK]) -> Callable[P, TopK]:
    """`search` in inference mode: of a hundred small steps, a sixth is what autograd writes down of each."""

    @wraps(search)
    def run(*args: P.args, **kwargs: P.kwargs) -> TopK:
        with torch.inference_mode():
            found = search(*args, **kwargs)
        return ordinary(found)

    return run


def ordinary(found: TopK) -> TopK:
    """`found` in tensors that may be written to and trained with, once inference mode that made them is over."""
    if torch.is_inference_mode_enabled() or not found.scores.is_inference():
        return found
    return TopK(found.scores.clone(), found.rows.clone())
