"""The towers of every kind of checkpoint, alike to call: pictures or token ids in, unit vectors out.

    image(pixel_values float32 [B, 3, H, W])             -> (coarse [B, d] or None, fine [B, D])
    text(input_ids int [B, T], attention_mask int [B, T]) -> the same

Projection and normalisation are inside; `coarse` is None where a checkpoint has no coarse head.
"""

from typing import TypeAlias

from torch import Tensor, nn

from engine.model import HiVLPModel
from engine.model.modeling import text_features

Vectors: TypeAlias = tuple[Tensor | None, Tensor]


class HiVLPImage(nn.Module):
    """Image tower and heads of our own model."""

    def __init__(self, model: HiVLPModel) -> None:
        super().__init__()
        self.tower, self.heads = model.image_tower, model.image_heads

    def forward(self, pixel_values: Tensor) -> Vectors:
        vectors = self.heads(self.tower(pixel_values))
        return vectors.coarse, vectors.fine


class HiVLPText(nn.Module):
    """Text tower and heads of our own model."""

    def __init__(self, model: HiVLPModel) -> None:
        super().__init__()
        self.tower, self.coarse_pieces = model.text_tower, model.coarse_pieces
        self.heads = model.text_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        read = text_features(self.tower, self.coarse_pieces, input_ids, attention_mask)
        vectors = self.heads(*read)
        return vectors.coarse, vectors.fine


class FineOnly(nn.Module):
    """A tower with no coarse head: one of `engine.model.backbone`."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, *inputs: Tensor, **named: Tensor) -> Vectors:
        return None, self.tower(*inputs, **named)
