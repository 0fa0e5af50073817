"""Coarse vectors for those who have only fine ones: a linear map learned from the data.

Queries are mapped as they are; items are then stretched to the length that they had. A map to few dims cuts a part
off each item, of one more than of another, and an item of which little is left scores low with every query, its own
neighbours' too. Stretched, the coarse score of unit vectors is the cosine in the few dims. On vectors of pictures
(N = 100,000, D = 768, 64 dims) 128 candidates hold 99.7 % of the best ten instead of 97.0.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["pca", "prefix"]

COARSE_DIM = 64  # unless asked otherwise
# An index that learns its reduction as it grows learns it anew, each time it has doubled, until it holds so many
# items: what few items show is too little to keep, and so few are quickly learned from.
SETTLED = 4096
LARGE = 2.0**40
LOOKED_AT = 16_384  # rows, to measure what is lost
SAMPLE_ROWS = 262_144  # the second moment of D <= 1536 dims is settled long before


def learn_reduction(
    fine: Tensor, dim: int, kind: Reduction = "pca", queries: Tensor | None = None
) -> Tensor:
    """A matrix with orthonormal columns, float32 `[D, dim]`, for queries' coarse = fine @ matrix; items: `reduced`.

    "pca": the leading eigenvectors of the second moment E[x xT]. Not centred, since inner products are to be
    kept: no other orthogonal projection to `dim` dims loses less of them, in the mean square, over pairs drawn
    from this data. "prefix": the first `dim` coordinates, for vectors trained that way (Matryoshka, arXiv
    2205.13147). At most 262,144 rows are looked at, evenly spaced; the result does not depend on chance.

    queries: `[B, D]`, a sample of what will be asked. Then the axes are those that keep the inner products of such
    queries with such items: where sentences search pictures, what pictures vary in most may be what no sentence
    speaks of. See docs/decisions/0012-what-is-learned.md.
    """
    width = fine.shape[1]
    if kind == "prefix":
        return torch.eye(width, dim)
    moment = _moment(fine)
    if queries is None or not len(queries):
        return _leading(moment, dim)
    # E (q·x - q·PPᵀx)² over pairs is least for the leading axes of the product of both moments, where they have one
    # set of axes. Queries are centred: what all of them share is most of a sentence's vector and tells none apart.
    both = moment @ _moment(queries - queries.mean(dim=0))
    return _leading(both + both.T, dim)


def lost_share(fine: Tensor, matrix: Tensor) -> float:
    """The share of the squared length of items `[N, D]` that `matrix` `[D, d]` cuts off; 0 where there is none."""
    rows = fine[:: -(-max(len(fine), 1) // LOOKED_AT)].float()
    whole, left = (
        float(torch.linalg.vector_norm(part).double())
        for part in (rows, rows @ matrix.to(rows.device))
    )
    return (
        min(1.0, max(0.0, 1 - (left / whole) ** 2)) if whole > 0 and math.isfinite(whole) else 0.0
    )


def _moment(fine: Tensor) -> Tensor:
    """The second moment of `[N, D]`, times any number: float64 `[D, D]`."""
    width = fine.shape[1]
    moment = torch.zeros(width, width, dtype=torch.float64)
    # Squares of huge numbers are no numbers; a power of two, and the same for all, moves no eigenvector.
    largest_number = float(fine.abs().max()) if fine.numel() else 0.0
    scale = 2.0 ** -math.frexp(largest_number)[1] if largest_number > LARGE else 1.0
    for chunk in fine[:: -(-max(len(fine), 1) // SAMPLE_ROWS)].split(16_384):
        rows = chunk.to(device="cpu", dtype=torch.float32) * scale
        moment += (rows.T @ rows).double()
    return moment / max(float(moment.diagonal().sum()), 1e-300)


def _leading(moment: Tensor, dim: int) -> Tensor:
    """Its leading eigenvectors, float32 `[D, dim]`."""
    vectors = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :dim]
    # An eigenvector's sign is free; fix it so that the same data gives the same index everywhere.
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    rotation: Tensor = vectors * vectors.gather(0, largest).sign()
    return rotation.float().contiguous()


def reduced(fine: Tensor, matrix: Tensor) -> Tensor:
    """Coarse vectors of items, float32 `[N, d]`: fine `[N, D]` @ matrix `[D, d]`, each as long as in fine."""
    made = torch.empty(len(fine), matrix.shape[1], device=fine.device)
    for part, coarse in zip(
        fine.split(16_384), made.split(16_384), strict=True
    ):  # no second copy of all
        left = part.float() @ matrix
        lengths = [torch.linalg.vector_norm(v, dim=1, dtype=torch.float64) for v in (part, left)]
        stretch = torch.where(lengths[1] > 0, lengths[0] / lengths[1], 1.0)
        torch.mul(left, stretch[:, None].float(), out=coarse)
    return made
