"""One training run: from captioned pictures to a checkpoint directory."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BertConfig, ViTImageProcessorPil, set_seed

from engine.checkpoints import Processor
from engine.dataset import Example
from engine.errors import CheckpointError, DatasetError
from engine.model import HiVLPConfig, HiVLPModel
from engine.training.features import cached_features, features_key, tower_features
from engine.training.tokenizer import train_tokenizer
from engine.training.trainer import Concepts, HierarchicalTrainer, arguments

IMAGE_SIZE = 160
# How EfficientNet-Lite's published weights want their pixels: (x - 127) / 128.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255


@dataclass(frozen=True)
class Settings:
    """What may be chosen for a run; the defaults train the example checkpoint."""

    coarse_dim: int = 32
    fine_dim: int = 256
    steps: int = 1600
    batch_size: int = 512
    learning_rate: float = 2e-3
    bf16: bool = False
    views: int = 3
    seed: int = 0
    vocabulary: int = 5000
    max_length: int = 24
    text_hidden: int = 192
    text_layers: int = 1
    text_heads: int = 4
    head_dim: int = 512
    dropout: float = 0.1


def train(
    examples: Sequence[Example],
    output: Path,
    image_weights: Path,
    settings: Settings,
    features_file: Path | None = None,
) -> dict[str, Any]:
    """Train heads and text tower on the features of a frozen image tower; write a checkpoint to `output`.

    `features_file` keeps the features for the next run. The checkpoint appears whole or not at all. Returns what
    was done, as plain values.
    """
    concepts = len({example.concept for example in examples})
    if concepts < settings.batch_size:
        raise DatasetError(
            f"batch_size: at most the {concepts} concepts of the data set expected, got "
            f"{settings.batch_size}. Give a smaller batch or more pictures."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(
            f"{output}: a free place for the checkpoint expected, found something there."
        )
    set_seed(settings.seed)
    captions = [caption for example in examples for caption in example.captions]
    tokenizer = train_tokenizer(captions, settings.vocabulary, settings.max_length)
    processor = Processor(
        _image_processor(), tokenizer, padding="longest", max_tokens=settings.max_length
    )
    model = HiVLPModel(_config(settings, len(tokenizer)))
    _load_image_tower(model, image_weights)
    features = cached_features(
        features_file,
        features_key(examples, image_weights, settings.views, settings.seed),
        lambda: tower_features(model, processor, examples, settings.views, settings.seed),
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = HierarchicalTrainer(
            model,
            arguments(
                scratch,
                settings.steps,
                settings.batch_size,
                settings.learning_rate,
                settings.bf16,
                settings.seed,
            ),
            train_dataset=Concepts(examples, features, settings.seed),
            processor=processor,
        )
        with contextlib.redirect_stdout(sys.stderr):  # where the Trainer's own talk belongs
            outcome = trainer.train()
    save_checkpoint(model, processor, output)
    return {
        **asdict(settings),
        "pictures": len(examples),
        "captions": len(captions),
        "concepts": concepts,
        "final_loss": outcome.training_loss,
        "seconds": outcome.metrics["train_runtime"],
        "torch": torch.__version__,
    }


def save_checkpoint(model: HiVLPModel, processor: Processor, output: Path) -> None:
    """Write the checkpoint, its weights in float16, beside its place; then move it there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        model.half().save_pretrained(draft)
        processor.image_processor.save_pretrained(draft)
        processor.tokenizer.save_pretrained(draft)
        draft.chmod(0o755)  # mkdtemp's is private
        draft.replace(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _config(settings: Settings, vocabulary: int) -> HiVLPConfig:
    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings.text_hidden,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        intermediate_size=3 * settings.text_hidden,
        max_position_embeddings=settings.max_length,
        type_vocab_size=1,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=0.0,
    )
    return HiVLPConfig(
        text_config=text,
        head_dim=settings.head_dim,
        fine_dim=settings.fine_dim,
        coarse_dim=settings.coarse_dim,
        dropout=settings.dropout,
    )


def _image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=3,  # bicubic
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def _load_image_tower(model: HiVLPModel, image_weights: Path) -> None:
    """The published weights, frozen: batch statistics stay as they were trained too."""
    try:
        model.image_tower.load_state_dict(load_file(image_weights))
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{image_weights}: EfficientNet-Lite0 weights in safetensors expected, got: {error}. "
            "`make pictures` fetches them."
        ) from None
    model.image_tower.requires_grad_(False).eval()
