"""Small checkpoints with random weights of every kind that is read, each with a real tokenizer and its own shape.

    SMALL["clip"](place)  # writes a directory as people have it, and returns it

Every parameter is random, biases and norms included, so that one left out or swapped shows in the vectors. Two
shapes of each kind, so that nothing is fitted to one.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests.engine.checkpoints.open_clip_model import OpenClip

CORPUS = [
    "a red car on the road",
    "a dog and a cat, asleep",
    "The Quick brown fox jumps over the lazy dog!",
    "two people walking under an umbrella in the rain",
    "a slice of pizza; grapes and an apple",
    "smiling face with sunglasses",
]
START, END = "<|startoftext|>", "<|endoftext|>"


def clip(
    place: Path,
    *,
    image: int = 32,
    patch: int = 8,
    widths: tuple[int, int] = (32, 24),
    layers: tuple[int, int] = (2, 1),
    heads: int = 4,
    dim: int = 20,
    tokens: int = 16,
    activation: str = "quick_gelu",
    old_end: bool = False,
) -> Path:
    """CLIP. `old_end`: a configuration of before 2023, whose eos_token_id is 2 whatever the tokenizer says."""
    tokenizer = clip_tokenizer(tokens)
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    if not old_end:
        ends = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    config = CLIPConfig(
        projection_dim=dim,
        vision_config={
            **_tower(widths[0], layers[0], heads, activation),
            "image_size": image,
            "patch_size": patch,
        },
        text_config={
            **_tower(widths[1], layers[1], heads, activation),
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokens,
            **ends,
        },
    )
    _scrambled(CLIPModel(config)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    square = {"height": image, "width": image}
    CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size=square).save_pretrained(place)
    return place


def siglip(
    place: Path,
    *,
    image: int = 32,
    patch: int = 8,
    width: int = 24,
    layers: tuple[int, int] = (2, 1),
    heads: int = 4,
    tokens: int = 16,
    second: bool = False,
) -> Path:
    """SigLIP, or with `second` SigLIP 2 of a fixed resolution: the same model with a tokenizer like Gemma's."""
    tokenizer = siglip2_tokenizer() if second else siglip_tokenizer(tokens)
    config = SiglipConfig(
        vision_config={
            **_tower(width, layers[0], heads, "gelu_pytorch_tanh"),
            "image_size": image,
            "patch_size": patch,
        },
        text_config={
            **_tower(width, layers[1], heads, "gelu_pytorch_tanh"),
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokens,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    _scrambled(SiglipModel(config)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    size = {"height": image, "width": image}
    SiglipImageProcessorPil(size=size, resample=2 if second else 3).save_pretrained(place)
    return place


def open_clip(
    place: Path,
    *,
    image: int = 32,
    patch: int = 8,
    widths: tuple[int, int] = (32, 24),
    layers: tuple[int, int] = (2, 1),
    heads: tuple[int, int] = (4, 3),
    dim: int = 20,
    tokens: int = 16,
    quick_gelu: bool = False,
    resize_mode: str = "shortest",
) -> Path:
    """open_clip, as its `push_to_hf_hub` writes a directory."""
    tokenizer = clip_tokenizer(tokens)
    model_config = {
        "embed_dim": dim,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": image,
            "layers": layers[0],
            "width": widths[0],
            "head_width": widths[0] // heads[0],
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": tokens,
            "vocab_size": len(tokenizer),
            "width": widths[1],
            "heads": heads[1],
            "layers": layers[1],
        },
    }
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
        "interpolation": "bicubic",
        "resize_mode": resize_mode,
    }
    tokenizer.save_pretrained(place)
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (place / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = _scrambled(OpenClip(model_config))
    save_file(
        {name: weight.contiguous() for name, weight in model.state_dict().items()},
        place / "open_clip_model.safetensors",
        metadata={"format": "pt"},
    )
    return place


SMALL: dict[str, Callable[[Path], Path]] = {
    "clip": clip,
    "clip-other": partial(
        clip,
        image=48,
        patch=16,
        widths=(48, 30),
        layers=(1, 3),
        heads=6,
        dim=70,
        tokens=12,
        activation="gelu",
        old_end=True,
    ),
    "siglip": siglip,
    "siglip-other": partial(
        siglip, image=42, patch=14, width=40, layers=(1, 2), heads=5, tokens=11
    ),
    "siglip2": partial(siglip, second=True),
    "siglip2-other": partial(
        siglip, image=48, patch=16, width=36, layers=(3, 2), heads=2, tokens=64, second=True
    ),
    "open_clip": open_clip,
    "open_clip-other": partial(
        open_clip,
        image=48,
        patch=12,
        widths=(40, 32),
        heads=(5, 2),
        layers=(1, 2),
        dim=72,
        tokens=12,
        quick_gelu=True,
        resize_mode="squash",
    ),
}


def clip_tokenizer(tokens: int) -> CLIPTokenizer:
    """CLIP's own kind: bytes, lower case, `</w>` at a word's end, the two special tokens last."""
    learner = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(CORPUS, trainer)
    learned = json.loads(learner.to_str())["model"]
    alphabet = [end for letter in learned["vocab"] for end in (letter, f"{letter}</w>")]
    words = [word for word in dict.fromkeys([*learned["vocab"], *alphabet]) if "<|" not in word]
    vocabulary = {word: place for place, word in enumerate([*words, START, END])}
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)  # type: ignore[arg-type]


def siglip_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    """Like SigLIP's: pieces of words, lower case without punctuation, padded with its end token, no mask."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *(normalizers.Replace(mark, "") for mark in "!,;.")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=tokens,
        model_input_names=["input_ids"],
    )


def siglip2_tokenizer() -> Siglip2Tokenizer:
    """Like SigLIP 2's: Gemma's with lower case, `<pad>` on the right, no mask and no limit of its own."""
    learner = Siglip2Tokenizer().backend_tokenizer
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    learner.train_from_iterator(CORPUS, trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Siglip2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],  # type: ignore[misc]
        padding_side="right",
        model_input_names=["input_ids"],
    )
    end = ("<eos>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[end]
    )
    return tokenizer


def _tower(width: int, layers: int, heads: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
    }


def _scrambled(model: Any) -> Any:
    """Random values on every parameter, about as large as in a trained model."""
    chance = torch.Generator().manual_seed(len(list(model.parameters())))
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=chance)
        if parameter.ndim > 1:
            nn.init.zeros_(parameter)
        parameter.data += noise * (0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5)
    return model.eval()
