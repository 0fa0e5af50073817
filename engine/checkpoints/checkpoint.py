"""`open_checkpoint`: a checkpoint of any kind as the same few things; nothing else asks which kind it is."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from transformers import CLIPModel, SiglipModel

from engine.checkpoints.files import (
    CONFIG,
    OPEN_CLIP_CONFIG,
    PREPROCESSOR,
    WHOLE_PROCESSOR,
    Kind,
    check_files,
    checksum,
    kind_of,
    locate,
)
from engine.checkpoints.loading import load_model
from engine.checkpoints.open_clip import load_open_clip
from engine.checkpoints.processor import Processor, open_processor
from engine.checkpoints.refusals import expected as expected_of
from engine.checkpoints.towers import FineOnly, HiVLPImage, HiVLPText
from engine.errors import CheckpointError
from engine.index import CheckpointReference
from engine.model import HiVLPModel
from engine.model.backbone import backbone_dim, backbone_towers


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Both towers in float32 on the CPU, ready for inference, and what feeds them.

    kind: "hivlp", "clip", "siglip" (also SigLIP 2 of a fixed resolution, which is the same model) or "open_clip".
    directory: where its files are.
    image, text: the towers, as `engine.checkpoints.towers` describes them.
    processor: texts and images to their inputs.
    coarse_dim: length of the coarse vectors, None where the checkpoint has no coarse head. fine_dim: of the fine.
    reference: what an index remembers: the absolute path, or the hub id, and the hash over the deciding files.
    """

    kind: Kind
    directory: Path
    image: nn.Module
    text: nn.Module
    processor: Processor
    coarse_dim: int | None
    fine_dim: int
    reference: CheckpointReference


def open_checkpoint(path: str | Path, *, expected: CheckpointReference | None = None) -> Checkpoint:
    """Open a checkpoint directory, or a repository on the Hugging Face hub by its id "owner/name".

    Weights are read from safetensors only, and no code of the checkpoint's is run. With `expected`, no
    weight is read before the hash of the files was found to be that one's: CheckpointMismatch where it is not.
    Raises CheckpointError naming the file, what was expected and what came.
    """
    directory = locate(path)
    kind = kind_of(directory)
    check_files(directory, kind)
    hub = not Path(path).is_dir()
    digest = checksum(directory)
    reference = CheckpointReference(str(path) if hub else os.path.abspath(path), digest, hub)
    reference.must_be(expected)
    image, text, coarse_dim, fine_dim, size = _towers(directory, kind)
    processor = open_processor(directory)
    _check_pixels(directory, processor, size)
    return Checkpoint(
        kind,
        directory,
        image,
        text,
        processor,
        coarse_dim,
        fine_dim,
        reference,
    )


def _towers(
    directory: Path, kind: Kind
) -> tuple[nn.Module, nn.Module, int | None, int, int | None]:
    """The image and the text tower, the coarse and the fine dim, and the side of the pictures, None for any."""
    if kind == "hivlp":
        ours = load_model(HiVLPModel, directory, kind)
        head = ours.config
        return (
            HiVLPImage(ours),
            HiVLPText(ours),
            head.coarse_dim,
            head.fine_dim,
            _side(head.backbone),
        )
    backbone = open_backbone(directory, kind)
    image, text = backbone_towers(backbone)
    dim = backbone_dim(backbone.config)
    return FineOnly(image), FineOnly(text), None, dim, _side(backbone.config)


def _side(config: Any) -> int | None:
    """Of the pictures that a backbone's image tower takes; None without one."""
    size = None if config is None else config.vision_config.image_size
    return size if isinstance(size, int) else None


def _check_pixels(directory: Path, processor: Processor, side: int | None) -> None:
    """CheckpointError where pictures come out of the processor in another size than the tower takes."""
    if side is None:
        return
    with expected_of(directory, "settings by which a picture can be prepared"):
        found = tuple(processor.pixels([Image.new("RGB", (50, 40))]).shape[1:])
    if found != (3, side, side):
        names = ((CONFIG, OPEN_CLIP_CONFIG), (PREPROCESSOR, WHOLE_PROCESSOR, OPEN_CLIP_CONFIG))
        model, pictures = (next(n for n in of if (directory / n).is_file()) for of in names)
        raise CheckpointError(
            str(directory),
            expected=f"pictures of {side} x {side}, as {model} says",
            got=f"{' x '.join(map(str, found[1:]))} by {pictures}",
            remedy="The files belong to different models. Take both from one.",
        )


def open_backbone(directory: Path, kind: Kind) -> CLIPModel | SiglipModel:
    """The model of a CLIP, SigLIP or open_clip directory."""
    if kind == "open_clip":
        return load_open_clip(directory)
    if kind == "siglip":
        return load_model(SiglipModel, directory, kind)
    return load_model(CLIPModel, directory, kind)
