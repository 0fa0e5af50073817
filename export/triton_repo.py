"""A model repository for NVIDIA's Triton Inference Server: both towers, as models that it loads unchanged."""

import shutil
from pathlib import Path

from engine.encoders.manifest import TOWERS, ExportManifest, TensorSpec, Tower
from export.directory import refuse_foreign, written_aside

CONFIG = "config.pbtxt"
TYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32"}


def write_repository(
    export: Path, manifest: ExportManifest, repository: Path, name: str
) -> list[Path]:
    """`NAME_image` and `NAME_text` below `repository`, each with a config.pbtxt and version 1; other models stay.

    An engine of `tensorrt` where exactly one was built for a tower, else the ONNX graph: the server has no
    backend for engines of `tensorrt_rtx`.
    """
    return [_write_model(export, manifest, repository, name, tower) for tower in TOWERS]


def _write_model(
    export: Path, manifest: ExportManifest, repository: Path, name: str, tower: Tower
) -> Path:
    graph = manifest.graphs[tower]
    plans = [e for e in manifest.engines if e.tower == tower and e.library == "tensorrt"]
    platform, source, target = "onnxruntime_onnx", graph.file, "model.onnx"
    if len(plans) == 1:
        platform, source, target = "tensorrt_plan", plans[0].file, "model.plan"
    model = repository / f"{name}_{tower}"
    refuse_foreign(model, CONFIG)
    _, usual, largest = manifest.profile["batch"]
    with written_aside(model) as draft:
        version = draft / "1"
        version.mkdir()
        shutil.copyfile(export / source, version / target)
        if graph.weights and target == "model.onnx":  # the graph names this file
            shutil.copyfile(export / graph.weights, version / graph.weights)
        lines = [
            f'name: "{model.name}"',
            f'platform: "{platform}"',
            f"max_batch_size: {largest}",
            *(_tensor("input", key, spec) for key, spec in graph.inputs.items()),
            *(_tensor("output", key, spec) for key, spec in graph.outputs.items()),
            f"dynamic_batching {{ preferred_batch_size: [ {usual} ] max_queue_delay_microseconds: 1000 }}",
        ]
        (draft / CONFIG).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return model


def _tensor(role: str, name: str, spec: TensorSpec) -> str:
    """Its dims without the batch, which the server adds; -1 is a length that varies."""
    dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in spec.shape[1:])
    return f'{role} [ {{ name: "{name}" data_type: {TYPES[spec.dtype]} dims: [ {dims} ] }} ]'
