"""The configuration of a checkpoint's model, read as data: by our classes, never by code that the files name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, PretrainedConfig, SiglipConfig

from engine.checkpoints.files import CONFIG, SAVE_AGAIN, Kind, read_json
from engine.errors import CheckpointError
from engine.model import HiVLPConfig

CLASSES: dict[str, type[PretrainedConfig]] = {
    "hivlp": HiVLPConfig,
    "clip": CLIPConfig,
    "siglip": SiglipConfig,
}
# Left out wherever they stand: which Python to run, and which kernels to fetch. We run our own classes on torch's.
IGNORED = (
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
)
# Refused: weights in another form or file, and other modules in place of the model's own.
REFUSED = ("quantization_config", "transformers_weights", "fusion_config", "distributed_config")


def read_configuration(directory: Path, kind: Kind) -> PretrainedConfig:
    """That of a model of transformers' form; CheckpointError where it asks for what we do not read."""
    file = directory / CONFIG
    found = read_json(file)
    for name, value in _entries(found):
        if name in REFUSED and value:
            raise CheckpointError(
                str(file),
                expected=f"the settings of a plain {kind} model",
                got=name,
                remedy="Save it without, its weights in model.safetensors, in float32, float16 or bfloat16.",
            )
    config: PretrainedConfig = CLASSES[kind].from_dict(_without(found))
    return config


def check_layers(file: Path, config: PretrainedConfig, tensors: int) -> None:
    """CheckpointError for more layers than there are tensors: building a million of them would take hours."""
    for name, value in _entries(config.to_dict()):
        if name.endswith("layers") and isinstance(value, int) and value > tensors:
            raise CheckpointError(
                str(file),
                expected=f"at most as many layers as there are weights ({tensors})",
                got=f"{name} {value}",
                remedy=f"The files belong to different models. {SAVE_AGAIN}",
            )


def _entries(found: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value of a JSON object, those of the objects within too."""
    if isinstance(found, Mapping):
        for name, value in found.items():
            yield str(name), value
            yield from _entries(value)


def _without(found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    return {name: _without(value) for name, value in found.items() if name not in IGNORED}
