"""Hard negatives, found with our own search: the concepts that a concept is confused with."""

import torch
from torch import Tensor

from kernels import coarse_topk


def confused_with(texts: Tensor, images: Tensor, count: int) -> Tensor:
    """The `count` concepts whose pictures score best for a concept's caption, itself left out: int64 `[C, count]`.

    Args:
        texts, images: float32 `[C, D]`, a caption and a picture of each concept. count: less than C.
    """
    rows = coarse_topk(texts, images, count + 1).rows
    own = rows == torch.arange(len(texts), device=rows.device)[:, None]
    others_first = own.int().argsort(dim=1, stable=True)
    return rows.gather(1, others_first)[:, :count]
