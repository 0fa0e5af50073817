"""`Embeddings`: the two vectors of a batch of queries or items; and vectors as torch and as NumPy hold them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.index.manifest import Array

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


def as_tensor(array: Array) -> Tensor:
    """A CPU tensor of the same memory; uint16 holds the bits of bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> Array:
    """The inverse of `as_tensor`."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
