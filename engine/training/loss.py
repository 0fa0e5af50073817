"""The training objective. The losses of HiVLP itself are not public; these are our own choices, measured.

For each level (a coarse and a fine vector by default; any number, any dims) of a batch of B pairs:

    logits[i, j] = s · <image_i, text_j>            s = exp(log_scale), learned, at most 100
    positives[i, j] = (concept_i == concept_j)      without concepts: i == j

    softmax   mean over i of  -Σ_j p_ij log softmax_j(logits_ij),  p_ij = positives_ij / Σ_j positives_ij,
              and the same from text to image, averaged: CLIP's loss (arXiv 2103.00020) with several positives
              (arXiv 2004.11362), so that two captions of one picture, or two pictures of one thing, are no
              negatives of each other
    sigmoid   Σ_ij softplus(-z_ij (logits_ij + bias)) / B,  z = 1 for positives, else -1: SigLIP (arXiv 2303.15343)

    loss = Σ_level weight · contrastive  +  distillation · Σ_level below the last  KL(teacher ‖ level)

The teacher is the last level, held constant: the softmax of its logits, both ways. It tells the coarse vectors how
near the misses are, not only which pair is right.

A queue (arXiv 1911.05722, without the momentum encoder) adds the vectors of past batches as further columns,
held constant.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.queue import Past

MAX_SCALE = 100.0  # CLIP's clamp: beyond it the softmax saturates and training diverges


def hierarchical_loss(
    image: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    log_scales: Mapping[str, Tensor],
    *,
    concepts: Tensor | None = None,
    weights: Mapping[str, float] | None = None,
    distillation: float = 0.0,
    biases: Mapping[str, Tensor] | None = None,
    past: Past | None = None,
) -> Tensor:
    """The weighted sum over the levels of the contrastive loss, plus distillation; a scalar.

    Args:
        image, text: per level, float `[B, dim]` of unit rows; row i of one belongs to row i of the other.
        log_scales: per level, the logarithm of the inverse temperature, a learned scalar. Its order is that of
            the levels: the last is the teacher.
        concepts: int64 `[B]`; rows of one concept are positives of each other. None: every row is its own.
        weights: per level; default: equal, summing to 1.
        distillation: how much the other levels' rankings are drawn to the teacher's.
        biases: per level, a learned scalar; given, the loss is the sigmoid one.
        past: vectors of earlier batches, as further negatives (and positives, where concepts agree).
    """
    levels = list(log_scales)
    weights = weights or dict.fromkeys(levels, 1 / len(levels))
    own = torch.arange(len(image[levels[0]]), device=image[levels[0]].device)
    concepts = own if concepts is None else concepts
    total = torch.zeros((), device=own.device)
    positives = concepts[:, None] == _columns(concepts, past)[None, :]
    teacher: list[Tensor] = []
    for level in reversed(levels):
        both_ways = _logits(image[level], text[level], log_scales[level], level, past)
        bias = None if biases is None else biases[level]
        parts = [contrastive_loss(logits, positives, bias) for logits in both_ways]
        total = total + weights[level] * torch.stack(parts).mean()
        if not teacher:
            teacher = [logits.detach() for logits in both_ways]
        elif distillation:
            pairs = zip(both_ways, teacher, strict=True)
            drawn = [ranking_loss(logits, told) for logits, told in pairs]
            total = total + distillation * torch.stack(drawn).mean()
    return total


def contrastive_loss(logits: Tensor, positives: Tensor, bias: Tensor | None = None) -> Tensor:
    """One direction, one level: logits and bool positives `[B, M]` to a scalar. With a bias: the sigmoid loss."""
    if bias is not None:
        signs = torch.where(positives, 1.0, -1.0)
        return F.softplus(-signs * (logits + bias)).sum() / len(logits)
    # -Σ_j p_ij log softmax_j = logsumexp_j - Σ_j p_ij logits_ij, and few p_ij are not 0: no other [B, M] is made
    rows, columns = positives.nonzero(as_tuple=True)
    shares = 1 / torch.bincount(rows, minlength=len(logits)).to(logits.dtype)
    own = logits[rows, columns] @ shares[rows]
    return (logits.logsumexp(dim=1).sum() - own) / len(logits)


def ranking_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(logits)) along the rows, averaged: `[B, M]` twice to a scalar."""
    return F.kl_div(
        logits.log_softmax(dim=1),
        teacher.log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _logits(
    image: Tensor, text: Tensor, log_scale: Tensor, level: str, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Image to text and text to image, `[B, M]` each: the batch's own columns first, then the queue's."""
    scale = log_scale.exp().clamp(max=MAX_SCALE)
    if past is None:
        logits = scale * image @ text.T
        return logits, logits.T
    texts = torch.cat((text, past.text[level]))
    images = torch.cat((image, past.image[level]))
    return scale * image @ texts.T, scale * text @ images.T


def _columns(concepts: Tensor, past: Past | None) -> Tensor:
    return concepts if past is None else torch.cat((concepts, past.concepts))
