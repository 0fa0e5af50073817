"""`Query`: words and a picture that are searched for together."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.checks import check_list, check_number, described
from engine.errors import InvalidArgument
from engine.queries.texts import refuse_url

if TYPE_CHECKING:
    from engine.images import ImageSource

UNIT = 1e-3  # how far from 1 the length of a unit vector may be


@dataclass(frozen=True, eq=False)
class Query:
    """One query of a text and an image: "like this picture, but in the rain".

    Args:
        text: words, or None; taken as they are, even where they name a picture.
        image: what it takes as an image, or None; a string is a path here.
        weights: of the text and of the image; negative ones turn away from it.

    With unit vectors t and i, as encoders make them, and weights v and w it is q = (v t + w i) / |v t + w i|, for
    the fine and for the coarse vectors alike. As <q, x> = (v <t, x> + w <i, x>) / |v t + w i|, it orders items
    by the weighted sum of both scores, and scores stay cosines. Where an encoder's vectors are not of unit
    length, the fine ones are scaled to it before they are added, and no sum is scaled after.
    """

    text: str | None = None
    image: "ImageSource | str | None" = None
    weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise InvalidArgument(
                "Query",
                expected="a text, an image, or both",
                got="neither",
                remedy="Pass text=… or image=….",
            )
        if self.text is not None and not isinstance(self.text, str):
            raise InvalidArgument(
                "text",
                expected="one text (str), or None",
                got=described(self.text),
                remedy="Pass a picture as image=…, and of several queries a list of engine.Query.",
            )
        if isinstance(self.image, str):
            refuse_url("image", self.image)
            object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "weights", _checked_weights(self.weights))


def _checked_weights(given: Any) -> tuple[float, float]:
    expected = "two finite numbers, of the text and of the image, not both 0"
    remedy = "For example: weights=(1, 0.5)."
    listed = check_list("weights", given, expected=expected)
    weights = [check_number("weights", w, expected=expected, remedy=remedy) for w in listed]
    if len(weights) != 2 or not all(map(math.isfinite, weights)) or not any(weights):
        raise InvalidArgument("weights", expected=expected, got=repr(given), remedy=remedy)
    return weights[0], weights[1]


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
