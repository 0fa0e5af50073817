"""`Processor`: sentences and pictures to what the towers take, by the settings in a checkpoint's own files."""

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
    Padding,
    kind_of,
    processor_files,
    read_json,
)
from engine.checkpoints.refusals import expected
from engine.errors import CheckpointError
from engine.system.forks import forkable_lock

if TYPE_CHECKING:
    from PIL.Image import Image

SAVE_TOKENIZER = "Save it again with AutoTokenizer.from_pretrained(…).save_pretrained(…)."
LONGEST_SIDE = 32  # times the shorter one; of longer pictures no crop shows more than the middle


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
        self._lock = forkable_lock()  # a fast tokenizer keeps padding and truncation as state

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (1 = a token, 0 = padding), int64 `[B, T]`."""
        with self._lock:
            encoded = self.tokenizer(
                # Half a surrogate pair, as broken text holds it, is no character.
                [text.encode("utf-8", "replace").decode() for text in texts],
                padding="max_length" if self.padding == "max_length" else True,
                truncation=True,
                max_length=self.max_tokens,
                return_attention_mask=True,
                return_tensors="pt",
            )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def pixels(self, images: Sequence["Image"]) -> Tensor:
        """RGB images to pixel values float32 `[B, 3, H, W]`, channels last in memory."""
        seen = [self._shortened(image) for image in images]
        pixels: Tensor = self.image_processor(seen, return_tensors="pt")["pixel_values"]
        # A third faster in the convolutions of a CPU.
        return pixels.contiguous(memory_format=torch.channels_last)

    def _shortened(self, image: "Image") -> "Image":
        """`image`, less the ends of a very long one that the crop around its centre leaves out anyway.

        Resizing its shorter side to 224 would make 224 x 4,480,000 pixels of 1 x 20,000.
        """
        settings = self.image_processor
        size = dict(getattr(settings, "size", None) or {})
        crops = all(getattr(settings, name, False) for name in ("do_resize", "do_center_crop"))
        if not (crops and size.get("shortest_edge")) or size.get("longest_edge"):
            return image
        longest = LONGEST_SIDE * min(image.size)
        # As many from either end, so that the centre stays where it is.
        left, top = (max(0, (side - longest) // 2) for side in image.size)
        if not (left or top):
            return image
        return image.crop((left, top, image.width - left, image.height - top))


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

    with expected(directory, "the configuration of a text and an image tower"):
        kind = kind_of(directory)
        config: Any = (
            configuration(directory) if kind == "open_clip" else read_configuration(directory, kind)
        )
        return int(config.text_config.max_position_embeddings)


def _tokenizer(directory: Path) -> Any:
    """The tokenizer that `tokenizer.json` describes, to the letter.

    transformers' own classes of CLIP, Gemma and SigLIP would build it anew by their own rules, which have changed
    between releases (padding side and lower case among them). One of these is kept: SigLIP's lower case.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = read_json(directory / TOKENIZER_CONFIG)
    _refuse_other_files(directory / TOKENIZER_CONFIG, settings)
    with expected(directory, f"a readable {TOKENIZER}", SAVE_TOKENIZER):
        if (directory / TOKENIZER).is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                directory,
                tokenizer_file=str(directory / TOKENIZER),
                trust_remote_code=False,
                local_files_only=True,
            )
            if _is_siglip(directory) and _lowers(settings):
                _lower_case(tokenizer.backend_tokenizer)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
    if tokenizer.pad_token is None:
        raise CheckpointError(
            str(directory / TOKENIZER_CONFIG),
            expected="a pad_token",
            got="none",
            remedy="Name the one that the model was trained with.",
        )
    return tokenizer


def _refuse_other_files(file: Path, settings: Mapping[str, Any]) -> None:
    """CheckpointError where the settings name a file in place of the directory's own."""
    for name, value in settings.items():
        stands_for = name.removesuffix("_file") in ("vocab", "merges", "spm", "sp_model", "gguf")
        elsewhere = stands_for and value != Path(str(value)).name
        if value and (elsewhere or name in ("fast_tokenizer_files", "init_inputs")):
            raise CheckpointError(
                str(file),
                expected="settings of a tokenizer whose files are beside it",
                got=f"{name}: {value!r:.80}",
                remedy=SAVE_TOKENIZER,
            )


def _lowers(settings: Mapping[str, Any]) -> bool:
    """Whether a SigLIP model was trained on lower case: SigLIP 2 was, whose published directories name Gemma's
    tokenizer, which lowers nothing."""
    kind = str(settings.get("tokenizer_class"))
    return kind.startswith(("Siglip2Tokenizer", "GemmaTokenizer")) or bool(
        settings.get("do_lower_case")
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
    with expected(directory / PREPROCESSOR, "the settings of an image processor"):
        return AutoImageProcessor.from_pretrained(
            directory, backend="pil", trust_remote_code=False, local_files_only=True
        )
