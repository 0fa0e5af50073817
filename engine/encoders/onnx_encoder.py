"""The ONNX Runtime encoder of an export directory.

Nothing is parsed before its bytes were found to be those that the manifest names, and what is parsed are those very
bytes: neither a graph nor its weights are read from the disk a second time. A graph may take weights from the one
file that the manifest gives it, and from nowhere else.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.encoders.dual_encoder import (
    DualEncoder,
    Vectors,
    exported_encoder,
    exported_processor,
    in_parts,
)
from engine.encoders.manifest import BATCH, EXPORT_AGAIN, ExportManifest, Graph, TensorSpec, Tower
from engine.errors import CheckpointError, MissingPackage, RuntimeUnavailable

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TYPES = {"tensor(float)": "float32", "tensor(int32)": "int32"}


def onnx_encoder(directory: Path, *, device: str = "auto", why: str) -> DualEncoder:
    """The graphs of `directory` in ONNX Runtime: on CUDA where `device` allows it and onnxruntime-gpu is there.

    A batch larger than the profile's is run in parts of at most that size; there is no smallest batch.
    Raises CheckpointError where a file is not what the manifest says, RuntimeUnavailable where it cannot run here.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackage.of("onnxruntime", "onnx", "Running an export's graphs") from None

    manifest = ExportManifest.read(directory)
    provider = CPU
    if device != "cpu" and CUDA in onnxruntime.get_available_providers():
        provider = CUDA
    if provider == CPU and manifest.dtype == "bf16":
        raise RuntimeUnavailable(
            str(directory),
            expected="an export in fp32 or fp16, as ONNX Runtime computes on a CPU",
            got="one in bf16",
            remedy="Export with --dtype fp32, or run it with TensorRT.",
        )
    processor = exported_processor(directory, manifest)
    towers = {tower: OnnxTower(directory, manifest, tower, provider) for tower in ("image", "text")}
    return exported_encoder(
        directory, manifest, processor, towers["image"], towers["text"], runtime="onnx", why=why
    )


class OnnxTower:
    """One graph in a session, which many threads may run at a time: CPU tensors in, CPU tensors out."""

    def __init__(
        self, directory: Path, manifest: ExportManifest, tower: Tower, provider: str
    ) -> None:
        self.graph = manifest.graphs[tower]
        self.at_most = manifest.profile[BATCH][2] if BATCH in manifest.profile else None
        self._session = _session(directory, manifest, self.graph, provider)

    def __call__(self, *inputs: Tensor) -> Vectors:
        return in_parts(self._run, inputs, self.at_most)

    def _run(self, *inputs: Tensor) -> Vectors:
        fed = {
            name: np.ascontiguousarray(tensor.numpy(), dtype=spec.dtype)
            for (name, spec), tensor in zip(self.graph.inputs.items(), inputs, strict=True)
        }
        coarse, fine = self._session.run(["coarse", "fine"], fed)
        return torch.from_numpy(coarse), torch.from_numpy(fine)


def _session(directory: Path, manifest: ExportManifest, graph: Graph, provider: str) -> Any:
    """The session of a graph whose bytes, external weights, inputs and outputs are what the manifest says."""
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    content = manifest.content(directory, graph.file)
    _refuse_other_files(directory / graph.file, content, graph.weights)
    options = SessionOptions()
    options.log_severity_level = 3  # errors; they come as exceptions too
    if graph.weights is not None:
        weights = manifest.content(directory, graph.weights)
        options.add_external_initializers_from_files_in_memory(
            [graph.weights], [weights], [len(weights)]
        )
    try:
        session = InferenceSession(content, options, providers=list(dict.fromkeys([provider, CPU])))
    except (
        refusals.Fail,
        refusals.InvalidArgument,
        refusals.InvalidGraph,
        refusals.InvalidProtobuf,
        refusals.NotImplemented,
        refusals.RuntimeException,
    ) as error:
        raise CheckpointError(
            str(directory / graph.file),
            expected="a graph that ONNX Runtime reads",
            got=str(error),
            remedy=EXPORT_AGAIN,
        ) from None
    _compare(directory / graph.file, "inputs", graph.inputs, session.get_inputs())
    _compare(directory / graph.file, "outputs", graph.outputs, session.get_outputs())
    return session


def _compare(file: Path, what: str, expected: Mapping[str, TensorSpec], found: Any) -> None:
    named = {tensor.name: [TYPES.get(tensor.type, tensor.type), *tensor.shape] for tensor in found}
    wanted = {name: [spec.dtype, *spec.shape] for name, spec in expected.items()}
    if named != wanted:
        raise CheckpointError(
            str(file),
            expected=f"{what} {wanted}, as the manifest says",
            got=str(named),
            remedy=EXPORT_AGAIN,
        )


def _refuse_other_files(file: Path, content: bytes, weights: str | None) -> None:
    """CheckpointError where a graph names any file for its weights but `weights`."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise MissingPackage.of("onnx", "onnx", "Running an export's graphs") from None
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise CheckpointError(
            str(file), expected="an ONNX graph", got=str(error), remedy=EXPORT_AGAIN
        ) from None
    expected = "weights inside the graph" if weights is None else f"weights in {weights}"
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found = {entry.key: entry.value for entry in tensor.external_data}.get("location")
            if found != weights:
                raise CheckpointError(
                    str(file),
                    expected=expected,
                    got=f"{tensor.name!r} in {found!r}",
                    remedy=f"No other file is read. {EXPORT_AGAIN}",
                )


def _tensors(model: Any) -> Iterable[Any]:
    """Every tensor of a model, wherever it stands: initialisers, constants, branches, functions."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            sparse = graph.sparse_initializer
            yield from (part for tensor in sparse for part in (tensor.values, tensor.indices))
            nodes += graph.node
        else:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                for tensor in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (tensor.values, tensor.indices)
                graphs += ([attribute.g] if attribute.HasField("g") else []) + [*attribute.graphs]
