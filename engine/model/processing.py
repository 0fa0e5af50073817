"""`HiVLPProcessor`: the checkpoint's own image processor and tokenizer, under one name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedTokenizerFast, ProcessorMixin


class HiVLPProcessor(ProcessorMixin):
    """Sentences and images to model inputs, by the settings in the checkpoint's files alone.

    Image size, mean, std and interpolation are in `preprocessor_config.json`; vocabulary, casing and maximum
    length in `tokenizer.json` and `tokenizer_config.json`.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def of_directory(cls, checkpoint: Path) -> "HiVLPProcessor":
        """That of a checkpoint, resampling with Pillow on every machine: torchvision's differs, and with it
        every vector."""
        return cls(
            AutoImageProcessor.from_pretrained(checkpoint, backend="pil"),
            PreTrainedTokenizerFast.from_pretrained(checkpoint),
        )

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Sentences to `input_ids` and `attention_mask`, int64 `[B, T]`, padded to the longest."""
        encoded = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """RGB images to pixel values float32 `[B, 3, H, W]`."""
        pixels: Tensor = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        # Channels last: a third faster in the convolutions of a CPU.
        return pixels.contiguous(memory_format=torch.channels_last)
