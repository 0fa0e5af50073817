"""Pickled weights to safetensors: on request only, since a pickle may run anything when it is opened carelessly."""

import os
import pickle
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, PreTrainedModel, SiglipModel

from engine.checkpoints.configuration import read_configuration
from engine.checkpoints.files import OPEN_CLIP_WEIGHTS, WEIGHTS, Kind, kind_of
from engine.checkpoints.loading import compare_weights
from engine.checkpoints.open_clip import as_transformers, configuration
from engine.checkpoints.refusals import expected
from engine.errors import CheckpointError
from engine.model import HiVLPModel

MODELS: dict[str, type[PreTrainedModel]] = {
    "hivlp": HiVLPModel,
    "clip": CLIPModel,
    "siglip": SiglipModel,
}
WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training scripts put weights under
# What goes before every key: torch's data parallelism, torch.compile, a module that holds the model.
PREFIXES = ("module.", "_orig_mod.", "model.")


def convert(pickled: Path, directory: Path) -> Path:
    """Write the weights of a `.pt` or `.bin` into the checkpoint `directory`, as safetensors; returns the file.

    The pickle may hold tensors and plain containers, nothing that runs (`weights_only`). Its keys and shapes must
    be those that the directory's configuration describes; CheckpointError says which are not, with nothing written.
    """
    kind = kind_of(directory)
    target = directory / (OPEN_CLIP_WEIGHTS if kind == "open_clip" else WEIGHTS)
    if target.exists():
        raise CheckpointError(
            str(target),
            expected="a name that is not taken",
            got="a file",
            remedy="Move it away to replace it.",
        )
    weights = _read(pickled)
    if kind == "open_clip":
        compare_weights(_without_weights(directory, kind), as_transformers(weights), pickled)
    else:
        # transformers once stored this buffer, and ignores it since.
        weights = {k: w for k, w in weights.items() if not k.endswith(".position_ids")}
        compare_weights(_without_weights(directory, kind), weights, pickled)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        # Cloned: safetensors refuses tensors that share their memory.
        whole = {name: weight.clone().contiguous() for name, weight in weights.items()}
        save_file(whole, draft, metadata={"format": "pt"})
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _without_weights(directory: Path, kind: Kind) -> PreTrainedModel:
    """The model that the configuration describes: keys and shapes alone."""
    with expected(directory, f"the configuration of a {kind} model"), torch.device("meta"):
        if kind == "open_clip":
            return CLIPModel(configuration(directory))
        return MODELS[kind](read_configuration(directory, kind))


def _read(pickled: Path) -> dict[str, Tensor]:
    """The tensors by name, out of what a training script may have wrapped them in."""
    try:
        found: Any = torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}".strip(" :").partition("\n")[0]
        raise CheckpointError(
            str(pickled),
            expected="a pickle of tensors alone",
            got=reason,
            remedy="It is not opened in any other way. Save the weights with safetensors where they were made.",
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(w, Tensor) for w in found.values()):
        raise CheckpointError(
            str(pickled),
            expected=f"tensors by name, or these under one of {', '.join(WRAPPERS)}",
            got=_described(found),
            remedy="Save model.state_dict().",
        )
    weights = {str(name): weight for name, weight in found.items()}
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in weights)), None):
        if not weights:
            break
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return weights


def _described(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    odd = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    return f"also {', '.join(odd[:3])}"
