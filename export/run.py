"""One export from beginning to end: graphs, engines, parity, manifest; written aside, then put in its place."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints import Checkpoint, open_checkpoint
from engine.device import pick_device
from engine.encoders.dual_encoder import DualEncoder
from engine.encoders.manifest import (
    BATCH,
    MANIFEST,
    TOKENS,
    TOWERS,
    Dtype,
    ExportManifest,
    Graph,
    StoredFile,
    TensorRTEngine,
    Tower,
    stored_file,
)
from engine.encoders.onnx_encoder import onnx_encoder
from engine.encoders.tensorrt_encoder import hardware_of, tensorrt_encoder
from engine.encoders.torch_encoder import CPU_IMAGES, TorchTower
from engine.errors import InvalidArgument, RuntimeUnavailable
from engine.images import read_image
from engine.progress import progress
from export.directory import refuse_foreign, written_aside
from export.graph import check_batches, export_graph, open_graph, run_graph
from export.pairs import Pairs, read_pairs
from export.parity import Gate, Inputs, Parity, Run, Step, Vectors, compare, encode, skipped
from export.report import markdown
from export.rotation import learn_rotation
from export.tensorrt_builder import Target, build_engine
from export.tower import ExportedTower, exported_tower

COARSE_DIM = 64
COARSE_PAIRS = 512  # pictures, and as many captions, to learn a rotation from
PARITY_BATCH = 16
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Settings:
    """What a user chose.

    batch: smallest, usual and largest, for engines and servers. pairs: how many pictures parity looks at.
    coarse_dim: None = 64, or the length of the fine vectors if shorter; for checkpoints with no coarse head only.
    """

    dtype: Dtype
    batch: tuple[int, int, int]
    coarse_data: Path
    coarse_dim: int | None
    parity_data: Path
    pairs: int
    gate: Gate
    timing_cache: Path


def export_checkpoint(
    source: str, out: Path, settings: Settings, targets: Sequence[Target], no_engines: str | None
) -> ExportManifest:
    """Export `source` into `out`, and return what was written: also where parity failed, which its manifest says.

    targets: what engines are built for. no_engines: why there are none, for the report; None where none were
    wanted. Any other failure leaves `out` as it was.
    """
    refuse_foreign(out)
    checkpoint = open_checkpoint(source)
    pairs = read_pairs(settings.parity_data, settings.pairs)
    if len(pairs) < 2:
        raise InvalidArgument(
            "parity-data",
            expected="at least 2 captioned pictures",
            got=f"{len(pairs)} in {pairs.folder}",
            remedy="Give a larger folder.",
        )
    rotation = None
    if checkpoint.coarse_dim is None:
        dim = settings.coarse_dim or min(COARSE_DIM, checkpoint.fine_dim)
        rotation = learn_rotation(checkpoint, read_pairs(settings.coarse_data, COARSE_PAIRS), dim)
    with written_aside(out) as draft:
        return _write(checkpoint, rotation, pairs, draft, settings, targets, no_engines)


def _write(
    checkpoint: Checkpoint,
    rotation: Tensor | None,
    pairs: Pairs,
    draft: Path,
    settings: Settings,
    targets: Sequence[Target],
    no_engines: str | None,
) -> ExportManifest:
    seconds: dict[str, float] = {}
    for name in checkpoint.processor.files:
        shutil.copyfile(checkpoint.directory / name, draft / name)
    inputs = _inputs(checkpoint, pairs)
    profile = _profile(checkpoint, settings.batch)
    towers: dict[Tower, ExportedTower] = {}
    graphs: dict[Tower, Graph] = {}
    for tower in TOWERS:
        with _timed(seconds, f"{tower}.onnx"), progress(f"exporting {tower}.onnx", 1) as advance:
            made = exported_tower(checkpoint, tower, settings.dtype, rotation)
            towers[tower] = made.cpu()  # where the examples are: learning may have left it on a GPU
            graphs[tower] = _graph(towers[tower], tower, inputs, draft, profile)
            advance(1)
    engines = tuple(
        _engine(target, tower, graphs[tower], draft, settings, profile)
        for target in targets
        for tower in TOWERS
    )
    vectors = graphs["image"].outputs
    manifest = ExportManifest(
        source=checkpoint.reference,
        kind=checkpoint.kind,
        dtype=settings.dtype,
        coarse_dim=int(vectors["coarse"].shape[1]),
        fine_dim=int(vectors["fine"].shape[1]),
        coarse_from="head" if rotation is None else "rotation",
        padding=checkpoint.processor.padding,
        max_tokens=checkpoint.processor.max_tokens,
        processor=checkpoint.processor.files,
        profile=profile,
        graphs=graphs,
        engines=engines,
        versions=_versions() | {target.library: target.version for target in targets},
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        seconds=seconds | {engine.file: engine.seconds for engine in engines},
        parity={"passed": None},
        files=_files(draft),
    )
    manifest.write(draft)  # the engine's own encoders, which parity runs, open nothing without it
    with _timed(seconds, "parity"):
        fp32 = {t: exported_tower(checkpoint, t, "fp32", rotation) for t in TOWERS}
        parity = _parity(manifest, draft, fp32, towers, pairs, inputs, settings.gate, no_engines)
    (draft / "parity.json").write_text(json.dumps(parity.to_dict(), indent=1) + "\n", "utf-8")
    (draft / "parity.md").write_text(markdown(parity), encoding="utf-8")
    manifest = replace(
        manifest,
        parity=parity.summary(),
        seconds=manifest.seconds | {"parity": seconds["parity"]},
        files=_files(draft),
    )
    manifest.write(draft)
    return manifest


def _inputs(checkpoint: Checkpoint, pairs: Pairs) -> Inputs:
    """All pairs as the graphs take them, in batches: pixel values; int32 ids and their mask."""
    processor, pixels, tokens = checkpoint.processor, [], []
    with progress("preparing pictures", len(pairs)) as advance:
        for start in range(0, len(pairs), PARITY_BATCH):
            images = [read_image(file) for file in pairs.images[start : start + PARITY_BATCH]]
            ids = processor.tokens(pairs.texts[start : start + PARITY_BATCH])
            pixels.append((processor.pixels(images).contiguous(),))
            tokens.append((ids["input_ids"].int(), ids["attention_mask"].int()))
            advance(len(images))
    return {"image": pixels, "text": tokens}


def _profile(
    checkpoint: Checkpoint, batch: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """The lengths of the axes that vary: the batch, and sentences unless all are padded to the full length."""
    longest = checkpoint.processor.max_tokens
    if checkpoint.processor.padding == "max_length":
        return {BATCH: batch}
    return {BATCH: batch, TOKENS: (1, min(16, longest), longest)}


def _graph(
    tower: ExportedTower,
    name: Tower,
    inputs: Inputs,
    draft: Path,
    profile: Mapping[str, tuple[int, int, int]],
) -> Graph:
    """Export one tower, and run it at a batch of 1, 3 and the largest."""
    few = [tensor[:3] for tensor in inputs[name][0]]
    names = ("pixel_values",) if name == "image" else ("input_ids", "attention_mask")
    dynamic_tokens = name == "text" and TOKENS in profile
    if dynamic_tokens:  # an example of the largest length would look like a constant
        few = [tensor[:, : profile[TOKENS][2] - 1] for tensor in few]
    examples = dict(zip(names, few, strict=True))
    file = draft / f"{name}.onnx"
    graph = export_graph(tower, examples, file, dynamic_tokens=dynamic_tokens)
    check_batches(file, examples, sorted({1, 3, profile[BATCH][2]}))
    return graph


def _engine(
    target: Target,
    tower: Tower,
    graph: Graph,
    draft: Path,
    settings: Settings,
    profile: Mapping[str, tuple[int, int, int]],
) -> TensorRTEngine:
    with _watched(f"{tower} engine for {target.hardware}") as watch:
        return build_engine(
            target,
            tower,
            graph,
            draft,
            settings.dtype,
            profile,
            timing_cache=settings.timing_cache,
            watch=watch,
        )


def _parity(
    manifest: ExportManifest,
    draft: Path,
    fp32: Mapping[Tower, ExportedTower],
    low: Mapping[Tower, ExportedTower],
    pairs: Pairs,
    inputs: Inputs,
    gate: Gate,
    no_engines: str | None,
) -> Parity:
    """Every step's vectors beside those of torch in float32, as far as this machine can run them."""

    def vectors(name: str, towers: Mapping[Tower, Run]) -> Vectors:
        with progress(f"parity: {name}", 2 * len(pairs)) as advance:
            return encode(towers, inputs, advance)

    reference = vectors("torch fp32", _torch_towers(fp32))

    def step(name: str, towers: Mapping[Tower, Run], note: str | None = None) -> Step:
        return compare(name, vectors(name, towers), reference, pairs, gate, note)

    steps = []
    if manifest.dtype != "fp32":
        steps.append(step(f"torch {manifest.dtype}", _torch_towers(low)))
    try:
        steps.append(step("ONNX Runtime", _towers(onnx_encoder(draft, why="parity"))))
    except RuntimeUnavailable:
        note = (
            "it has no bfloat16 on a CPU: the graph's own weights were used, computing in float32"
        )
        widened = {t: _widened_tower(draft, manifest.graphs[t]) for t in TOWERS}
        steps.append(step("ONNX Runtime", widened, note))
    if manifest.engines:
        try:
            steps.append(step("TensorRT", _towers(tensorrt_encoder(draft, why="parity"))))
        except RuntimeUnavailable:
            steps.append(skipped("TensorRT", _why_not_run()))
    elif no_engines:
        steps.append(skipped("TensorRT", no_engines))
    return Parity(len(pairs), str(pairs.folder), gate, tuple(steps))


