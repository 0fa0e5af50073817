"""`HiVLPModel`: two towers, each ending in a coarse and a fine vector of unit length.

The idea of hierarchical vectors is that of HiVLP (arXiv 2205.12105); its dimensions and losses are not public,
so those here are our own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from engine.model.backbone import backbone_dim, backbone_towers, new_backbone
from engine.model.configuration import HiVLPConfig
from engine.model.heads import HierarchicalHeads, HiVLPFeatures
from engine.model.image_tower import FEATURE_DIM, EfficientNetLite0
from engine.model.text_tower import MeanOfPieces, mean_of_kept

LEVELS = ("coarse", "fine")
INITIAL_TEMPERATURE = 0.07  # CLIP's (arXiv 2103.00020); learned from there, one a level
INITIAL_BIAS = -10.0  # SigLIP's (arXiv 2303.15343): most pairs of a batch are no pairs


@dataclass
class HiVLPOutput(ModelOutput):
    """The vectors of both modalities, and the learned scalars of the loss by level.

    logit_scales: logarithms of the inverse temperatures. logit_biases: None but for the sigmoid loss.
    """

    image: HiVLPFeatures | None = None
    text: HiVLPFeatures | None = None
    logit_scales: dict[str, Tensor] | None = None
    logit_biases: dict[str, Tensor] | None = None


class HiVLPModel(PreTrainedModel):
    """A dual encoder with hierarchical vectors, loadable with `AutoModel.from_pretrained`."""

    config_class = HiVLPConfig
    base_model_prefix = "hivlp"
    main_input_name = "pixel_values"

    def __init__(self, config: HiVLPConfig) -> None:
        super().__init__(config)
        image_dim, text_dim = FEATURE_DIM, config.text_config.hidden_size
        if config.backbone is not None:
            self.image_tower, self.text_tower = backbone_towers(new_backbone(config.backbone))
            image_dim = text_dim = backbone_dim(config.backbone)
        else:
            self.image_tower, self.text_tower = EfficientNetLite0(), _text_tower(config)
        self.coarse_pieces = (
            MeanOfPieces(config.text_config.vocab_size, config.coarse_text_dim)
            if config.coarse_text_dim
            else None
        )
        self.image_heads = HierarchicalHeads(image_dim, image_dim, config, config.image_neck)
        self.text_heads = HierarchicalHeads(text_dim, config.coarse_text_dim or text_dim, config)
        self.logit_scales = _by_level(torch.tensor(1 / INITIAL_TEMPERATURE).log())
        self.logit_biases = _by_level(torch.tensor(INITIAL_BIAS)) if config.logit_bias else None
        self.post_init()

    def learn_logit_biases(self) -> None:
        """Add the offsets of the sigmoid loss to a model that was trained without."""
        self.config.logit_bias = True
        self.logit_biases = _by_level(torch.tensor(INITIAL_BIAS))

    def _init_weights(self, module: nn.Module) -> None:
        """New heads begin as PyTorch makes them, by the length of what they read.

        `transformers`' 0.02 leaves the narrow ones all but linear: it cost the coarse vectors 3 points of R@1.
        """
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def get_image_features(self, pixel_values: Tensor) -> HiVLPFeatures:
        """Pictures `[B, 3, H, W]`, preprocessed by the checkpoint's image processor."""
        features: HiVLPFeatures = self.image_heads(self.image_tower(pixel_values))
        return features

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> HiVLPFeatures:
        """Token ids `[B, T]` and their mask (1 = a token, 0 = padding)."""
        features: HiVLPFeatures = self.text_heads(
            *text_features(self.text_tower, self.coarse_pieces, input_ids, attention_mask)
        )
        return features

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> HiVLPOutput:
        """Both modalities at once.

        `image_features` `[B, F]`, the image tower's own, may stand for pictures; a backbone's `text_features` for
        sentences.
        """
        if image_features is None:
            assert pixel_values is not None
            image_features = self.image_tower(pixel_values)
        if text_features is None:
            assert input_ids is not None
            assert attention_mask is not None
            text = self.get_text_features(input_ids, attention_mask)
        else:
            text = self.text_heads(text_features)
        return HiVLPOutput(
            image=self.image_heads(image_features),
            text=text,
            logit_scales=_copies(self.logit_scales),
            logit_biases=None if self.logit_biases is None else _copies(self.logit_biases),
        )


def text_features(
    tower: nn.Module, coarse_pieces: nn.Module | None, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What the two heads read: the text tower's features `[B, F]`, and the coarse head's own, or None."""
    features = tower(input_ids=input_ids, attention_mask=attention_mask)
    if not isinstance(features, Tensor):
        features = mean_of_kept(features.last_hidden_state, attention_mask)
    return features, None if coarse_pieces is None else coarse_pieces(input_ids, attention_mask)


def _text_tower(config: HiVLPConfig) -> nn.Module:
    text = config.text_config
    if getattr(text, "num_hidden_layers", None) == 0:
        return MeanOfPieces(text.vocab_size, text.hidden_size)
    # BERT-like encoders carry a pooler that mean pooling leaves unused: 5 % of a small checkpoint.
    unused = {"add_pooling_layer": False} if text.model_type == "bert" else {}
    tower: nn.Module = AutoModel.from_config(text, trust_remote_code=False, **unused)
    return tower


def _copies(parameters: nn.ParameterDict) -> dict[str, Tensor]:
    """Made in `forward`: DistributedDataParallel follows what a loss does with outputs, not with parameters."""
    return {level: parameter.clone() for level, parameter in parameters.items()}


def _by_level(initial: Tensor) -> nn.ParameterDict:
    return nn.ParameterDict({level: nn.Parameter(initial.clone()) for level in LEVELS})
