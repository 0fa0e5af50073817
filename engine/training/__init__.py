"""Training dual encoders with hierarchical vectors.

settings.py    what may be chosen
start.py       what a run starts from: image weights, a checkpoint of ours, CLIP, SigLIP
tokenizer.py   a tokenizer for a new text tower
features.py    the features of frozen towers, computed once and kept
sampling.py    which pairs make up a batch, by its number; phrasing.py: captions said in other ways
sentences.py   captions as tokens; inputs.py: those pairs as the model takes them
loss.py        the objective; queue.py: pairs of past batches
mining.py      hard negatives, found by searching
validation.py  average recall of pictures held out
trainer.py     `transformers.Trainer` with all of these
state.py       resuming, Ctrl-C
publish.py     a checkpoint that is known to load
run.py         `train`, which puts these together; command.py: `python -m engine train`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.training.loss import hierarchical_loss
    from engine.training.run import train
    from engine.training.settings import Settings

__all__ = ["Settings", "hierarchical_loss", "train"]

_FILES = {"Settings": "settings", "hierarchical_loss": "loss", "train": "run"}


def __getattr__(name: str) -> Any:
    """Loaded when first used: the command line reads `Settings` without torch."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
