"""The PyTorch encoder of a HiVLP checkpoint directory."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from transformers.utils import logging

from engine.device import pick_device
from engine.embeddings import Embeddings
from engine.errors import CheckpointError
from engine.index import CheckpointReference
from engine.model import HiVLPConfig, HiVLPFeatures, HiVLPModel, HiVLPProcessor

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CPU_IMAGES = 8  # larger activations go back to the system each time: 6 ms a picture at 8, 15 at 64
FILES = (CONFIG, WEIGHTS, PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG)


class TorchEncoder:
    """A HiVLP checkpoint run in float32, whatever dtype it is stored in; safe to use from many threads.

    A call encodes its whole batch at once: `engine.encoders.encode_all` cuts long lists into chunks.
    """

    def __init__(self, checkpoint: Path, *, device: str = "auto") -> None:
        check_files(checkpoint)
        self.model = load_model(checkpoint).eval()
        self.model.to(device=pick_device(device))
        self.processor = HiVLPProcessor.of_directory(checkpoint)
        self._tokenizer_lock = threading.Lock()  # it keeps padding and truncation as state
        self.coarse_dim: int | None = self.model.config.coarse_dim
        self.fine_dim: int = self.model.config.fine_dim
        self.reference = CheckpointReference(str(checkpoint), checksum(checkpoint))

    def __repr__(self) -> str:
        path, device = self.reference.path, self.model.device
        return f"TorchEncoder({path!r}, coarse={self.coarse_dim}, fine={self.fine_dim}, device={device})"

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Sentences to coarse float32 `[B, d]` and fine float32 `[B, D]`, unit rows, on the CPU."""
        with self._tokenizer_lock:
            tokens = self.processor.tokens(texts)
        return _on_cpu(
            self.model.get_text_features(
                **{name: tensor.to(self.model.device) for name, tensor in tokens.items()}
            )
        )

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> Embeddings:
        """RGB images, the same."""
        pixels = self.processor.pixels(images)
        features = image_tower_features(self.model, pixels)
        return _on_cpu(self.model.image_heads(features))


def image_tower_features(model: HiVLPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Pixel values `[B, 3, H, W]` to the image tower's features `[B, F]`, on the model's device."""
    device = model.device
    at_a_time = CPU_IMAGES if device.type == "cpu" else max(len(pixels), 1)
    parts = [model.image_tower(part.to(device)) for part in pixels.split(at_a_time)]
    return torch.cat(parts)


def _on_cpu(features: HiVLPFeatures) -> Embeddings:
    assert features.coarse is not None
    assert features.fine is not None
    return Embeddings(features.coarse.cpu(), features.fine.cpu())


def check_files(checkpoint: Path) -> None:
    """Every file of a checkpoint is there, and its configuration is a HiVLP one."""
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint}: a checkpoint directory expected, got "
            f"{'a file' if checkpoint.exists() else 'nothing'}. Give the path of one."
        )
    missing = [name for name in FILES if not (checkpoint / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: {', '.join(FILES)} expected, missing {', '.join(missing)}. "
            "Save the checkpoint again with model.save_pretrained and processor.save_pretrained."
        )
    settings = {}
    for name in FILES:
        if name.endswith(".json"):
            try:
                settings[name] = json.loads((checkpoint / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(
                    f"{checkpoint / name}: a JSON file expected, got {error}. Restore it."
                ) from None
    config = settings[CONFIG]
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != HiVLPConfig.model_type:
        raise CheckpointError(
            f"{checkpoint / CONFIG}: model_type 'hivlp' expected, got {model_type!r}. "
            "CLIP and SigLIP directories cannot be read yet: give engine.Retriever their embeddings."
        )


def load_model(checkpoint: Path) -> HiVLPModel:
    """The model in float32, every weight from the file and of the shape that `config.json` says."""
    try:
        with _quiet_transformers():
            loaded: Any = HiVLPModel.from_pretrained(
                checkpoint,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below with both shapes, not by a traceback
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{checkpoint}: a readable checkpoint expected, got: {error}"
        ) from None
    model, report = loaded
    faults = {name: report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(faults.values()):
        found = "; ".join(
            f"{name.replace('_', ' ')}: {sorted(map(str, keys))[:3]}"
            for name, keys in faults.items()
            if keys
        )
        raise CheckpointError(
            f"{checkpoint / WEIGHTS}: the weights that config.json describes expected, got {found}. "
            "The two files belong to different models: save the checkpoint again."
        )
    assert isinstance(model, HiVLPModel)
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No loading bar, no table of keys: what is wrong is in our error."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def checksum(checkpoint: Path) -> str:
    """SHA-256 over the checkpoint's files, each name followed by its bytes."""
    digest = sha256()
    for name in FILES:
        digest.update(name.encode())
        digest.update((checkpoint / name).read_bytes())
    return digest.hexdigest()
