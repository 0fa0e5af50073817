"""The TensorRT encoder of an export directory: for `tensorrt` and `tensorrt_rtx`, which share one interface.

An engine file is native code. It is deserialised only after its bytes were found to be those that the manifest
names, and the bytes that were hashed are the ones that are deserialised.
"""

import importlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.device import pick_device
from engine.encoders.dual_encoder import (
    DualEncoder,
    Vectors,
    exported_encoder,
    exported_processor,
    in_parts,
)
from engine.encoders.manifest import TOWERS, ExportManifest, TensorRTEngine, Tower
from engine.errors import CheckpointError, InvalidArgument, RuntimeUnavailable

# The second is what the wheels hold; the first comes with a meta package.
MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


def tensorrt_encoder(directory: Path, *, device: str = "auto", why: str) -> DualEncoder:
    """The engines of `directory` that were built for this GPU by the TensorRT that is installed here.

    A batch larger than the engine's profile is run in parts, one smaller than its least is filled up; a sentence
    outside it is refused. Raises RuntimeUnavailable where no engine fits, saying what to run; CheckpointError
    where a file is not what the manifest says.
    """
    manifest = ExportManifest.read(directory)
    place = pick_device(device)
    chosen = {tower: _choose(directory, manifest, tower, place) for tower in TOWERS}
    # All that is data is compared first: nothing native is reached by an export that is not whole.
    processor = exported_processor(directory, manifest)
    manifest.verify(directory, tuple(entry.file for entry, _ in chosen.values()))
    with torch.cuda.device(place):
        towers = {
            tower: TensorRTTower(Engine.load(directory, manifest, entry, library), manifest, place)
            for tower, (entry, library) in chosen.items()
        }
    return exported_encoder(
        directory, manifest, processor, towers["image"], towers["text"], runtime="tensorrt", why=why
    )


def hardware_of(device: torch.device) -> str | None:
    """ "sm89" for a GPU of compute capability 8.9, None for a CPU."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def _choose(
    directory: Path, manifest: ExportManifest, tower: Tower, device: torch.device
) -> tuple[TensorRTEngine, Any]:
    """The engine of a tower that runs on `device`, and the library that runs it."""
    hardware, reasons = hardware_of(device), []
    for engine in manifest.engines:
        if engine.tower != tower:
            continue
        library = imported(engine.library)
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
        str(directory),
        expected="a TensorRT engine for this machine",
        got="; ".join(reasons) or "none",
        remedy=f"Build one here: python -m export.to_trt {manifest.source.path} -o {directory}",
    )


def imported(library: str) -> Any:
    """The module of "tensorrt" or "tensorrt_rtx", or None where it cannot be imported."""
    for name in MODULES.get(library, ()):
        try:
            return importlib.import_module(name)
        except ImportError:  # absent, or its native libraries are
            continue
    return None


@dataclass(frozen=True, eq=False)
class Engine:
    """A deserialised engine, and the runtime that made it, which it must not outlive."""

    entry: TensorRTEngine
    file: Path
    runtime: Any
    engine: Any

    @classmethod
    def load(
        cls, directory: Path, manifest: ExportManifest, entry: TensorRTEngine, library: Any
    ) -> "Engine":
        """Compare the hash of the file, and only then let `library` deserialise those bytes, on the current GPU."""
        content = manifest.content(directory, entry.file)
        runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise CheckpointError(
                str(directory / entry.file),
                expected=f"an engine that {entry.library} {entry.version} can run",
                got="one that it refuses, as its log says",
                remedy="Build it again: python -m export.to_trt CHECKPOINT",
            )
        return cls(entry, directory / entry.file, runtime, engine)


class TensorRTTower:
    """One engine, run by one thread at a time: CPU tensors in, CPU tensors out."""

    def __init__(self, loaded: Engine, manifest: ExportManifest, device: torch.device) -> None:
        graph = manifest.graphs[loaded.entry.tower]
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.loaded, self.device = loaded, device
        shapes = [loaded.engine.get_tensor_profile_shape(name, 0) for name in self.inputs]
        self.least = [tuple(shape[0]) for shape in shapes]
        self.most = [tuple(shape[2]) for shape in shapes]
        self._context = loaded.engine.create_execution_context()
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()  # a context holds the shapes and addresses of one run

    def __call__(self, *inputs: Tensor) -> Vectors:
        return in_parts(self._run, inputs, self.most[0][0])

    def _run(self, *inputs: Tensor) -> Vectors:
        rows = len(inputs[0])
        missing = max(self.least[0][0] - rows, 0)  # filled with zeros and cut off again
        batch = [F.pad(tensor, (0,) * (2 * tensor.ndim - 1) + (missing,)) for tensor in inputs]
        for at, (name, tensor) in enumerate(zip(self.inputs, batch, strict=True)):
            sizes = zip(self.least[at], tensor.shape, self.most[at], strict=True)
            if not all(least <= size <= most for least, size, most in sizes):
                raise InvalidArgument(
                    name,
                    expected=f"a shape from {self.least[at]} to {self.most[at]}, the profile of {self.loaded.file}",
                    got=str(tuple(tensor.shape)),
                    remedy="Build it for such inputs, or run the export with ONNX Runtime.",
                )
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            coarse, fine = self._execute(batch, rows + missing)
        return coarse[:rows], fine[:rows]

    def _execute(self, batch: list[Tensor], rows: int) -> list[Tensor]:
        """Coarse and fine float32 on the CPU, all the stream's work done."""
        held = []  # so that the memory stays theirs until the stream is done
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
                str(self.loaded.file),
                expected="an engine that TensorRT runs",
                got="one that it refuses to run, as its log says",
                remedy="Run the export with ONNX Runtime instead.",
            )
        self._stream.synchronize()
        return [result.float().cpu() for result in results]
