"""Both commands as a user runs them: data on stdout, talk on stderr, and each exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import export.run
import export.tensorrt_builder as builder
from engine.encoders.manifest import ExportManifest
from engine.errors import InvalidArgument
from export.parity import GATES, Gate
from export.run import Settings
from export.tensorrt_builder import AHEAD_OF_TIME
from export.to_onnx import to_onnx
from export.to_trt import to_trt
from tests.conftest import CHECKPOINT, ROOT
from tests.export.overflow import overflowing
from tests.export.running import run_here


def run_command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as it is typed."""
    command = [sys.executable, "-m", f"export.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_example_checkpoint_becomes_engines(tmp_path: Path, pictures: Path) -> None:
    """Exit code 0. What a good run prints fits on one screen, and stdout is JSON though TensorRT writes to it."""
    out = tmp_path / "out"
    child = run_command(
        "to_trt", CHECKPOINT, "-o", out, "--parity-data", pictures, "--hardware", "sm80,sm86,sm89,sm120",
        "--parity-pairs", 8, "--json"
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert len(child.stderr.splitlines()) < 24
    assert "Warning" not in child.stderr
    manifest = ExportManifest.read(out)
    manifest.verify(out)
    assert report["output"] == str(out)
    assert report["parity"] == json.loads(json.dumps(manifest.parity))
    assert report["parity"]["worst"]["ONNX Runtime"]["cosine"] > 0.999
    assert "have not been executed" in report["parity"]["not_run"]["TensorRT"]
    assert [(e.tower, e.hardware) for e in manifest.engines] == [
        (tower, sm) for sm in AHEAD_OF_TIME for tower in ("image", "text")
    ]
    # Half precision is in the graph: the engine is smaller than the weights in float32.
    full = (CHECKPOINT / "model.safetensors").stat().st_size * 2
    assert sum(report["files"][e.file] for e in manifest.engines if e.hardware == "sm80") < full


def test_to_onnx_writes_graphs_only_and_a_triton_repository(
    small: Callable[[str], Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code = run_here(
        to_onnx, small("clip"), "--coarse-data", pictures, "--parity-data", pictures,
        "--triton-repo", tmp_path / "models", "--coarse-dim", 5, "--batch", "2,3,4",
    )  # fmt: skip
    output = capsys.readouterr()
    assert code == 0, output.err
    manifest = ExportManifest.read(tmp_path / "clip.fp32.export")
    assert (manifest.dtype, manifest.coarse_dim, manifest.engines) == ("fp32", 5, ())
    assert manifest.profile["batch"] == (2, 3, 4)
    assert manifest.parity["not_run"] == {}
    assert output.out.startswith("clip.fp32.export: clip checkpoint")
    assert len(output.out.splitlines()) < 12
    assert (tmp_path / "models" / "clip_text" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/directory here"], "expected a checkpoint directory, got nothing"),
        ([CHECKPOINT, "--batch", "8,1,64"], "--batch"),
        ([CHECKPOINT, "--batch", "1,8"], "--batch"),
        ([CHECKPOINT, "--batch", "0,8,64"], "--batch"),
        ([CHECKPOINT, "--hardware", "hopper"], "--hardware"),
        ([CHECKPOINT, "--parity-data", "no/such/directory"], "no/such/directory: "),
        ([CHECKPOINT, "-o", ROOT / "docs"], "docs, which holds something else"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_here(to_trt, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not list(tmp_path.iterdir())


def test_bad_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(to_onnx, CHECKPOINT, "--dtype", "int4") == 2
    assert "--dtype" in capsys.readouterr().err


def test_a_failed_parity_is_exit_code_3_and_the_files_are_kept(
    small: Callable[[str], Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = overflowing(small("clip"), tmp_path / "clip"), tmp_path / "out"
    data = ("--coarse-data", pictures, "--parity-data", pictures)
    assert run_here(to_trt, source, "-o", out, *data, "--onnx-only") == 3
    output = capsys.readouterr()
    assert "FAILED at torch fp16" in output.out
    last = output.err.splitlines()[-1]
    assert last.startswith("parity failed: torch fp16 - image coarse: cosine -1.000000")
    assert ExportManifest.read(out).parity["passed"] is False
    assert "**Failed.**" in (out / "parity.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], GATES["fp16"]),
        (["--dtype", "bf16"], GATES["bf16"]),
        (["--min-cosine", 0], replace(GATES["fp16"], min_cosine=0)),
        (["--min-overlap", 0.7], replace(GATES["fp16"], min_overlap=0.7)),
    ],
)
def test_the_gate_is_the_users(
    arguments: list[object], expected: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def recording(source: str, out: Path, settings: Settings, *_: object) -> None:
        asked.append((source, out.name, settings.gate))
        raise InvalidArgument("x", expected="nothing more", got="", remedy="")

    monkeypatch.setattr(export.run, "export_checkpoint", recording)
    assert run_here(to_trt, CHECKPOINT, *arguments) == 2
    dtype = "bf16" if "bf16" in arguments else "fp16"
    assert asked == [(str(CHECKPOINT), f"checkpoint.{dtype}.export", expected)]


@pytest.mark.parametrize("installed", [True, False])
def test_no_tensorrt_for_the_hardware_is_exit_code_4_and_the_graphs_are_written(
    installed: bool, small: Callable[[str], Path], pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """tensorrt_rtx builds nothing for sm90, and what is not installed builds nothing at all."""
    if not installed:
        monkeypatch.setattr(builder, "imported", lambda _: None)
    out = tmp_path / "out"
    data = ("--coarse-data", pictures, "--parity-data", pictures, "--min-overlap", 0)
    assert run_here(to_trt, small("clip"), "-o", out, *data, "--hardware", "sm90") == 4
    output = capsys.readouterr()
    last = output.err.splitlines()[-1]
    assert last.startswith(
        "no engines: hardware: expected a TensorRT that can build engines for sm90 here, got "
    )
    assert "pip install 'hivlp-engine[trt-rtx]'" in last
    assert "run this again on a machine with that GPU" in last
    manifest = ExportManifest.read(out)
    manifest.verify(out)
    assert manifest.parity["passed"] is True
    assert (
        "TensorRT: not run here: hardware: expected a TensorRT that can build engines for sm90"
        in output.out
    )


@pytest.mark.parametrize("function", [to_onnx, to_trt])
def test_every_option_is_explained(
    function: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_here(function, "--help") == 0
    shown = capsys.readouterr().out
    for option in ("--output", "--dtype", "--batch", "--coarse-data", "--parity-data", "--min-cosine",
                   "--min-overlap", "--triton-repo", "--json"):  # fmt: skip
        assert option in shown
    assert ("--hardware" in shown) == (function is to_trt)
    assert "Exit codes" in shown


def test_errors_of_the_system_are_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As `engine.cli.ending` has it for every command."""

    def full() -> None:
        raise OSError(28, "No space left on device", "out/image.onnx")

    def stopped() -> None:
        raise KeyboardInterrupt

    assert run_here(full) == 2
    assert run_here(stopped) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: out/image.onnx: No space left on device\nstopped\n"
