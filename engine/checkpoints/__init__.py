"""Checkpoints of every kind that people have, opened alike.

files.py          which directory, which kind, which files, their hash
configuration.py  the settings of the model, as data
processor.py      sentences and pictures to inputs, by the checkpoint's own files
loading.py        weights into a model, strictly
towers.py         the towers of each kind, alike to call
open_clip.py      open_clip's configuration and weights as those of transformers' CLIP
checkpoint.py     `open_checkpoint`, which puts these together
refusals.py       transformers kept quiet, and what it raises for files that it cannot use
convert.py        pickled weights to safetensors, on request only
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.system.torchvision import hide_misfit

if TYPE_CHECKING:
    from engine.checkpoints.checkpoint import Checkpoint, open_checkpoint
    from engine.checkpoints.processor import Processor, open_processor

__all__ = ["Checkpoint", "Processor", "open_checkpoint", "open_processor"]


def __getattr__(name: str) -> Any:
    """Loaded when first used: `files.py` alone needs no transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hide_misfit()
    room = "processor" if name in ("Processor", "open_processor") else "checkpoint"
    return getattr(import_module(f"{__name__}.{room}"), name)
