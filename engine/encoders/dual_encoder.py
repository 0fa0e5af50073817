"""`DualEncoder`: a processor and two towers, whatever runs them. The encoders of every runtime are one of these."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.encoders.manifest import ExportManifest
from engine.errors import CheckpointError
from engine.index import CheckpointReference

if TYPE_CHECKING:
    from PIL.Image import Image

    from engine.checkpoints import Processor

Vectors: TypeAlias = tuple[
    Tensor | None, Tensor
]  # coarse [B, d] or None, fine [B, D]; float32, on the CPU
ImageTower: TypeAlias = Callable[[Tensor], Vectors]  # pixel values [B, 3, H, W]
TextTower: TypeAlias = Callable[[Tensor, Tensor], Vectors]  # token ids and their mask [B, T]


@dataclass(frozen=True, eq=False)
class DualEncoder:
    """An `engine.Encoder` over two towers; safe to use from many threads, as its towers are.

    runtime: "torch", "onnx" or "tensorrt"; why: the reason for it, in a few words.
    coarse_dim: None where the checkpoint has no coarse head: the rotation then belongs to the index, and whatever
        coarse vectors the towers return are left out.
    """

    image: ImageTower
    text: TextTower
    processor: "Processor"
    coarse_dim: int | None
    fine_dim: int
    reference: CheckpointReference
    runtime: str
    why: str

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Sentences to coarse float32 `[B, d]` and fine float32 `[B, D]`, unit rows, on the CPU."""
        tokens = self.processor.tokens(texts)
        return self._embeddings(self.text(tokens["input_ids"], tokens["attention_mask"]))

    def encode_images(self, images: Sequence["Image"]) -> Embeddings:
        """RGB images, the same."""
        return self._embeddings(self.image(self.processor.pixels(images)))

    def _embeddings(self, vectors: Vectors) -> Embeddings:
        coarse, fine = vectors
        return Embeddings(None if self.coarse_dim is None else coarse, fine)

    def __repr__(self) -> str:
        return (
            f"DualEncoder({self.reference.path!r}, coarse={self.coarse_dim}, fine={self.fine_dim}, "
            f"runtime={self.runtime!r}: {self.why})"
        )


def in_parts(
    tower: Callable[..., Vectors], inputs: tuple[Tensor, ...], at_most: int | None
) -> Vectors:
    """What `tower` makes of `inputs`, given to it `at_most` so many rows at a time; None = all at once."""
    parts = zip(*(tensor.split(at_most or max(len(tensor), 1)) for tensor in inputs), strict=True)
    coarse, fine = zip(*(tower(*part) for part in parts), strict=True)
    return None if coarse[0] is None else torch.cat(coarse), torch.cat(fine)


def exported_processor(directory: Path, manifest: ExportManifest) -> "Processor":
    """What feeds an export's towers, from files that are what the manifest says; CheckpointError where not."""
    from engine.checkpoints import open_processor
    from engine.checkpoints.files import processor_files

    manifest.verify(directory, manifest.processor)
    others = sorted(set(processor_files(directory)) - set(manifest.processor))
    if others:  # they would be read, too
        raise CheckpointError(
            str(directory),
            expected="the files that the manifest names",
            got=f"also {', '.join(others)}",
            remedy="Move it away, or export the checkpoint again.",
        )
    processor = open_processor(directory)
    found = (processor.padding, processor.max_tokens)
    if found != (manifest.padding, manifest.max_tokens):
        raise CheckpointError(
            str(directory),
            expected=f"sentences padded as when it was exported ({manifest.padding}, {manifest.max_tokens} tokens)",
            got=f"{found} by its files",
            remedy="Export the checkpoint again.",
        )
    return processor


def exported_encoder(
    directory: Path,
    manifest: ExportManifest,
    processor: "Processor",
    image: ImageTower,
    text: TextTower,
    *,
    runtime: str,
    why: str,
) -> DualEncoder:
    """The encoder of an export, whose towers some runtime has opened.

    Its reference has the hash of the checkpoint that was exported: an index of one is searched with the other.
    """
    return DualEncoder(
        image,
        text,
        processor,
        manifest.coarse_dim if manifest.coarse_from == "head" else None,
        manifest.fine_dim,
        CheckpointReference(os.path.abspath(directory), manifest.source.sha256),
        runtime=runtime,
        why=why,
    )
