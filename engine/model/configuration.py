"""The configuration of a HiVLP checkpoint (`config.json`)."""

from typing import Any, ClassVar

from transformers import AutoConfig, BertConfig, PretrainedConfig

from engine.errors import CheckpointError


class HiVLPConfig(PretrainedConfig):
    """Towers, dimensions and pooling of a `HiVLPModel`.

    `text_config` is the configuration of any `transformers` text encoder (default: a small BERT);
    `image_tower` names one of ours. `coarse_dim` and `fine_dim` are the lengths of the two vectors every
    picture and every sentence gets; both come out with unit length when `normalize` is true.
    """

    model_type = "hivlp"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(
        self,
        *,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        image_tower: str = "efficientnet-lite0",
        head_dim: int = 512,
        fine_dim: int = 256,
        coarse_dim: int = 32,
        dropout: float = 0.1,
        text_pooling: str = "mean",
        normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, expected, value in (
            ("image_tower", "efficientnet-lite0", image_tower),
            ("text_pooling", "mean", text_pooling),
        ):
            if value != expected:
                raise CheckpointError(
                    f"config.json: {name} must be {expected!r}, the only one built; got {value!r}"
                )
        if not 0 < coarse_dim <= fine_dim:
            raise CheckpointError(
                "config.json: 0 < coarse_dim <= fine_dim expected; "
                f"got coarse_dim={coarse_dim}, fine_dim={fine_dim}"
            )
        if text_config is None:
            text_config = BertConfig()
        elif isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.image_tower = image_tower
        self.head_dim = head_dim
        self.fine_dim = fine_dim
        self.coarse_dim = coarse_dim
        self.dropout = dropout
        self.text_pooling = text_pooling
        self.normalize = normalize
        super().__init__(**kwargs)
