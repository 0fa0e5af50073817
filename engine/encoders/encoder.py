"""`Encoder`: what a retriever asks of whatever turns text and images into vectors; and encoding many of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from engine.embeddings import Embeddings
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


def warm(encoder: Encoder) -> None:
    """Encode a text and a picture, so that the first real one waits for nothing to be loaded."""
    from PIL import Image

    encoder.encode_texts(["a picture"])
    encoder.encode_images([Image.new("RGB", (64, 64), "grey")])
