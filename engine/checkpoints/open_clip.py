"""open_clip's checkpoints as transformers' CLIP: the same network, its settings and weights by other names.

A directory holds `open_clip_config.json` (`model_cfg`, `preprocess_cfg`), `open_clip_model.safetensors` and the
tokenizer's files. Vision transformers of open_clip's own are read; a setting that would change the network in a way
that CLIP does not know is refused by name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from engine.checkpoints.files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS, read_json
from engine.checkpoints.loading import load_weights, read_safetensors, refuse_larger
from engine.checkpoints.refusals import expected
from engine.errors import CheckpointError

# Each setting of a tower and what open_clip takes where the file does not say.
VISION = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "layers": 12,
    "head_width": 64,
    "mlp_ratio": 4.0,
}
TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}
MODEL = {"embed_dim": None, "vision_cfg": None, "text_cfg": None, "quick_gelu": False}
PREPROCESSING = {
    "size": None,
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),  # OpenAI's
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers

# Their keys to transformers': every pattern in this order.
RENAMED = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),  # sic, in transformers
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
TRANSPOSED = ("visual_projection.weight", "text_projection.weight")  # they multiply from the right


def load_open_clip(directory: Path) -> CLIPModel:
    """The model of an open_clip directory, in float32 and ready for inference."""
    file = next(
        directory / name for name in (OPEN_CLIP_WEIGHTS, WEIGHTS) if (directory / name).is_file()
    )
    weights = as_transformers(read_safetensors(file))
    with expected(directory / OPEN_CLIP_CONFIG, "the settings of a CLIP"):
        config = configuration(directory)
        refuse_larger(directory / OPEN_CLIP_CONFIG, CLIPModel, config, weights)
        model = CLIPModel(config)
    return load_weights(model, weights, file)


def as_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights by the names that transformers' CLIP gives them."""
    renamed: dict[str, Tensor] = {}
    for key, weight in weights.items():
        if key.startswith("text."):  # where the text tower is a module of its own
            key = key.removeprefix("text.")
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        if key in TRANSPOSED:
            weight = weight.T.contiguous()
        if ".in_proj_" in key:  # query, key and value in one
            for part, third in zip("qkv", weight.chunk(3), strict=True):
                renamed[key.replace("in_proj_", f"{part}_proj.")] = third.contiguous()
        elif not key.endswith("attn_mask"):  # the causal mask, which older files hold
            renamed[key] = weight
    return renamed


def image_processor(directory: Path) -> CLIPImageProcessorPil:
    """What `preprocess_cfg` describes."""
    config = read_json(directory / OPEN_CLIP_CONFIG)
    settings = _settings(directory, config, "preprocess_cfg", PREPROCESSING)
    size = settings["size"] or _model(directory)["vision"]["image_size"]
    size = size[-1] if isinstance(size, list) and len(set(size[-2:])) == 1 else size
    mode, resample = settings["resize_mode"], RESAMPLE.get(settings["interpolation"])
    if not isinstance(size, int) or mode not in ("shortest", "squash") or resample is None:
        raise CheckpointError(
            str(directory / OPEN_CLIP_CONFIG),
            expected="preprocess_cfg with a square size, resize_mode 'shortest' or 'squash', and interpolation "
            "'bicubic' or 'bilinear'",
            got=str(settings),
            remedy="Put a preprocessor_config.json of transformers beside it.",
        )
    square = {"height": size, "width": size}
    return CLIPImageProcessorPil(
        size={"shortest_edge": size} if mode == "shortest" else square,
        do_center_crop=mode == "shortest",
        crop_size=square,
        resample=resample,
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
    )


def configuration(directory: Path) -> CLIPConfig:
    """Of the model in transformers' terms; CheckpointError where it cannot be said in them."""
    model = _model(directory)
    vision, text, activation = model["vision"], model["text"], model["activation"]
    return CLIPConfig(
        projection_dim=model["embed_dim"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": activation,
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text["mlp_ratio"]),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "hidden_act": activation,
            # open_clip pools where the token id is largest; 2 is how transformers' CLIP says so.
            "eos_token_id": 2,
        },
    )


def _model(directory: Path) -> dict[str, Any]:
    """`model_cfg` with every default filled in."""
    config = read_json(directory / OPEN_CLIP_CONFIG)
    model = _settings(directory, config, "model_cfg", MODEL)
    vision = _settings(directory, model, "vision_cfg", VISION)
    text = _settings(directory, model, "text_cfg", TEXT)
    numbers = (model["embed_dim"], *vision.values(), *text.values())
    if not all(type(number) in (int, float) and number > 0 for number in numbers):
        raise CheckpointError(
            str(directory / OPEN_CLIP_CONFIG),
            expected="positive numbers for embed_dim, vision_cfg and text_cfg",
            got=f"{model['embed_dim']}, {vision}, {text}",
            remedy="Only open_clip's vision transformers are read.",
        )
    activation = "quick_gelu" if model["quick_gelu"] else "gelu"
    return {
        "vision": vision,
        "text": text,
        "embed_dim": model["embed_dim"],
        "activation": activation,
    }


def _settings(
    directory: Path, config: Mapping[str, Any], name: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings under `name`, defaults filled in; one that is not known is refused unless it is off."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(
            str(directory / OPEN_CLIP_CONFIG),
            expected=f"a JSON object {name}",
            got=repr(found),
            remedy="Restore it.",
        )
    unknown = {key: value for key, value in found.items() if key not in known and value}
    if unknown:
        raise CheckpointError(
            str(directory / OPEN_CLIP_CONFIG),
            expected=f"{name} of {', '.join(known)}",
            got=f"also {unknown}, which changes the network",
            remedy="Convert the checkpoint to transformers' CLIP or SigLIP.",
        )
    return {**known, **found}
