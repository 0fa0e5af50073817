"""A checkpoint whose activations overflow in float16."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def overflowing(checkpoint: Path, place: Path) -> Path:
    """The same vectors in float32; in float16 the products before the last normalisation are infinite."""
    shutil.copytree(checkpoint, place)
    weights = load_file(place / "model.safetensors")
    weights["visual_projection.weight"] *= 5_000
    for name in ("weight", "bias"):
        weights[f"vision_model.post_layernorm.{name}"] *= 1_000
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place
