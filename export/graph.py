"""A tower as an ONNX file: exported, checked, and found to hold at more than one batch size."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.encoders.manifest import BATCH, TOKENS, Graph, TensorSpec
from export.errors import REPORT, ExportError
from export.tower import ExportedTower

Array = NDArray[Any]

OPSET = 22  # the first in which convolutions may be bfloat16
OUTPUTS = ("coarse", "fine")
ONE_FILE = 2_000_000_000  # protobuf holds 2 GiB: larger weights go to a file beside the graph
TOLERANCE = 0.01  # of coordinates of unit vectors between batch sizes: sums in another order, in float16 too


def export_graph(
    tower: ExportedTower, inputs: Mapping[str, torch.Tensor], file: Path, *, dynamic_tokens: bool
) -> Graph:
    """Write `tower` as ONNX, its batch dynamic, and its sentence length too where asked.

    inputs: an example of each, of batch 2 or more. Raises ExportError where torch cannot trace the tower.
    """
    varying = {0: BATCH, 1: TOKENS} if dynamic_tokens else {0: BATCH}
    axes = dict.fromkeys(varying, torch.export.Dim.DYNAMIC)
    with _quiet():
        try:
            program = torch.onnx.export(
                tower,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(OUTPUTS),
                dynamic_shapes=tuple(axes for _ in inputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                file.name,
                expected="a tower that torch.onnx can trace",
                got=_reason(error),
                remedy=REPORT,
            ) from error
        assert program is not None
        graph: Any = program.model.graph
        for tensor in (*graph.inputs, *graph.outputs):
            for axis, name in varying.items():  # the exporter's own names, s99, say nothing
                if not isinstance(tensor.shape[axis], int):
                    tensor.shape[axis] = name
        _forget_where(program.model)
        apart = sum(weight.const_value.nbytes for weight in graph.initializers.values()) > ONE_FILE
        program.save(file, external_data=apart)
        check_graph(file)
    return Graph(
        file.name,
        f"{file.name}.data" if apart else None,
        {tensor.name: _spec(tensor) for tensor in graph.inputs},
        {tensor.name: _spec(tensor) for tensor in graph.outputs},
    )


def check_graph(file: Path) -> None:
    """ExportError where the graph is none that ONNX allows: one whose dtypes do not fit each other, say."""
    import onnx

    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            file.name,
            expected="a graph that ONNX allows",
            got=_reason(error),
            remedy=f"{REPORT} Until then export with --dtype fp32.",
        ) from None


def open_graph(file: Path) -> Any:
    """An ONNX Runtime session on the CPU, which has few kernels for bfloat16: such a graph is opened widened."""
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model: Any = file
    stored = onnx.load(file, load_external_data=False)
    if any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in stored.graph.initializer):
        model = widened(onnx.load(file)).SerializeToString()
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (
        refusals.Fail,
        refusals.InvalidArgument,
        refusals.InvalidGraph,
        refusals.NotImplemented,
        refusals.RuntimeException,
    ) as error:
        raise ExportError(
            file.name,
            expected="a graph that ONNX Runtime runs",
            got=_reason(error),
            remedy=REPORT,
        ) from None


def run_graph(session: Any, batch: Mapping[str, Array]) -> tuple[Array, Array]:
    """Coarse float32 `[B, d]` and fine `[B, D]`."""
    coarse, fine = session.run(list(OUTPUTS), dict(batch))
    return coarse, fine


def widened(model: Any) -> Any:
    """A bfloat16 graph (an onnx ModelProto) computing in float32, with the values of its weights as they are."""
    from onnx import TensorProto, numpy_helper

    low, wide = TensorProto.BFLOAT16, TensorProto.FLOAT
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    constants = [a.t for a in attributes if a.HasField("t")]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type == low:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for attribute in attributes:
        if attribute.name in ("to", "dtype") and attribute.i == low:
            attribute.i = wide
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == low:
            value.type.tensor_type.elem_type = wide
    return model


def check_batches(file: Path, inputs: Mapping[str, torch.Tensor], sizes: Sequence[int]) -> None:
    """A row's vectors do not depend on how many share its batch; ExportError where a size was frozen in the graph.

    inputs: a few of each, repeated to each of `sizes`. Whether they are torch's vectors is for parity to say.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    session = open_graph(file)
    few = {name: tensor.numpy() for name, tensor in inputs.items()}
    expected = run_graph(session, few)
    for size in sizes:
        rows = np.arange(size) % len(expected[0])
        try:
            found = run_graph(session, {name: array[rows] for name, array in few.items()})
        except (refusals.InvalidArgument, refusals.RuntimeException, refusals.Fail) as error:
            raise ExportError(
                file.name,
                expected=f"a graph that takes a batch of {size}",
                got=f"from ONNX Runtime: {_reason(error)}",
                remedy=REPORT,
            ) from None
        for name, apart, together in zip(OUTPUTS, expected, found, strict=True):
            wanted = apart[rows]
            if wanted.shape != together.shape or not np.allclose(
                wanted, together, rtol=0, atol=TOLERANCE, equal_nan=True
            ):
                raise ExportError(
                    file.name,
                    expected=f"the same {name} {wanted.shape} at a batch of {size} as at {len(apart)}",
                    got=f"other values, {together.shape}",
                    remedy=REPORT,
                )


def _forget_where(model: Any) -> None:
    """Drop torch's notes on every node: stack traces with this machine's paths, larger than a small graph."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for part in (model, model.graph, *model.graph.inputs, *model.graph.initializers.values()):
        part.metadata_props.clear()


def _spec(tensor: Any) -> TensorSpec:
    axes = (axis if isinstance(axis, int) else str(axis.value) for axis in tensor.shape)
    return TensorSpec(str(tensor.dtype.numpy()), tuple(axes))


def _reason(error: BaseException) -> str:
    """The last cause's first line: torch's exporter wraps the reason in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither torch's remarks on packages that are not there, nor its warnings about itself."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
