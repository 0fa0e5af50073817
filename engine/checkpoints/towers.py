"""The towers of every kind of checkpoint, alike to call: pictures or token ids in, unit vectors out.

    image(pixel_values float32 [B, 3, H, W])             -> (coarse [B, d] or None, fine [B, D])
    text(input_ids int [B, T], attention_mask int [B, T]) -> the same

Projection and normalisation are inside; `coarse` is None where a checkpoint has no coarse head.
"""

from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from engine.model import HiVLPModel
from engine.model.modeling import mean_of_kept

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
        self.tower, self.heads = model.text_tower, model.text_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        states = self.tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = self.heads(mean_of_kept(states, attention_mask))
        return vectors.coarse, vectors.fine


class PooledImage(nn.Module):
    """The image tower of CLIP, which projects its pooled output, or of SigLIP, whose pooling is learned."""

    def __init__(self, tower: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection or nn.Identity()

    def forward(self, pixel_values: Tensor) -> Vectors:
        pooled = self.tower(pixel_values=pixel_values).pooler_output
        return None, F.normalize(self.projection(pooled), dim=-1)


class ClipText(nn.Module):
    """The text tower of CLIP: the state of the end token, which its configuration names, projected."""

    def __init__(self, tower: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        output: Any = self.tower(input_ids=input_ids, attention_mask=attention_mask)
        return None, F.normalize(self.projection(output.pooler_output), dim=-1)


class SiglipText(nn.Module):
    """The text tower of SigLIP: the state of the last position, projected inside the tower.

    It was trained without a mask, attending to its padding, so the mask is taken and left unused.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:  # noqa: ARG002
        return None, F.normalize(self.tower(input_ids=input_ids).pooler_output, dim=-1)
