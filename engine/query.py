"""`Query`: words and a picture that are searched for together."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.errors import InvalidArgument

if TYPE_CHECKING:
    from engine.images import ImageSource

UNIT = 1e-3  # how far from 1 the length of a unit vector may be


@dataclass(frozen=True, eq=False)
class Query:
    """One query of a text and an image: "like this picture, but in the rain".

    Args:
        text: what `Retriever.search` takes as text, or None.
        image: what it takes as an image, or None.
        weights: of the text and of the image; negative ones turn away from it.

    With unit vectors t and i, as encoders make them, and weights v and w it is q = (v t + w i) / |v t + w i|, for
    the fine and for the coarse vectors alike. As <q, x> = (v <t, x> + w <i, x>) / |v t + w i|, it orders items
    by the weighted sum of both scores, and scores stay cosines. Where an encoder's vectors are not of unit
    length, the fine ones are scaled to it before they are added, and no sum is scaled after.
    """

    text: str | None = None
    image: "ImageSource | None" = None
    weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise InvalidArgument(
                "Query",
                expected="a text, an image, or both",
                got="neither",
                remedy="Pass text=… or image=….",
            )
        good = len(self.weights) == 2 and all(map(math.isfinite, self.weights))
        if not good or not any(self.weights):
            raise InvalidArgument(
                "weights",
                expected="two finite numbers, of the text and of the image, not both 0",
                got=repr(self.weights),
                remedy="For example: weights=(1, 0.5).",
            )


def weighted_sum(vectors: Tensor, weights: Tensor, *, fine: bool) -> Tensor:
    """The vector `[D]` of a query whose parts have `vectors` `[P, D]` and `weights` `[P]`: see `Query`.

    Raises InvalidArgument where nothing is left: the parts cancel each other.
    """
    unit = bool((torch.linalg.vector_norm(vectors, dim=1) - 1).abs().max() < UNIT)
    whole = weights @ (F.normalize(vectors, dim=1) if fine else vectors)
    length = torch.linalg.vector_norm(whole)
    if not length > UNIT * weights.abs().max():
        raise InvalidArgument(
            "weights",
            expected="weights under which text and image do not cancel each other",
            got=str(weights.tolist()),
            remedy="Change one of them.",
        )
    return whole / length if unit else whole
