"""`Processor`: sentences and pictures to what the towers take, by the settings in a checkpoint's own files."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.checkpoints.files import (
    CONFIG,
    PREPROCESSOR,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WHOLE_PROCESSOR,
    kind_of,
    processor_files,
    read_json,
)
from engine.checkpoints.refusals import expected
from engine.encoders.manifest import Padding
from engine.errors import CheckpointError

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 32  # times the shortest edge: what is left of the longest one before a picture is resized by the other


class Processor:
    """A tokenizer with its padding rule, and an image processor; safe to use from many threads.

    padding: "longest" (to the longest sentence of the batch) or "max_length" (always to `max_tokens`: SigLIP was
        trained so, attending to its padding, and any other padding ruins its vectors without a word).
    max_tokens: what longer sentences are cut to.
    files: the names of the files it was opened from.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        *,
        padding: Padding,
        max_tokens: int,
        files: tuple[str, ...] = (),
    ) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.padding, self.max_tokens, self.files = padding, max_tokens, files
        size = getattr(image_processor, "size", None)
        self._crops_resized = getattr(size, "shortest_edge", None) is not None and bool(
            getattr(image_processor, "do_center_crop", False)
        )
        self._lock = threading.Lock()  # a fast tokenizer keeps padding and truncation as state

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (1 = a token, 0 = padding), int64 `[B, T]`."""
        with self._lock:
            encoded = self.tokenizer(
                list(texts),
                padding="max_length" if self.padding == "max_length" else True,
                truncation=True,
                max_length=self.max_tokens,
                return_attention_mask=True,
                return_tensors="pt",
            )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def pixels(self, images: Sequence["Image"]) -> Tensor:
        """RGB images to pixel values float32 `[B, 3, H, W]`, channels last in memory."""
        if self._crops_resized:
            images = [middle_of(image) for image in images]
        pixels: Tensor = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        # A third faster in the convolutions of a CPU.
        return pixels.contiguous(memory_format=torch.channels_last)


def middle_of(image: "Image") -> "Image":
    """The middle of a picture that is more than `LONGEST` times as long as wide, others as they are.

    Of what is resized by its shortest edge only the middle is looked at. All of a picture of 1 x 20,000 pixels
    would become one of 224 x 4,480,000 first: gigabytes.
    """
    width, height = image.size
    most = LONGEST * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = (max(side - most, 0) // 2 for side in (width, height))
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def open_processor(directory: Path) -> Processor:
    """The processor of a checkpoint or of an export, without its weights."""
    longest = _positions(directory)
    tokenizer = _tokenizer(directory)
    return Processor(
        _image_processor(directory),
        tokenizer,
        padding="max_length" if _is_siglip(directory) else "longest",
        # What the positions can hold; a tokenizer without a limit says 10^30.
        max_tokens=min(longest, tokenizer.model_max_length),
        files=processor_files(directory),
    )


def _is_siglip(directory: Path) -> bool:
    """Whether it is a SigLIP checkpoint, or one of ours whose towers are SigLIP's."""
    kind = kind_of(directory)
    backbone = read_json(directory / CONFIG).get("backbone") if kind == "hivlp" else None
    return kind == "siglip" or (backbone or {}).get("model_type") == "siglip"


def _positions(directory: Path) -> int:
    """How many tokens the text tower has positions for."""
    from engine.checkpoints.configuration import read_configuration
    from engine.checkpoints.open_clip import configuration

    with expected(f"{directory}: the configuration of a text and an image tower"):
        kind = kind_of(directory)
        config: Any = (
            configuration(directory) if kind == "open_clip" else read_configuration(directory, kind)
        )
        return int(config.text_config.max_position_embeddings)


def _tokenizer(directory: Path) -> Any:
    """The tokenizer that `tokenizer.json` describes, to the letter.

    transformers' own classes of CLIP, Gemma and SigLIP would build it anew by their own rules, which have changed
    between releases (padding side and lower case among them). One of these is kept: SigLIP 2's lower case.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = read_json(directory / TOKENIZER_CONFIG)
    _refuse_other_files(directory / TOKENIZER_CONFIG, settings)
    remedy = "Save it again with AutoTokenizer.from_pretrained(…).save_pretrained(…)."
    with expected(f"{directory}: a readable {TOKENIZER}", remedy):
        if (directory / TOKENIZER).is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                directory,
                tokenizer_file=str(directory / TOKENIZER),
                trust_remote_code=False,
                local_files_only=True,
            )
            if settings.get("tokenizer_class", "").startswith("Siglip2Tokenizer"):
                _lower_case(tokenizer.backend_tokenizer)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
    if tokenizer.pad_token is None:
        raise CheckpointError(
            f"{directory / TOKENIZER_CONFIG}: a pad_token expected, got none. Name the one of the training."
        )
    return tokenizer


def _refuse_other_files(file: Path, settings: Mapping[str, Any]) -> None:
    """CheckpointError where the settings name a file in place of the directory's own."""
    for name, value in settings.items():
        stands_for = name.removesuffix("_file") in ("vocab", "merges", "spm", "sp_model", "gguf")
        elsewhere = stands_for and value != Path(str(value)).name
        if value and (elsewhere or name in ("fast_tokenizer_files", "init_inputs")):
            raise CheckpointError(
                f"{file}: settings of a tokenizer whose files are beside it expected, got {name}: {value!r:.80}. "
                "Save it again with AutoTokenizer.from_pretrained(…).save_pretrained(…)."
            )


def _lower_case(tokenizer: Any) -> None:
    """Lower case before all else; once more does no harm where the file has it already."""
    from tokenizers import normalizers

    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _image_processor(directory: Path) -> Any:
    """Resampling is Pillow's on every machine: torchvision's differs, and with it every vector."""
    from transformers import AutoImageProcessor

    if not any((directory / name).is_file() for name in (PREPROCESSOR, WHOLE_PROCESSOR)):
        from engine.checkpoints.open_clip import image_processor

        return image_processor(directory)
    with expected(f"{directory / PREPROCESSOR}: the settings of an image processor"):
        return AutoImageProcessor.from_pretrained(
            directory, backend="pil", trust_remote_code=False, local_files_only=True
        )