def _torch_towers(towers: Mapping[Tower, ExportedTower]) -> dict[Tower, Run]:
    device = pick_device("auto")
    at_most = CPU_IMAGES if device.type == "cpu" else None
    return {name: TorchTower(tower, device, at_most) for name, tower in towers.items()}


def _towers(encoder: DualEncoder) -> dict[Tower, Run]:
    return {"image": encoder.image, "text": encoder.text}


def _widened_tower(draft: Path, graph: Graph) -> Run:
    session = open_graph(draft / graph.file)

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        arrays = (tensor.numpy() for tensor in inputs)
        coarse, fine = run_graph(session, dict(zip(graph.inputs, arrays, strict=True)))
        return torch.from_numpy(coarse), torch.from_numpy(fine)

    return run


def _why_not_run() -> str:
    """The engines that were just built: shorter than the encoder's own reason, which names every file."""
    gpu = hardware_of(pick_device("auto"))
    if gpu is None:
        return "no GPU here: the engines were built ahead of time and have not been executed"
    return f"none of the engines is for this GPU, {gpu}"


def _files(draft: Path) -> dict[str, StoredFile]:
    return {f.name: stored_file(f) for f in sorted(draft.iterdir()) if f.name != MANIFEST}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # ONNX Runtime comes under several names
            continue
    return found


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 3)


@contextmanager
def _watched(doing: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr that follows TensorRT's own phases."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(doing, total=None)

        def watch(phase: str, done: int, total: int) -> None:
            bars.update(bar, description=f"{doing}: {phase.lower()}", completed=done, total=total)

        yield watch
        bars.update(bar, description=doing, completed=1, total=1)
