"""The features of towers that stay as they are, of every training picture and caption, computed once.

Long work that may be cut off: what is done is kept in parts beside the file, and the next run goes on from there.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoints import Processor
from engine.dataset import Example, Skipped
from engine.encoders.torch_encoder import CPU_IMAGES
from engine.errors import DatasetError, ImageError
from engine.images import read_image
from engine.model import HiVLPModel
from engine.progress import progress

PART = 512  # pictures or captions whose features are kept together
BATCH = 32  # pictures decoded at a time; of captions, four times as many
BACKGROUNDS = ("white", "#e6e6e6", "#c8dcf0", "#3c3c3c")


def cached_features(
    file: Path, key: str, count: int, compute: Callable[[int, int], Tensor]
) -> Tensor:
    """Features of `count` items from `file` if they were computed for the same `key`; else computed and kept there.

    compute: (first, last) -> the features of the items between, a row each.
    """
    if (kept := _stored(file, key)) is not None:
        return kept
    parts_folder = file.with_name(f"{file.name}.parts")
    parts = []
    with progress(f"{file.stem}", count) as advance:
        for first in range(0, count, PART):
            last = min(first + PART, count)
            part_file = parts_folder / f"{first:08d}.safetensors"
            part = _stored(part_file, key)
            if part is None:
                part = compute(first, last)
                _store(part_file, key, part)
            parts.append(part)
            advance(last - first)
    features = torch.cat(parts)
    _store(file, key, features)
    shutil.rmtree(parts_folder)
    return features


def _stored(file: Path, key: str) -> Tensor | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stored:
            same = (stored.metadata() or {}).get("key") == key
            return stored.get_tensor("features") if same else None
    except SafetensorError:
        return None  # cut off while it was written by something else than this: computed again


def _store(file: Path, key: str, features: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    save_file({"features": features.contiguous()}, draft, metadata={"key": key})
    draft.replace(file)


def features_key(examples: Sequence[Example], tower: str, views: int, seed: int) -> str:
    """What the features depend on: names and sizes of the pictures, captions, the tower's digest, views, seed."""
    digest = sha256(f"{tower}, {views}, {seed};".encode())
    for example in examples:
        digest.update(f"{example.image}:{example.file_size}:{example.captions};".encode())
    return digest.hexdigest()


@torch.inference_mode()
def picture_features(
    model: HiVLPModel, processor: Processor, examples: Sequence[Example], views: int, seed: int
) -> Tensor:
    """The image tower's features float16 `[N, views, F]`; view 0 is the picture itself, the others are drawn.

    Rows of NaN where a picture cannot be read.
    """
    rows = []
    for start in range(0, len(examples), BATCH):
        images = [_read(example) for example in examples[start : start + BATCH]]
        blank = Image.new("RGB", (8, 8))
        batch = [
            view(image or blank, number, _chance(examples[start + at], seed))
            for at, image in enumerate(images)
            for number in range(views)
        ]
        features = image_tower_features(model, processor.pixels(batch))
        features = features.half().cpu().reshape(len(images), views, -1)
        features[[image is None for image in images]] = float("nan")
        rows.append(features)
    return torch.cat(rows)


def _chance(example: Example, seed: int) -> random.Random:
    """Of a picture's views: by name and size, so that a data set gives the same ones wherever it lies."""
    return random.Random(f"{seed}/{example.image.name}/{example.file_size}")


@torch.inference_mode()
def caption_features(model: HiVLPModel, processor: Processor, captions: Sequence[str]) -> Tensor:
    """A backbone's text features float16 `[M, F]`."""
    rows = []
    for start in range(0, len(captions), 4 * BATCH):
        tokens = processor.tokens(captions[start : start + 4 * BATCH])
        on_device = {name: ids.to(model.device) for name, ids in tokens.items()}
        rows.append(model.text_tower(**on_device).half().cpu())
    return torch.cat(rows)


def readable(
    examples: Sequence[Example], features: Tensor, skipped: Skipped | None
) -> tuple[list[Example], Tensor]:
    """The examples whose pictures could be read, and their features; the others noted in `skipped`.

    Where that is None, the first that cannot be read is an ImageError.
    """
    kept = features[:, 0, 0].isfinite()
    for row in (~kept).nonzero()[:, 0].tolist():
        _note_unreadable(examples[row], skipped)
    return _those(examples, kept), features[kept]


def checked(examples: Sequence[Example], skipped: Skipped | None) -> list[Example]:
    """The same where pictures are read while training: each is opened once before it begins."""
    kept = torch.zeros(len(examples), dtype=torch.bool)
    with progress("opening pictures", len(examples)) as advance:
        for row, example in enumerate(examples):
            kept[row] = _read(example) is not None
            if not kept[row]:
                _note_unreadable(example, skipped)
            advance(1)
    return _those(examples, kept)


def _those(examples: Sequence[Example], kept: Tensor) -> list[Example]:
    if not kept.any():
        raise DatasetError(
            "pictures",
            expected="some that can be read",
            got="none",
            remedy="The list of what was left out says why.",
        )
    return [example for example, usable in zip(examples, kept.tolist(), strict=True) if usable]


def _note_unreadable(example: Example, skipped: Skipped | None) -> None:
    try:
        read_image(example.image)
    except ImageError as error:
        if skipped is None:
            raise
        skipped.append(str(error))


def _read(example: Example) -> Image.Image | None:
    try:
        return read_image(example.image)
    except ImageError:
        return None


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
