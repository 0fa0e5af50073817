"""What a run starts from: nothing but image weights, a checkpoint of ours, or the towers of CLIP or SigLIP."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BertConfig, ViTImageProcessorPil

from engine.checkpoints import Processor, open_processor
from engine.checkpoints.checkpoint import open_backbone
from engine.checkpoints.files import check_files, checksum, kind_of, locate, read_json
from engine.checkpoints.loading import load_model
from engine.dataset import Example
from engine.errors import CheckpointError, InvalidArgument
from engine.model import HiVLPConfig, HiVLPModel
from engine.model.backbone import backbone_dim, backbone_towers
from engine.training.loss import MAX_SCALE
from engine.training.settings import BACKBONE_COARSE_DIM, SCRATCH, Settings
from engine.training.tokenizer import train_tokenizer

IMAGE_SIZE = 160
# How EfficientNet-Lite's published weights want their pixels: (x - 127) / 128.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255
HIDDEN = 512  # on a backbone: width of the heads' hidden layers


@dataclass(frozen=True, eq=False)
class Start:
    """A model to train in float32, and what feeds it.

    digest: of everything that its vectors depend on. source: the directory whose processor files are to be copied
    as they are; None: they are new. dtype: of the weights that are written in the end, as they came.
    """

    model: HiVLPModel
    processor: Processor
    digest: str
    source: Path | None
    dtype: torch.dtype

    @property
    def on_backbone(self) -> bool:
        return self.model.config.backbone is not None


def from_scratch(examples: Sequence[Example], image_weights: Path, settings: Settings) -> Start:
    """New heads and a new text tower with a tokenizer of its own, on a published image tower."""
    captions = [caption for example in examples for caption in example.captions]
    tokenizer = train_tokenizer(captions, settings.vocabulary, settings.max_length)
    processor = Processor(
        new_image_processor(), tokenizer, padding="longest", max_tokens=settings.max_length
    )
    model = HiVLPModel(scratch_config(settings, len(tokenizer)))
    try:
        model.image_tower.load_state_dict(load_file(image_weights))
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            str(image_weights),
            expected="EfficientNet-Lite0 weights in safetensors",
            got=str(error),
            remedy="`make pictures` fetches them.",
        ) from None
    digest = sha256(image_weights.read_bytes()).hexdigest()
    return Start(model, processor, digest, None, torch.float16)


def from_checkpoint(path: Path, settings: Settings) -> Start:
    """A checkpoint of ours as it is, or new heads on the towers of CLIP, SigLIP or open_clip.

    Raises CheckpointError where it cannot be read, or has other dims than `settings` asks for.
    """
    directory = locate(path)
    kind = kind_of(directory)
    check_files(directory, kind)
    if kind == "hivlp":
        model = load_model(HiVLPModel, directory, kind)
        _check_dims(directory, model, settings)
        if settings.sigmoid and not model.config.logit_bias:
            model.learn_logit_biases()
    else:
        model = _on_backbone(open_backbone(directory, kind), settings)
    stored = "config.json" if kind != "open_clip" else "open_clip_config.json"
    config = read_json(directory / stored)
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(
        str(config.get("dtype") or config.get("torch_dtype")), torch.float32
    )
    return Start(model, open_processor(directory), checksum(directory), directory, dtype)


def scratch_config(settings: Settings, vocabulary: int) -> HiVLPConfig:
    """The configuration of a new model of our own towers, whose tokenizer has `vocabulary` pieces."""
    chosen = {
        name: default if getattr(settings, name) is None else getattr(settings, name)
        for name, default in SCRATCH.items()
    }
    if chosen["heads"] != "own":
        chosen |= {"coarse_head_dim": None, "coarse_text_dim": settings.coarse_text_dim or 0}
    hidden, layers = chosen.pop("text_hidden"), chosen.pop("text_layers")
    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=next(heads for heads in (4, 3, 2, 1) if hidden % heads == 0),
        intermediate_size=3 * hidden,
        max_position_embeddings=settings.max_length,
        type_vocab_size=1,
        hidden_dropout_prob=chosen["dropout"],
        attention_probs_dropout_prob=0.0,
    )
    return HiVLPConfig(text_config=text, logit_bias=settings.sigmoid, **chosen)


def new_image_processor() -> ViTImageProcessorPil:
    """How pictures are prepared for EfficientNet-Lite0."""
    return ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=3,  # bicubic
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def _on_backbone(backbone: Any, settings: Settings) -> HiVLPModel:
    """New heads; where no fine dim is asked for, the fine vector is the backbone's own and ranks as before."""
    ours = ("image_neck", "coarse_text_dim", "text_hidden", "text_layers")
    for name in ours:
        if getattr(settings, name):
            raise InvalidArgument(
                name,
                expected="the towers of the checkpoint, as they are",
                got=f"{getattr(settings, name)}, a size of our own towers",
                remedy="Leave it out.",
            )
    dim = backbone_dim(backbone.config)
    head_dim = settings.head_dim or HIDDEN
    model = HiVLPModel(
        HiVLPConfig(
            backbone=backbone.config,
            heads=settings.heads or "own",
            fine_from="head" if settings.fine_dim else "backbone",
            fine_dim=settings.fine_dim or dim,
            coarse_dim=settings.coarse_dim or min(BACKBONE_COARSE_DIM, settings.fine_dim or dim),
            head_dim=head_dim,
            coarse_head_dim=settings.coarse_head_dim or head_dim,
            dropout=SCRATCH["dropout"] if settings.dropout is None else settings.dropout,
            logit_bias=settings.sigmoid,
        )
    )
    image, text = backbone_towers(backbone)
    model.image_tower.load_state_dict(image.state_dict())
    model.text_tower.load_state_dict(text.state_dict())
    with torch.no_grad():  # the temperature that the backbone was trained to
        limit = torch.tensor(MAX_SCALE).log()
        model.logit_scales["fine"].copy_(backbone.logit_scale.squeeze().minimum(limit))
    return model


def _check_dims(directory: Path, model: HiVLPModel, settings: Settings) -> None:
    config = model.config
    found = {name: getattr(config, name, None) for name in SCRATCH}
    found["text_hidden"] = config.text_config.hidden_size
    found["text_layers"] = config.text_config.num_hidden_layers
    for name, value in found.items():
        asked = getattr(settings, name)
        if asked is not None and asked != value:
            raise CheckpointError(
                str(directory),
                expected=f"a checkpoint whose {name} is {json.dumps(asked)}, as asked for",
                got=json.dumps(value),
                remedy=f"Leave out {name} to go on with the checkpoint's own, or train from scratch.",
            )
