"""Tower features to coarse and fine vectors."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from engine.model.configuration import HiVLPConfig


@dataclass
class HiVLPFeatures(ModelOutput):
    """`coarse` float32 `[B, d]` and `fine` float32 `[B, D]`, each row of unit length."""

    coarse: Tensor | None = None
    fine: Tensor | None = None


class HierarchicalHeads(nn.Module):
    """Tower features `[B, F]` to a coarse `[B, d]` and a fine `[B, D]` vector; `HiVLPConfig` says how."""

    def __init__(
        self, feature_dim: int, coarse_feature_dim: int, config: HiVLPConfig, neck: int = 0
    ) -> None:
        super().__init__()
        self.neck: nn.Module | None = None
        if neck:
            self.neck = nn.Sequential(
                *_regularised(feature_dim, config.dropout), nn.Linear(feature_dim, neck)
            )
            feature_dim = coarse_feature_dim = neck
        if config.fine_from == "head":
            self.trunk = _trunk(feature_dim, config.head_dim, config.dropout)
        if config.heads == "own":
            self.coarse_trunk = _trunk(coarse_feature_dim, config.coarse_head_dim, config.dropout)
        if config.heads != "nested":
            width = config.coarse_head_dim if config.heads == "own" else config.head_dim
            self.coarse = nn.Linear(width, config.coarse_dim, bias=False)
        if config.fine_from == "head":
            self.fine = nn.Linear(config.head_dim, config.fine_dim, bias=False)
        self.heads, self.fine_from = config.heads, config.fine_from
        self.coarse_dim, self.normalize = config.coarse_dim, config.normalize

    def forward(self, features: Tensor, coarse_features: Tensor | None = None) -> HiVLPFeatures:
        """`coarse_features` `[B, F']` are those that the coarse head reads; default: the same."""
        if self.neck is not None:
            features = self.neck(features)
        hidden = features if self.fine_from == "backbone" else self.trunk(features)
        fine = hidden if self.fine_from == "backbone" else self.fine(hidden)
        if self.heads == "own":
            read = features if coarse_features is None else coarse_features
            coarse = self.coarse(self.coarse_trunk(read))
        else:
            coarse = fine[:, : self.coarse_dim] if self.heads == "nested" else self.coarse(hidden)
        if self.normalize:
            coarse, fine = F.normalize(coarse, dim=-1), F.normalize(fine, dim=-1)
        return HiVLPFeatures(coarse=coarse, fine=fine)


def _trunk(inputs: int, width: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        *_regularised(inputs, dropout), nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout)
    )


def _regularised(inputs: int, dropout: float) -> tuple[nn.Module, nn.Module]:
    return nn.LayerNorm(inputs), nn.Dropout(dropout)
