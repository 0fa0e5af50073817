"""The one fixed order in which a score is summed, so that it is the same bits everywhere.

The products are rounded to float32 one by one (they are exact for float16, bfloat16 and
float8), padded with zeros to P, the next power of two of d, and summed by halves: entry j
takes entry j + P/2, then j + P/4, ... until entry 0 is the score. No fused multiply-add.
int8 is summed in int32, where order does not matter, and then rounded to float32 once.

Neither B, N, a block size, a batch size nor the backend enters: a row's score is the same bits
alone or among 2,048 queries, on every CPU and every GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accumulator", "score_pairs", "sum_terms"]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which vectors of this dtype are multiplied and summed."""
    return torch.int32 if dtype == torch.int8 else torch.float32


def score_pairs(queries: Tensor, items: Tensor) -> Tensor:
    """Inner products over the last axis in the fixed order.

    queries [..., d] and items [..., d], leading axes broadcast -> scores [...] float32.
    Memory: one float32 (or int32) copy of the broadcast shape.
    """
    wide = accumulator(items.dtype)
    return sum_terms(queries.to(wide) * items.to(wide))


def sum_terms(terms: Tensor) -> Tensor:
    """The products [..., d] of `accumulator`'s dtype summed by halves, in place -> scores [...] float32."""
    width = terms.shape[-1]
    while width > 1:
        half = 1 << ((width - 1).bit_length() - 1)  # the largest power of two below width
        terms[..., : width - half].add_(terms[..., half:width])  # += would write it twice
        width = half
    return terms[..., 0].to(torch.float32)
