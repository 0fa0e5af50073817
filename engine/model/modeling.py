"""`HiVLPModel`: two towers, each ending in a coarse and a fine vector of unit length.

The idea of hierarchical vectors is that of HiVLP (arXiv 2205.12105); its dimensions and losses are not public,
so those here are our own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from engine.model.configuration import HiVLPConfig
from engine.model.image_tower import FEATURE_DIM, EfficientNetLite0

INITIAL_TEMPERATURE = 0.07  # CLIP's (arXiv 2103.00020); learned from there, one a level


@dataclass
class HiVLPFeatures(ModelOutput):
    """`coarse` float32 `[B, d]` and `fine` float32 `[B, D]`, each row of unit length."""

    coarse: Tensor | None = None
    fine: Tensor | None = None


@dataclass
class HiVLPOutput(ModelOutput):
    """The vectors of both modalities."""

    image: HiVLPFeatures | None = None
    text: HiVLPFeatures | None = None


class HierarchicalHeads(nn.Module):
    """Tower features `[B, F]` to a coarse `[B, d]` and a fine `[B, D]` vector, through one shared layer."""

    def __init__(self, feature_dim: int, config: HiVLPConfig) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.LayerNorm(feature_dim),
            nn.Dropout(config.dropout),
            nn.Linear(feature_dim, config.head_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.coarse = nn.Linear(config.head_dim, config.coarse_dim, bias=False)
        self.fine = nn.Linear(config.head_dim, config.fine_dim, bias=False)
        self.normalize = config.normalize

    def forward(self, features: Tensor) -> HiVLPFeatures:
        shared = self.trunk(features)
        coarse, fine = self.coarse(shared), self.fine(shared)
        if self.normalize:
            coarse, fine = F.normalize(coarse, dim=-1), F.normalize(fine, dim=-1)
        return HiVLPFeatures(coarse=coarse, fine=fine)


class HiVLPModel(PreTrainedModel):
    """A dual encoder with hierarchical vectors, loadable with `AutoModel.from_pretrained`."""

    config_class = HiVLPConfig
    base_model_prefix = "hivlp"
    main_input_name = "pixel_values"

    def __init__(self, config: HiVLPConfig) -> None:
        super().__init__(config)
        self.image_tower = EfficientNetLite0()
        self.text_tower = AutoModel.from_config(config.text_config, **_without_pooler(config))
        self.image_heads = HierarchicalHeads(FEATURE_DIM, config)
        self.text_heads = HierarchicalHeads(config.text_config.hidden_size, config)
        initial = torch.tensor(1 / INITIAL_TEMPERATURE).log()
        self.logit_scales = nn.ParameterDict(
            {level: nn.Parameter(initial.clone()) for level in ("coarse", "fine")}
        )
        self.post_init()

    def text_tower_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[B, T]` ids to the mean `[B, hidden]` of the token states that `attention_mask` keeps."""
        states = self.text_tower(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return mean_of_kept(states, attention_mask)

    def get_image_features(self, pixel_values: Tensor) -> HiVLPFeatures:
        """Pictures `[B, 3, H, W]`, preprocessed by the checkpoint's image processor."""
        features: HiVLPFeatures = self.image_heads(self.image_tower(pixel_values))
        return features

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> HiVLPFeatures:
        """Token ids `[B, T]` and their mask (1 = a token, 0 = padding)."""
        features: HiVLPFeatures = self.text_heads(
            self.text_tower_features(input_ids, attention_mask)
        )
        return features

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> HiVLPOutput:
        """Both modalities at once. `image_features` `[B, 1280]`, the image tower's own, may stand for pictures."""
        if image_features is None:
            assert pixel_values is not None
            image_features = self.image_tower(pixel_values)
        image = self.image_heads(image_features)
        text = self.get_text_features(input_ids, attention_mask)
        return HiVLPOutput(image=image, text=text)


def mean_of_kept(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Token states `[B, T, hidden]` to their mean `[B, hidden]` over the tokens whose mask is 1."""
    kept = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)


def _without_pooler(config: HiVLPConfig) -> dict[str, bool]:
    """BERT-like encoders carry a pooler that mean pooling leaves unused: 5 % of a small checkpoint."""
    return {"add_pooling_layer": False} if config.text_config.model_type == "bert" else {}
