"""ONNX to TensorRT engines. `tensorrt` and `tensorrt_rtx` are one API; where they differ is said here alone.

tensorrt      for data-centre GPUs; builds for the GPU at hand, by timing on it.
tensorrt_rtx  for RTX GPUs (and SM80); builds ahead of time, with no GPU, for any compute capability it knows.

Networks are strongly typed: precision is what the graph says, there is no flag for it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.device import pick_device
from engine.encoders.manifest import Dtype, Graph, TensorRTEngine, Tower
from engine.encoders.tensorrt_encoder import MODULES, hardware_of, imported
from export.errors import REPORT, ExportError, TensorRTUnavailable

AHEAD_OF_TIME = ("sm80", "sm86", "sm89", "sm120")  # built where there is no GPU to build for
SHORT = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}

Profile = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Target:
    """Which library builds, for which hardware ("sm89")."""

    library: str
    module: Any
    hardware: str

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    def file(self, tower: Tower, dtype: Dtype) -> str:
        """`image-sm89-rtx1.7.1.116-fp16.engine`."""
        return f"{tower}-{self.hardware}-{SHORT[self.library]}{self.version}-{dtype}.engine"


def choose_targets(hardware: Sequence[str] | None) -> list[Target]:
    """One target for each of `hardware` (default: the GPU at hand; without one, what can be built ahead of time).

    Raises TensorRTUnavailable with every library's reason where one of them cannot be built for.
    """
    present = hardware_of(pick_device("auto"))
    wanted = hardware or ([present] if present else AHEAD_OF_TIME)
    return [_target(name, present) for name in wanted]


def _target(hardware: str, present: str | None) -> Target:
    reasons = []
    for library in MODULES:
        module = imported(library)
        if module is None:
            reasons.append(f"{library} is not installed")
        elif library == "tensorrt":
            if hardware == present:
                return Target(library, module, hardware)
            reasons.append(f"tensorrt builds for the GPU at hand, which is {present or 'none'}")
        else:
            known = [
                name.lower() for name in module.ComputeCapability.__members__ if name[:2] == "SM"
            ]
            if hardware in known:
                return Target(library, module, hardware)
            reasons.append(f"tensorrt_rtx {module.__version__} builds for {', '.join(known)}")
    raise TensorRTUnavailable(
        "hardware",
        expected=f"a TensorRT that can build engines for {hardware} here",
        got="; ".join(reasons),
        remedy="For RTX GPUs, with or without one: pip install 'hivlp-engine[trt-rtx]'. For data-centre GPUs: "
        "pip install 'hivlp-engine[gpu]' and run this again on a machine with that GPU.",
    )


def build_engine(
    target: Target,
    tower: Tower,
    graph: Graph,
    directory: Path,
    dtype: Dtype,
    profile: Profile,
    *,
    timing_cache: Path,
    watch: Callable[[str, int, int], None],
) -> TensorRTEngine:
    """Build one tower's engine into `directory`, where its graph is; ExportError says what TensorRT did not like.

    profile: smallest, usual and largest length of the axes that vary.
    timing_cache: a file that makes the next build on the same GPU quicker (`tensorrt`; `tensorrt_rtx` has none).
    watch: called with a phase, and how many of its steps are done.
    """
    trt, start = target.module, time.perf_counter()
    log = _log(trt)
    builder = trt.Builder(log)
    flags = (
        trt.NetworkDefinitionCreationFlag.__members__
    )  # where it is gone, networks know no other typing
    network = builder.create_network(
        1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0
    )
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(directory / graph.file)):
        errors = "; ".join(parser.get_error(at).desc() for at in range(parser.num_errors))
        raise ExportError(
            graph.file,
            expected=f"a graph that {target.library} {target.version} reads",
            got=errors,
            remedy=REPORT,
        )
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, graph, profile))
    config.progress_monitor = _monitor(trt, watch)
    with _silent_stdout():
        if target.library == "tensorrt_rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(
                trt.ComputeCapability.__members__[target.hardware.upper()], 0
            )
            built = builder.build_serialized_network(network, config)
        else:
            with _cached_timings(config, timing_cache):
                built = builder.build_serialized_network(network, config)
    if built is None:
        raise ExportError(
            graph.file,
            expected=f"an engine by {target.library} {target.version} for {target.hardware}",
            got=f"none: {'; '.join(log.errors) or 'it gives no reason'}",
            remedy=REPORT,
        )
    file = target.file(tower, dtype)
    (directory / file).write_bytes(built)
    seconds = round(time.perf_counter() - start, 3)
    return TensorRTEngine(
        tower, file, target.library, target.version, target.hardware, dtype, seconds
    )


def _profile(builder: Any, graph: Graph, lengths: Profile) -> Any:
    profile = builder.create_optimization_profile()
    for name, spec in graph.inputs.items():
        shapes = [
            tuple(lengths[axis][n] if isinstance(axis, str) else axis for axis in spec.shape)
            for n in range(3)
        ]
        profile.set_shape(name, *shapes)
    return profile


@contextmanager
def _cached_timings(config: Any, file: Path) -> Iterator[None]:
    """Timings of earlier builds from `file`, and those of this one into it."""
    stored = file.read_bytes() if file.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        config.set_timing_cache(
            config.create_timing_cache(b""), ignore_mismatch=False
        )  # another GPU's
    yield
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_bytes(config.get_timing_cache().serialize())
    draft.replace(file)


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """TensorRT's compiler prints remarks to file descriptor 1, past its own logger and past Python."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _log(trt: Any) -> Any:
    """A logger that shows nothing and keeps the errors for the exception's message."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _monitor(trt: Any, watch: Callable[[str, int, int], None]) -> Any:
    """TensorRT's own progress: nested phases, each of a number of steps."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            self.steps[phase] = steps
            watch(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            watch(phase, step + 1, self.steps[phase])
            return True  # False would cancel the build

        def phase_finish(self, phase: str) -> None:
            steps = self.steps.pop(phase)
            watch(phase, steps, steps)

    return Monitor()
