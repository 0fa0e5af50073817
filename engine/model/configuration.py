"""The configuration of a HiVLP checkpoint (`config.json`)."""

from typing import Any, ClassVar

from transformers import AutoConfig, BertConfig, PretrainedConfig

from engine.errors import CheckpointError

BACKBONES = ("clip", "siglip")
CHOICES: dict[str, tuple[str, ...]] = {
    "image_tower": ("efficientnet-lite0",),
    "text_pooling": ("mean",),
    "heads": ("shared", "own", "nested"),
    "fine_from": ("head", "backbone"),
}


class HiVLPConfig(PretrainedConfig):
    """Towers, heads and dimensions of a `HiVLPModel`.

    text_config: of any `transformers` text encoder (default: a small BERT), its states averaged over the tokens.
        One of no layers (`num_hidden_layers` 0) is its table of word vectors alone, without positions.
    image_tower: the name of one of ours.
    backbone: None, or the configuration of a CLIP or SigLIP model, whose towers then stand for both of these: its
        embeddings are what the heads read.
    heads: how the coarse vector is made. "shared": by a projection beside the fine one's, after a hidden layer
        that both read. "own": by a hidden layer and a projection of its own. "nested": it is the first coordinates
        of the fine vector.
    fine_from: "head", or "backbone": the fine vector is the backbone's own embedding, unchanged.
    head_dim, coarse_head_dim: lengths of the hidden layers; the second is of the coarse head with "own", by
        default the same.
    image_neck: 0, or the length to which one linear layer brings the image tower's features before both heads read
        them: it saves most of the heads' weights. Of our own towers only.
    coarse_text_dim: 0, or the length of the word vectors of a table from which, averaged, the coarse vectors of
        sentences are made instead of from the text tower's features; with "own" only.
    coarse_dim, fine_dim: lengths of the two vectors; both come out with unit length when `normalize` is true.
    logit_bias: whether the weights hold the learned offsets of the sigmoid loss.
    """

    model_type = "hivlp"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "backbone": AutoConfig}

    def __init__(
        self,
        *,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        image_tower: str = "efficientnet-lite0",
        backbone: PretrainedConfig | dict[str, Any] | None = None,
        heads: str = "shared",
        fine_from: str = "head",
        head_dim: int = 512,
        coarse_head_dim: int | None = None,
        image_neck: int = 0,
        coarse_text_dim: int = 0,
        fine_dim: int = 256,
        coarse_dim: int = 32,
        dropout: float = 0.1,
        text_pooling: str = "mean",
        normalize: bool = True,
        logit_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        self.backbone = None if backbone is None else _backbone(backbone)
        if self.backbone is not None:
            self.text_config = self.backbone.text_config
        else:
            self.text_config = BertConfig() if text_config is None else _config(text_config)
        self.image_tower = image_tower
        self.heads = heads
        self.fine_from = fine_from
        self.head_dim = head_dim
        self.coarse_head_dim = head_dim if coarse_head_dim is None else coarse_head_dim
        self.image_neck = image_neck
        self.coarse_text_dim = coarse_text_dim
        self.fine_dim = fine_dim
        self.coarse_dim = coarse_dim
        self.dropout = dropout
        self.text_pooling = text_pooling
        self.normalize = normalize
        self.logit_bias = logit_bias
        self._check()
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As it is written: a backbone's text tower stands in the backbone's own configuration."""
        found: dict[str, Any] = super().to_dict()
        if found.get("backbone") is None:
            found.pop("backbone", None)
        else:
            found.pop("text_config", None)
        return found

    def _check(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise _refused(
                    f"{name} to be {' or '.join(map(repr, choices))}", repr(getattr(self, name))
                )
        if not 0 < self.coarse_dim <= self.fine_dim:
            raise _refused(
                "0 < coarse_dim <= fine_dim",
                f"coarse_dim={self.coarse_dim}, fine_dim={self.fine_dim}",
            )
        if self.image_neck and self.backbone is not None:
            raise _refused("image_neck to be 0 with a backbone", str(self.image_neck))
        own = self.heads == "own"
        for name, fits in (
            ("coarse_text_dim", own or not self.coarse_text_dim),
            ("fine_from", self.fine_from == "head" or (own and self.backbone is not None)),
        ):
            if not fits:
                raise _refused(
                    f"heads='own'{' and a backbone' if name == 'fine_from' else ''} "
                    f"with {name}={getattr(self, name)!r}",
                    f"heads={self.heads!r}{'' if self.backbone else ' and no backbone'}",
                )


def _refused(expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        "config.json",
        expected=expected,
        got=got,
        remedy="Change the setting, or save the model again.",
    )


def _config(given: PretrainedConfig | dict[str, Any]) -> Any:
    return AutoConfig.for_model(**given) if isinstance(given, dict) else given


def _backbone(given: PretrainedConfig | dict[str, Any]) -> Any:
    config = _config(given)
    if config.model_type not in BACKBONES:
        raise _refused(
            f"a backbone of model_type {' or '.join(BACKBONES)}", repr(config.model_type)
        )
    return config
