"""The frozen image tower's features of every training picture, computed once, from several views of each."""

import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoints import Processor
from engine.dataset import Example
from engine.encoders.torch_encoder import CPU_IMAGES
from engine.images import read_image
from engine.model import HiVLPModel
from engine.progress import progress

BATCH = 32
BACKGROUNDS = ("white", "#e6e6e6", "#c8dcf0", "#3c3c3c")


def cached_features(file: Path | None, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """Features from `file` if they were computed for the same `key`; else computed, and kept there if named."""
    if file is not None and file.is_file():
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") == key:
                return stored.get_tensor("features")
    features = compute()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.draft")
        save_file({"features": features}, draft, metadata={"key": key})
        draft.replace(file)
    return features


def features_key(examples: Sequence[Example], image_weights: Path, views: int, seed: int) -> str:
    """What the features depend on: the pictures' names and sizes, the tower's weights, views and seed."""
    digest = sha256(image_weights.read_bytes())
    for example in examples:
        digest.update(f"{example.image}:{example.file_size};".encode())
    digest.update(f"{views}, {seed}".encode())
    return digest.hexdigest()


@torch.inference_mode()
def tower_features(
    model: HiVLPModel,
    processor: Processor,
    examples: Sequence[Example],
    views: int,
    seed: int,
) -> Tensor:
    """Features float16 `[N, views, F]`; view 0 is the picture itself, the others are drawn at random."""
    chance = random.Random(seed)
    rows = []
    with progress("image features", len(examples)) as advance:
        for start in range(0, len(examples), BATCH):
            images = [read_image(example.image) for example in examples[start : start + BATCH]]
            batch = [view(image, number, chance) for image in images for number in range(views)]
            features = image_tower_features(model, processor.pixels(batch))
            rows.append(features.half().cpu().reshape(len(images), views, -1))
            advance(len(images))
    return torch.cat(rows)


def image_tower_features(model: HiVLPModel, pixels: Tensor) -> Tensor:
    """Pixel values `[B, 3, H, W]` to the image tower's features `[B, F]`, on the model's device."""
    at_a_time = CPU_IMAGES if model.device.type == "cpu" else len(pixels)
    return torch.cat([model.image_tower(part.to(model.device)) for part in pixels.split(at_a_time)])


def view(image: Image.Image, number: int, chance: random.Random) -> Image.Image:
    """View 0: as it is. Odd ones: a mirrored crop. Even ones: set smaller, on another background."""
    if number == 0:
        return image
    width, height = image.size
    if number % 2:
        scale = chance.uniform(0.75, 0.95)
        left = chance.uniform(0, (1 - scale) * width)
        top = chance.uniform(0, (1 - scale) * height)
        box = (round(left), round(top), round(left + scale * width), round(top + scale * height))
        return image.crop(box).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = chance.uniform(1.05, 1.4)
    canvas = Image.new(
        "RGB", (round(scale * width), round(scale * height)), chance.choice(BACKGROUNDS)
    )
    canvas.paste(
        image,
        (chance.randint(0, canvas.width - width), chance.randint(0, canvas.height - height)),
    )
    return canvas
