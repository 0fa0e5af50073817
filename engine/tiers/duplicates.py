"""Leaving out near-duplicates: hits too much like a better one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.errors import InvalidArgument
from kernels import TopK

BLOCK = 4096  # hits compared at a time


def check_threshold(threshold: Any) -> float | None:
    """A cosine above 0 and at most 1, beyond which two items count as the same; None where none do."""
    if threshold is None:
        return None
    if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise InvalidArgument(
            "duplicates",
            expected="a cosine above 0 and at most 1",
            got=repr(threshold),
            remedy="For example: duplicates=0.98.",
        )
    return float(threshold)


def without_duplicates(best: TopK, parts: Sequence[Tensor], k: int, threshold: float) -> TopK:
    """The first k hits of each query that are not near-duplicates.

    Hits are taken greedily, best first; one is left out where the cosine of its fine vector and that of a hit taken
    before exceeds `threshold` (a hit that was left out suppresses nobody). Cosines are in float32, of the stored
    vectors; a vector of length 0 is like none.

    Args:
        best: scores and rows `[B, C]`, best first, -1 where there is none.
        parts: tensors `[n, D]` that hold the fine vectors of all rows between them.

    Memory, one query at a time: the vectors of the hits taken, and BLOCK x D and BLOCK x (BLOCK + k) floats.
    """
    scores = best.scores.new_full((len(best.rows), k), -torch.inf)
    rows = best.rows.new_full((len(best.rows), k), -1)
    for query, found in enumerate(best.rows):
        hits = found[found >= 0]
        taken: list[int] = []
        before: list[Tensor] = []  # the vectors of those taken in earlier blocks
        for first in range(0, len(hits), BLOCK):
            vectors = F.normalize(vectors_at(parts, hits[first : first + BLOCK].cpu()), dim=1)
            alike = (vectors @ vectors.T > threshold).numpy()
            shut = torch.zeros(len(vectors), dtype=torch.bool)
            for part in before:
                shut |= (vectors @ part.T > threshold).any(dim=1)
            here: list[int] = []
            for place in (~shut).nonzero()[:, 0].tolist():
                if len(taken) + len(here) == k:
                    break
                if not alike[place, here].any():
                    here.append(place)
            taken += [first + place for place in here]
            if len(taken) == k:
                break
            before.append(vectors[here])
        rows[query, : len(taken)] = hits[taken]
        scores[query, : len(taken)] = best.scores[query, taken]
    return TopK(scores, rows)


def vectors_at(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """The vectors of rows `[n]`, float32 `[n, D]` on the CPU, out of tensors that hold them one after the other."""
    found = torch.empty(len(rows), parts[0].shape[1] if parts else 0)
    first = 0
    for part in parts:
        here = (rows >= first) & (rows < first + len(part))
        found[here] = part[(rows[here] - first).to(part.device)].float().cpu()
        first += len(part)
    return found
