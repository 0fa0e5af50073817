"""The towers of CLIP and SigLIP, alike to call: pictures or token ids in, unit vectors out."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PretrainedConfig


def backbone_towers(model: Any) -> tuple[nn.Module, nn.Module]:
    """The image and the text tower of a CLIP or SigLIP model, projection and normalisation inside."""
    if model.config.model_type == "siglip":
        return PooledImage(model.vision_model), SiglipText(model.text_model)
    return (
        PooledImage(model.vision_model, model.visual_projection),
        ClipText(model.text_model, model.text_projection),
    )


def new_backbone(config: PretrainedConfig) -> Any:
    """The model that a configuration describes, its weights not trained."""
    return AutoModel.from_config(config, trust_remote_code=False)


def backbone_dim(config: Any) -> int:
    """Length of the embeddings of both towers."""
    if config.model_type == "siglip":
        return int(config.vision_config.hidden_size)
    return int(config.projection_dim)


class PooledImage(nn.Module):
    """The image tower of CLIP, which projects its pooled output, or of SigLIP, whose pooling is learned."""

    def __init__(self, tower: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection or nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        pooled = self.tower(pixel_values=pixel_values).pooler_output
        return F.normalize(self.projection(pooled), dim=-1)


class ClipText(nn.Module):
    """The text tower of CLIP: the state of the end token, which its configuration names, projected."""

    def __init__(self, tower: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Any = self.tower(input_ids=input_ids, attention_mask=attention_mask)
        return F.normalize(self.projection(output.pooler_output), dim=-1)


class SiglipText(nn.Module):
    """The text tower of SigLIP: the state of the last position, projected inside the tower.

    It was trained without a mask, attending to its padding, so the mask is taken and left unused.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        return F.normalize(self.tower(input_ids=input_ids).pooler_output, dim=-1)
