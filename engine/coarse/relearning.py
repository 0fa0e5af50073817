"""A reduction that the index made itself, learned anew while the index is small and grows."""

import torch
from torch import Tensor

from engine.coarse.reduction import SETTLED, learn_reduction, reduced
from engine.coarse.rounding import round_coarse
from engine.embeddings import as_array
from engine.index import Index


def learns_from(index: Index, count: int) -> bool:
    """Whether so many items more change the reduction: the index made it, is small, and passes a power of two.

    So what it was learned from is more than half of the items, and pictures that come one at a time, of which
    each would make it anew, are quickly added. The numbers alone decide: opening the index changes nothing.
    """
    own = index.checkpoint is not None and index.reduction is not None
    held = len(index)
    return own and held < SETTLED and (held + count).bit_length() > held.bit_length()


def relearned(index: Index, fine: Tensor) -> Index:
    """`index`, its reduction learned from its items and from `fine` `[B, D]`, which may follow."""
    head, items = index.header, torch.from_numpy(index.fine).float()
    matrix = learn_reduction(torch.cat([items, fine.cpu().float()]), head.coarse_dim)
    coarse, quantization = reduced(items, matrix), head.quantization
    if quantization is None:
        coarse = coarse.to(getattr(torch, head.coarse_dtype))
    elif len(items):  # else those that follow decide
        every = torch.cat([coarse, reduced(fine.cpu(), matrix)])
        rounded, quantization = round_coarse(every, "int8")
        coarse = rounded[: len(items)]
    parts = coarse.split([len(segment) for segment in index.segments])
    return index.reduced(matrix.numpy(), [as_array(part) for part in parts], quantization)
