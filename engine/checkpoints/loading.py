"""Weights into a `transformers` model: every one from the file, of the shape that the configuration says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from engine.checkpoints.configuration import check_layers, read_configuration
from engine.checkpoints.files import CONFIG, SAVE_AGAIN, WEIGHTS, Kind, weight_files
from engine.checkpoints.refusals import expected
from engine.errors import CheckpointError

Model = TypeVar("Model", bound=PreTrainedModel)

SLACK = 100_000_000  # weights: 400 MB may be built in vain, so that the error can name the shapes


def load_model(model_class: type[Model], directory: Path, kind: Kind) -> Model:
    """The model of a directory in float32 and ready for inference.

    transformers is given the configuration and the weights, and no directory: there it would look for adapters,
    pickles, quantised weights and code as well.
    """
    weights = {
        key: weight
        for name in weight_files(directory)
        for key, weight in read_safetensors(directory / name).items()
    }
    with expected(directory, "a readable checkpoint"):
        config = read_configuration(directory, kind)
        refuse_larger(directory / CONFIG, model_class, config, weights)
        loaded: Any = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below with the names, not by a traceback
        )
    model, report = loaded
    assert isinstance(model, model_class)
    refuse_differences(
        directory / WEIGHTS,
        **{name: report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")},
    )
    return _ready(model)


def refuse_larger(
    file: Path,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
) -> None:
    """CheckpointError where the settings describe a model that is far larger than the weights: it is not built."""
    check_layers(file, config, len(weights))
    with torch.device("meta"):
        wanted = sum(weight.numel() for weight in model_class(config).state_dict().values())
    found = sum(weight.numel() for weight in weights.values())
    if wanted > 2 * found + SLACK:
        raise CheckpointError(
            str(file),
            expected=f"a model of about {found:,} weights, as the other file holds",
            got=f"one of {wanted:,}",
            remedy=f"The two files belong to different models. {SAVE_AGAIN}",
        )


def load_weights(model: Model, weights: Mapping[str, Tensor], file: Path) -> Model:
    """The same for weights that were read from `file` and renamed to the model's own keys."""
    compare_weights(model, weights, file)
    model.load_state_dict(weights)
    return _ready(model)


def compare_weights(model: PreTrainedModel, weights: Mapping[str, Tensor], file: Path) -> None:
    """CheckpointError where the keys or shapes of `weights`, from `file`, are not the model's."""
    wanted = model.state_dict()
    refuse_differences(
        file,
        missing_keys=wanted.keys() - weights.keys(),
        unexpected_keys=weights.keys() - wanted.keys(),
        mismatched_keys=[
            (key, list(weights[key].shape), list(wanted[key].shape))
            for key in wanted.keys() & weights.keys()
            if weights[key].shape != wanted[key].shape
        ],
    )


def _ready(model: Model) -> Model:
    model.requires_grad_(False)
    model.train(False)
    return model


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file; CheckpointError where it is none."""
    with expected(file, "readable safetensors"):
        return load_file(file)


def refuse_differences(file: Path, **differences: Any) -> None:
    """CheckpointError where weights are missing, unexpected or of another shape, naming the first three of each.

    `mismatched_keys` are (key, shape in the file, shape by the configuration).
    """
    found = "; ".join(
        f"{name.replace('_', ' ')}: {_first(sorted(map(str, keys)))}"
        for name, keys in differences.items()
        if keys
    )
    if found:
        raise CheckpointError(
            str(file),
            expected="the weights that the configuration describes",
            got=found,
            remedy=f"The two files belong to different models. {SAVE_AGAIN}",
        )


def _first(keys: list[str]) -> str:
    return f"{keys[:3]}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
