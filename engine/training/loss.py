"""The training objective. The losses of HiVLP itself are not public; this one is ours."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SCALE = 100.0  # CLIP's clamp: beyond it the softmax saturates and training diverges


def hierarchical_loss(
    image: Mapping[str, Tensor], text: Mapping[str, Tensor], log_scales: Mapping[str, Tensor]
) -> Tensor:
    """Mean over the levels ("coarse", "fine") of the symmetric contrastive loss at that level.

    Args:
        image, text: per level, float `[B, dim]` of unit rows; row i of one belongs to row i of the other and to
            no other row, so a batch must not hold two rows that show the same thing.
        log_scales: per level, the logarithm of the inverse temperature, a learned scalar.

    Returns:
        A scalar.
    """
    levels = [
        contrastive_loss(image[level], text[level], log_scale)
        for level, log_scale in log_scales.items()
    ]
    return torch.stack(levels).mean()


def contrastive_loss(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """InfoNCE in both directions, as CLIP's (arXiv 2103.00020): `[B, dim]` pairs to a scalar.

    The mean of -log softmax(exp(log_scale) * image @ text.T) at the diagonal, along rows and along columns.
    """
    logits = log_scale.exp().clamp(max=MAX_SCALE) * image @ text.T
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
