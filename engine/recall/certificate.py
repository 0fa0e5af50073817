"""Certificates: when a two-stage answer is known to be the exact one, from a bound on everything left out.

Let P `[D, d]` have orthonormal columns, p(x) = Pᵀx the coarse part of a vector and r(x) = x - P p(x) the rest.
For any item x and query q

    <q, x> = <p(q), p(x)> + <r(q), r(x)>  <=  <p(q), p(x)> + |r(q)| |r(x)|.

An item's coarse vector is p(x) stretched to the length of x, so its coarse score is <p(q), p(x)> times at least 1.
An item that is not a candidate has a coarse score of at most t, that of the last candidate, so its <p(q), p(x)> is
at most max(t, 0). Where the k-th best fine score exceeds max(t, 0) + |r(q)| max|r(x)|, no item left out belongs to
the answer.
What is stored is rounded, so the terms below bound that too: "certified" means the rows that `mode="exact"` finds.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.embeddings import Embeddings, as_tensor
from engine.tiers.snapshot import Snapshot
from kernels import TopK

ROUNDING = 2.0**-23  # twice float32's relative error, for sums of products in any order
ROWS_AT_A_TIME = 1 << 14
ORTHONORMAL = 1e-3  # a reduction farther from it is no projection


@dataclass(frozen=True)
class Bounds:
    """What holds for every item of an index, in float64.

    projection: P `[D, d]`.
    residual: max |r(x)|.  part: max |p(x)|.  fine: max |x|.
    coarse: the longest stored coarse vector.  error: how far one may be from the stretched p(x).
    """

    projection: Tensor
    residual: float
    part: float
    fine: float
    coarse: float
    error: float


_KNOWN: "WeakKeyDictionary[Snapshot, Bounds | None]" = WeakKeyDictionary()


def bounds_of(snapshot: Snapshot) -> Bounds | None:
    """Of a snapshot; every fine vector is read once, then the answer is kept as long as the snapshot is.

    None where coarse vectors are no projection of the fine ones, or int8.
    """
    if snapshot not in _KNOWN:
        _KNOWN[snapshot] = _bounds_of(snapshot)
    return _KNOWN[snapshot]


def _bounds_of(snapshot: Snapshot) -> Bounds | None:
    reduction = snapshot.projection.reduction
    if reduction is None or snapshot.index.header.quantization is not None:
        return None
    reduction = reduction.double().cpu()
    left, _, right = torch.linalg.svd(reduction, full_matrices=False)
    projection = left @ right  # the nearest matrix with orthonormal columns
    if (projection - reduction).abs().max() > ORTHONORMAL:
        return None
    longest = torch.zeros(5, dtype=torch.float64)
    for segment in snapshot.index.segments:
        for first in range(0, len(segment), ROWS_AT_A_TIME):
            rows = slice(first, first + ROWS_AT_A_TIME)
            fine = as_tensor(segment.fine[rows]).double()
            coarse = as_tensor(segment.coarse[rows]).double()
            part = fine @ projection
            whole, left = _length(fine), _length(part)
            stretched = part * torch.where(left > 0, whole / left, 1.0)[:, None]
            vectors = (fine - part @ projection.T, part, fine, coarse, coarse - stretched)
            found = torch.stack([torch.linalg.vector_norm(v, dim=1).max() for v in vectors])
            longest = torch.maximum(longest, found)
    return Bounds(projection, *longest.tolist())


def certified(bounds: Bounds, queries: Embeddings, candidates: TopK, best: TopK) -> Tensor:
    """bool `[B]`: whether `best` `[B, k]` is what `mode="exact"` finds.

    Args:
        queries: as the search used them: coarse `[B, d]`, fine `[B, D]`.
        candidates: `[B, C]`, best first by coarse scores.
    """
    assert queries.coarse is not None  # a two-stage search has them
    fine, coarse = queries.fine.double().cpu(), queries.coarse.double().cpu()
    own = fine @ bounds.projection
    length, coarse_length = _length(fine), _length(coarse)
    rest = _length(fine - own @ bounds.projection.T)
    rounded = coarse_length * (bounds.error + coarse.shape[1] * ROUNDING * bounds.coarse)
    stretched = candidates.scores[:, -1].double().cpu() + rounded
    outside = stretched.clamp(min=0) + _length(own - coarse) * bounds.part + rest * bounds.residual
    rounding = fine.shape[1] * ROUNDING * length * bounds.fine  # of either fine score
    inside = best.scores[:, -1].double().cpu()
    proven: Tensor = (best.rows[:, -1].cpu() >= 0) & (inside - rounding > outside + rounding)
    return proven


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return length
