"""Vectors of past batches, kept as further columns of the contrastive loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """The last pairs seen: per level image and text `[Q, dim]`, constants, and their concepts int64 `[Q]`."""

    image: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    concepts: Tensor

    def followed_by(
        self,
        image: Mapping[str, Tensor],
        text: Mapping[str, Tensor],
        concepts: Tensor,
        length: int,
    ) -> "Past":
        """These pairs and a batch behind them, the oldest dropped beyond `length`."""
        return Past(
            {level: _tail(self.image[level], image[level], length) for level in self.image},
            {level: _tail(self.text[level], text[level], length) for level in self.text},
            _tail(self.concepts, concepts, length),
        )

    @staticmethod
    def empty(image: Mapping[str, Tensor], text: Mapping[str, Tensor], concepts: Tensor) -> "Past":
        """No pairs yet, of these levels, dims and device."""
        return Past(
            {level: vectors[:0].detach() for level, vectors in image.items()},
            {level: vectors[:0].detach() for level, vectors in text.items()},
            concepts[:0],
        )


def _tail(old: Tensor, new: Tensor, length: int) -> Tensor:
    both = torch.cat((old, new.detach()))
    return both[max(len(both) - length, 0) :]
