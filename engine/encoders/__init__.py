"""Encoders: what turns text and images into vectors. One protocol, one way to open them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from engine.embeddings import Embeddings
from engine.errors import MissingPackage
from engine.images import read_image
from engine.index import CheckpointReference

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class Encoder(Protocol):
    """Anything with these members may be given to a `Retriever`.

    coarse_dim: length of the coarse vectors, or None where the encoder has fine ones only.
    fine_dim: length of the fine vectors.
    reference: the checkpoint behind it; indexes remember it and refuse another.
    """

    @property
    def coarse_dim(self) -> int | None: ...
    @property
    def fine_dim(self) -> int: ...
    @property
    def reference(self) -> CheckpointReference: ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Sentences to coarse float32 `[B, d]` and fine float32 `[B, D]`, unit rows, on the CPU."""

    def encode_images(self, images: Sequence["Image"]) -> Embeddings:
        """RGB images, the same."""


CHUNK = 64  # items read and encoded at a time: what a long list costs in memory


def encode_all(
    encoder: Encoder, items: Sequence[Any], advance: Callable[[int], None] | None = None
) -> Embeddings:
    """Encode texts (`str`) or images (as `read_image` takes them), all of one kind, a chunk at a time.

    `advance` is called with the length of each chunk done.
    """
    assert items
    coarse, fine = [], []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        if isinstance(chunk[0], str):
            part = encoder.encode_texts(chunk)
        else:
            part = encoder.encode_images([read_image(item) for item in chunk])
        fine.append(part.fine)
        if part.coarse is not None:
            coarse.append(part.coarse)
        if advance is not None:
            advance(len(chunk))
    return Embeddings(torch.cat(coarse) if coarse else None, torch.cat(fine))


def open_encoder(checkpoint: str | Path, *, device: str = "auto") -> Encoder:
    """The encoder of a checkpoint directory, run by PyTorch on `device` ("auto": CUDA where there is one)."""
    try:
        from engine.checkpoints import open_checkpoint
        from engine.encoders.torch_encoder import torch_encoder
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in ("transformers", "PIL"):
            raise
        raise MissingPackage.of(package, "models", "Encoding text and images") from None
    return torch_encoder(open_checkpoint(checkpoint), device=device, why="a checkpoint directory")
