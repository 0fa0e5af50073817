"""`Embeddings`: the two vectors of a batch of queries or items."""

from dataclasses import dataclass

import torch
from torch import Tensor

NORMS_AT_A_TIME = 1 << 16  # vectors
LEAST_NORM = 1e-12  # as `F.normalize` has it: zeros stay zeros


@dataclass(frozen=True, eq=False)
class Embeddings:
    """`coarse` `[B, d]` and `fine` `[B, D]`, row i of both belonging together.

    `coarse` is None where only fine vectors are known: the index then derives it by its reduction.
    """

    coarse: Tensor | None
    fine: Tensor

    def __len__(self) -> int:
        return self.fine.shape[0]  # len() of a tensor is Python, and takes longer


def longest_of(vectors: Tensor, known: float = 0.0) -> float:
    """The length of the longest of the vectors `[N, D]`, or `known` if that is more; NaN where one holds NaN."""
    longest = torch.tensor(known, device=vectors.device)
    for part in vectors.split(NORMS_AT_A_TIME):
        if len(part):
            longest = torch.maximum(longest, torch.linalg.vector_norm(part.float(), dim=1).max())
    return float(longest)


def unit(vectors: Tensor) -> Tensor:
    """Vectors `[B, D]` scaled to length 1: the bits of `F.normalize`, in half its steps."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms.clamp_(min=LEAST_NORM)
