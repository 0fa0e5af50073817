"""What both commands share: their options, what they print, and their exit codes.

0 done · 2 usage or bad input · 3 parity failed, files kept · 4 no TensorRT for the hardware, ONNX written
"""

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.cli.ending import Command, run_command, say
from engine.system.terminal import as_json as json_text
from engine.system.terminal import visible

if TYPE_CHECKING:
    from engine.encoders.manifest import ExportManifest

PARITY_FAILED, NO_TENSORRT = 3, 4
TIMING_CACHE = Path("~/.cache/hivlp-engine/tensorrt.timings")

Checkpoint = Annotated[
    str, typer.Argument(help="A checkpoint directory, or the hub id of a repository.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write; default: ./CHECKPOINT.DTYPE.export"),
]
DtypeName = Literal["fp32", "fp16", "bf16"]
DtypeOption = Annotated[DtypeName, typer.Option(help="Of weights and activations.")]
Batch = Annotated[str, typer.Option(help="MIN,OPT,MAX: the batch sizes to build for.")]
CoarseData = Annotated[
    Path | None,
    typer.Option(help="Captioned pictures to learn coarse vectors from, where there is no head."),
]
CoarseDim = Annotated[int | None, typer.Option(help="Length of those coarse vectors; default 64.")]
ParityData = Annotated[Path | None, typer.Option(help="Captioned pictures for the parity report.")]
ParityPairs = Annotated[int, typer.Option(min=2, help="How many of them.")]
MinCosine = Annotated[
    float | None, typer.Option(help="Gate: the least cosine with torch fp32 of any vector.")
]
MinOverlap = Annotated[
    float | None, typer.Option(help="Gate: the least overlap@10 with the search of torch fp32.")
]
TritonRepo = Annotated[
    Path | None, typer.Option(help="Also write a model repository for NVIDIA Triton here.")
]
Hardware = Annotated[
    str | None,
    typer.Option(
        help="Compute capabilities to build for, like sm80,sm89; default: the GPU here, or sm80,86,89,120."
    ),
]
OnnxOnly = Annotated[bool, typer.Option("--onnx-only", help="Build no engines.")]
TimingCache = Annotated[Path, typer.Option(help="File of earlier builds' timings, for `tensorrt`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def command(function: Callable[..., None]) -> typer.Typer:
    """An app of one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=Command)(function)
    return app


def main(app: typer.Typer) -> None:
    """Run a command; `engine.cli.ending` says how it ends."""
    run_command(lambda: partial(_run, app))


def _run(app: typer.Typer) -> None:
    from engine.errors import CheckpointError, EngineError

    try:
        app()
    except EngineError:
        raise
    except RuntimeError as error:  # torch's: an operator that it has not for some dtype
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            "checkpoint",
            expected="a model that torch can export",
            got=f"{type(error).__name__}: {reason}",
            remedy="Nothing was written. Try another --dtype.",
        ) from error


def run(
    checkpoint: str,
    output: Path | None,
    *,
    dtype: DtypeName,
    batch: str,
    coarse_data: Path | None,
    coarse_dim: int | None,
    parity_data: Path | None,
    parity_pairs: int,
    min_cosine: float | None,
    min_overlap: float | None,
    triton_repo: Path | None,
    as_json: bool,
    onnx_only: bool = True,
    hardware: str | None = None,
    timing_cache: Path = TIMING_CACHE,
) -> None:
    """Export, print what was made, and exit with what became of it."""
    _check_packages()
    from export.errors import TensorRTUnavailable
    from export.parity import GATES, Gate
    from export.run import Settings, export_checkpoint
    from export.tensorrt_builder import choose_targets
    from export.triton_repo import write_repository

    name = Path(checkpoint).resolve().name if Path(checkpoint).exists() else Path(checkpoint).name
    output = output or Path(f"{name}.{dtype}.export")
    gate = GATES[dtype]
    settings = Settings(
        dtype=dtype,
        batch=_batch(batch),
        coarse_data=coarse_data or _examples("--coarse-data"),
        coarse_dim=coarse_dim,
        parity_data=parity_data or _examples("--parity-data"),
        pairs=parity_pairs,
        gate=Gate(
            gate.min_cosine if min_cosine is None else min_cosine,
            gate.min_overlap if min_overlap is None else min_overlap,
        ),
        timing_cache=timing_cache.expanduser(),
    )
    targets, missing = [], None
    if not onnx_only:
        try:
            targets = choose_targets(_hardware(hardware))
        except TensorRTUnavailable as unavailable:
            missing = str(unavailable)
    manifest = export_checkpoint(checkpoint, output, settings, targets, missing)
    if triton_repo is not None:
        write_repository(output, manifest, triton_repo, name)
    report = _report(output, manifest, triton_repo)
    typer.echo(json_text(report) if as_json else visible(_text(report), keep="\n"))
    if not manifest.parity["passed"]:
        say("parity failed:", manifest.parity["lost_at"], "-", *manifest.parity["failures"][:3])
        sys.exit(PARITY_FAILED)
    if missing is not None:
        say("no engines:", missing, f"The graphs are in {output}.")
        sys.exit(NO_TENSORRT)


def _check_packages() -> None:
    """MissingPackage before the work, not after half of it."""
    from engine.errors import MissingPackage

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingPackage.of(package, "onnx", "Exporting")


def _batch(text: str) -> tuple[int, int, int]:
    from engine.errors import InvalidArgument

    try:
        smallest, usual, largest = (int(part) for part in text.split(","))
    except ValueError:
        smallest = usual = largest = 0
    if not 1 <= smallest <= usual <= largest:
        raise InvalidArgument(
            "--batch",
            expected="three batch sizes MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX",
            got=repr(text),
            remedy="For example: --batch 1,8,64.",
        )
    return smallest, usual, largest


def _hardware(text: str | None) -> list[str] | None:
    from engine.errors import InvalidArgument

    names = None if text is None else [part.strip().lower() for part in text.split(",")]
    if names is not None and not all(re.fullmatch(r"sm\d{2,3}", name) for name in names):
        raise InvalidArgument(
            "--hardware",
            expected="compute capabilities like sm89, separated by commas",
            got=repr(text),
            remedy="For example: --hardware sm80,sm89.",
        )
    return names


def _examples(option: str) -> Path:
    """The bundled pictures, which only a source checkout has."""
    from engine.errors import InvalidArgument
    from export.pairs import EXAMPLES

    if not EXAMPLES.is_dir():
        raise InvalidArgument(
            option,
            expected="a folder of pictures with captions.jsonl",
            got="nothing, and the bundled examples are not installed",
            remedy=f"Give one with {option}.",
        )
    return EXAMPLES


def _report(output: Path, manifest: "ExportManifest", triton_repo: Path | None) -> dict[str, Any]:
    return {
        "output": str(output),
        "source": asdict(manifest.source),
        "kind": manifest.kind,
        "dtype": manifest.dtype,
        "dims": {"coarse": manifest.coarse_dim, "fine": manifest.fine_dim},
        "coarse_from": manifest.coarse_from,
        "files": {name: file.bytes for name, file in manifest.files.items()},
        "engines": [engine.file for engine in manifest.engines],
        "seconds": manifest.seconds,
        "parity": manifest.parity,
        "triton_repo": str(triton_repo) if triton_repo else None,
    }


def _text(report: dict[str, Any]) -> str:
    parity, dims = report["parity"], report["dims"]
    lines = [
        f"{report['output']}: {report['kind']} checkpoint {report['source']['path']} in {report['dtype']}, "
        f"coarse {dims['coarse']}-d (from a {report['coarse_from']}), fine {dims['fine']}-d"
    ]
    for name in [*("image.onnx", "text.onnx"), *report["engines"]]:
        seconds = report["seconds"][name]
        lines.append(f"  {report['files'][name] / 1e6:8.1f} MB  {seconds:6.1f} s  {name}")
    if report["triton_repo"]:
        lines.append(f"  Triton Inference Server models in {report['triton_repo']}")
    verdict = "passed" if parity["passed"] else f"FAILED at {parity['lost_at']}"
    lines.append(f"parity {verdict}, on {parity['pairs']} pairs (figures in parity.md)")
    for step, worst in parity["worst"].items():
        figures = ", ".join(f"least {name} {value:.5f}" for name, value in worst.items())
        lines.append(f"  {step}: {figures}")
    lines += [f"  {step}: not run here: {why}" for step, why in parity["not_run"].items()]
    return "\n".join(lines)
