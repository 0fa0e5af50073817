"""The TensorRT encoder of an export directory: for `tensorrt` and `tensorrt_rtx`, which share one interface.

An engine file is native code. It is deserialised only after its bytes were found to be those that the manifest
names, and the bytes that were hashed are the ones that are deserialised.
"""

import importlib
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.device import pick_device
from engine.encoders.dual_encoder import DualEncoder, Vectors, exported_encoder, in_parts
from engine.encoders.manifest import TOWERS, Manifest, TensorRTEngine, TensorSpec, Tower
from engine.errors import CheckpointError, InvalidArgument, RuntimeUnavailable

# The second is what the wheels hold; the first comes with a meta package.
MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


def tensorrt_encoder(directory: Path, *, device: str = "auto", why: str) -> DualEncoder:
    """The engines of `directory` that were built for this GPU by the TensorRT that is installed here.

    A batch larger than the engine's profile is run in parts, one smaller than its least is filled up; a sentence
    outside it is refused. Raises RuntimeUnavailable where no engine fits, saying what to run; CheckpointError
    where a file is not what the manifest says.
    """
    manifest = Manifest.read(directory)
    place = pick_device(device)
    chosen = {tower: _choose(directory, manifest, tower, place) for tower in TOWERS}
    towers = {}
    for tower, (engine, library) in chosen.items():
        content = manifest.content(directory, engine.file)
        names = manifest.graphs[tower]
        towers[tower] = TensorRTTower(
            directory / engine.file, content, library, place, names.inputs, names.outputs
        )
    return exported_encoder(
        directory, manifest, towers["image"], towers["text"], runtime="tensorrt", why=why
    )


def hardware_of(device: torch.device) -> str | None:
    """ "sm89" for a GPU of compute capability 8.9, None for a CPU."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def _choose(
    directory: Path, manifest: Manifest, tower: Tower, device: torch.device
) -> tuple[TensorRTEngine, Any]:
    """The engine of a tower that runs on `device`, and the library that runs it."""
    hardware, reasons = hardware_of(device), []
    for engine in manifest.engines:
        if engine.tower != tower:
            continue
        library = _imported(engine.library)
        if hardware != engine.hardware:
            reasons.append(f"{engine.file} is for {engine.hardware}, this is {hardware or 'a CPU'}")
        elif library is None:
            reasons.append(f"{engine.file} needs {engine.library}, which is not installed")
        elif library.__version__ != engine.version:
            reasons.append(
                f"{engine.file} is for {engine.library} {engine.version}, here is {library.__version__}"
            )
        else:
            return engine, library
    raise RuntimeUnavailable(
        f"{directory}: a TensorRT engine for this machine expected, got {'; '.join(reasons) or 'none'}. "
        f"Build one here: python -m export.to_trt {manifest.source.path} -o {directory}"
    )


def _imported(library: str) -> Any:
    for name in MODULES.get(library, ()):
        try:
            return importlib.import_module(name)
        except ImportError:  # absent, or its native libraries are
            continue
    return None


class TensorRTTower:
    """One engine, run by one thread at a time: CPU tensors in, CPU tensors out.

    content: the engine, its hash compared already. inputs, outputs: what the manifest says of them.
    """

    def __init__(
        self,
        file: Path,
        content: bytes,
        library: Any,
        device: torch.device,
        inputs: dict[str, TensorSpec],
        outputs: dict[str, TensorSpec],
    ) -> None:
        self.file, self.device, self.inputs, self.outputs = file, device, inputs, outputs
        with torch.cuda.device(device):
            # Kept: an engine must not outlive the runtime that made it.
            self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(content)
            self._context = self._engine and self._engine.create_execution_context()
        if not self._context:
            raise CheckpointError(
                f"{file}: an engine that {library.__name__} {library.__version__} can run expected; it refused. "
                "Build it again: python -m export.to_trt CHECKPOINT."
            )
        shapes = [self._engine.get_tensor_profile_shape(name, 0) for name in inputs]
        self.least = [tuple(shape[0]) for shape in shapes]
        self.most = [tuple(shape[2]) for shape in shapes]
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()  # a context holds the shapes and addresses of one run

    def __call__(self, *inputs: Tensor) -> Vectors:
        return in_parts(self._run, inputs, self.most[0][0])

    def _run(self, *inputs: Tensor) -> Vectors:
        rows = len(inputs[0])
        missing = max(self.least[0][0] - rows, 0)  # filled with zeros and cut off again
        batch = [F.pad(tensor, (0,) * (2 * tensor.ndim - 1) + (missing,)) for tensor in inputs]
        for name, tensor, least, most in zip(
            self.inputs, batch, self.least, self.most, strict=True
        ):
            shape = tuple(tensor.shape)
            if not all(low <= size <= high for low, size, high in zip(least, shape, most)):  # noqa: B905  # rank checked by the engine
                raise InvalidArgument(
                    name,
                    expected=f"a shape from {least} to {most}, which {self.file.name} was built for",
                    got=str(shape),
                    remedy="Build it for larger inputs, or run the export with ONNX Runtime.",
                )
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            vectors = self._execute(batch, rows + missing)
        return vectors[0][:rows], vectors[1][:rows]

    def _execute(self, batch: list[Tensor], rows: int) -> list[Tensor]:
        """Coarse and fine float32 on the CPU, all the stream's work done."""
        held = []  # on the device until the stream is done
        for (name, spec), tensor in zip(self.inputs.items(), batch, strict=True):
            there = tensor.to(self.device, getattr(torch, spec.dtype)).contiguous()
            self._context.set_input_shape(name, tuple(there.shape))
            self._context.set_tensor_address(name, there.data_ptr())
            held.append(there)
        results = []
        for name in ("coarse", "fine"):
            spec = self.outputs[name]
            shape = (rows, int(spec.shape[1]))
            result = torch.empty(shape, dtype=getattr(torch, spec.dtype), device=self.device)
            self._context.set_tensor_address(name, result.data_ptr())
            results.append(result)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeUnavailable(
                f"{self.file}: TensorRT refused to run; its log says why. Run the export with ONNX Runtime instead."
            )
        self._stream.synchronize()
        return [result.float().cpu() for result in results]
