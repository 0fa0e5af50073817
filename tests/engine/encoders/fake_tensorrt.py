"""What stands for TensorRT where there is no GPU: engines that are none, a deserialiser, an execution context."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from engine.encoders.manifest import TOWERS, ExportManifest, TensorRTEngine
from tests.engine.conftest import BATCH


def engines(hardware: str, file: str = "tower.engine") -> tuple[TensorRTEngine, ...]:
    return tuple(
        TensorRTEngine(tower, file, "tensorrt_rtx", "1.2.3", hardware, "fp32", 0.1)
        for tower in TOWERS
    )


def with_engine(place: Path) -> None:
    (place / "tower.engine").write_bytes(bytes(range(256)) * 8)


class Deserialiser:
    """Stands for the library, and counts what reaches its native code."""

    __version__ = "1.2.3"

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            assert level == self.ERROR

    def __init__(self) -> None:
        self.reached: list[bytes] = []

    def Runtime(self, _: Any) -> Any:  # noqa: N802  # TensorRT's own name
        return self

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self.reached.append(content)
        return None  # as TensorRT does with what it cannot read


class Context:
    """An execution context over ONNX Runtime: shapes and addresses as TensorRT takes them, memory of the CPU."""

    def __init__(self, place: Path, manifest: ExportManifest, tower: Any) -> None:
        import onnxruntime

        self.graph = manifest.graphs[tower]
        self.session = onnxruntime.InferenceSession(place / self.graph.file)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran: list[int] = []

    def create_execution_context(self) -> "Context":
        return self

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        lengths = {"batch": BATCH, "tokens": (1, 8, 16)}
        shape = self.graph.inputs[name].shape
        return [
            tuple(lengths[axis][n] if isinstance(axis, str) else axis for axis in shape)
            for n in range(3)
        ]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def _memory(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_char * length).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)  # type: ignore[call-overload]

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        fed = {
            name: self._memory(name, self.shapes[name], spec.dtype)
            for name, spec in self.graph.inputs.items()
        }
        results = self.session.run(["coarse", "fine"], fed)
        for name, result in zip(("coarse", "fine"), results, strict=True):
            self._memory(name, result.shape, "float32")[:] = result
        self.ran.append(len(result))
        return True
