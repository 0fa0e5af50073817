"""Engines, really built by tensorrt_rtx with no GPU, and the choice of library and hardware."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import export.tensorrt_builder as builder
from engine.encoders.manifest import ExportManifest, Graph, TensorSpec
from export.errors import ExportError, TensorRTUnavailable
from export.tensorrt_builder import AHEAD_OF_TIME, Target, build_engine, choose_targets

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra trt-rtx is not installed")
Exported = Callable[..., tuple[Path, ExportManifest]]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_engines_are_built_ahead_of_time_for_every_gpu(kind: str, exported: Exported) -> None:
    place, manifest = exported(kind, "fp16")
    built = {(engine.tower, engine.hardware) for engine in manifest.engines}
    assert built == {(tower, sm) for tower in ("image", "text") for sm in AHEAD_OF_TIME}
    for engine in manifest.engines:
        sm, version = engine.hardware, rtx.__version__
        assert engine.file == f"{engine.tower}-{sm}-rtx{version}-fp16.engine"
        assert (engine.library, engine.version) == ("tensorrt_rtx", version)
        assert engine.seconds > 0
        assert (place / engine.file).stat().st_size == manifest.files[engine.file].bytes
    sm86, sm120 = (
        next(e.file for e in manifest.engines if e.hardware == sm) for sm in ("sm86", "sm120")
    )
    assert (place / sm86).read_bytes() != (place / sm120).read_bytes()


def test_an_engine_is_read_back_as_far_as_goes_without_a_gpu(exported: Exported) -> None:
    """TensorRT reads the header, which holds its version; the rest it reads on a GPU only."""
    place, manifest = exported("clip", "fp16")
    flags = rtx.EngineInvalidityDiagnostics.__members__
    bad = int(flags["MALFORMED_ENGINE"]) | int(flags["VERSION_MISMATCH"])
    runtime = rtx.Runtime(rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    for engine in manifest.engines:
        content = manifest.content(place, engine.file)
        _, faults = runtime.get_engine_validity(content)
        assert not faults & bad, engine.file
        _, faults = runtime.get_engine_validity(bytes([content[0] ^ 1]) + content[1:])
        assert faults & bad  # so the line above can fail


def _build(target: Target, graph: Graph, place: Path, watch: Any = lambda *_: None) -> Any:
    profile = {"batch": (1, 4, 8), "tokens": (1, 4, 8)}
    return build_engine(
        target, "image", graph, place, "fp32", profile,
        timing_cache=place / "timings", watch=watch,
    )  # fmt: skip


def test_progress_is_the_builders_own(exported: Exported, tmp_path: Path) -> None:
    place, manifest = exported("clip", "fp16")
    (target,) = choose_targets(["sm80"])
    (tmp_path / "image.onnx").write_bytes((place / "image.onnx").read_bytes())
    steps: list[tuple[str, int, int]] = []
    _build(target, manifest.graphs["image"], tmp_path, lambda *step: steps.append(step))
    phases = {phase for phase, _, _ in steps}
    assert "Building engine" in phases
    assert len(phases) > 5
    assert all(0 <= done <= total for _, done, total in steps)
    assert max(total for _, _, total in steps) > 10


def test_what_tensorrt_cannot_read_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image.onnx").write_bytes(b"not a graph")
    (target,) = choose_targets(["sm89"])
    graph = Graph("image.onnx", None, {"pixel_values": TensorSpec("float32", ("batch", 4))}, {})
    with pytest.raises(
        ExportError, match=r"image\.onnx: expected a graph that tensorrt_rtx .* reads, got "
    ):
        _build(target, graph, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["image.onnx"]
    assert capfd.readouterr().out == ""


def test_tensorrt_itself_builds_for_the_gpu_at_hand(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its branch, run by the other library under its name; on a GPU it is run by its own (`-m gpu`)."""
    place, manifest = exported("clip", "fp16")
    (tmp_path / "image.onnx").write_bytes((place / "image.onnx").read_bytes())
    monkeypatch.setattr(builder, "imported", lambda library: rtx if library == "tensorrt" else None)
    monkeypatch.setattr(builder, "hardware_of", lambda _: "sm90")
    (target,) = choose_targets(None)
    assert (target.library, target.hardware) == ("tensorrt", "sm90")
    with pytest.warns(DeprecationWarning, match="Timing cache"):
        engine = _build(target, manifest.graphs["image"], tmp_path)
    assert engine.file == f"image-sm90-trt{rtx.__version__}-fp32.engine"
    assert (tmp_path / "timings").stat().st_size > 0
    with pytest.warns(DeprecationWarning, match="Timing cache"):
        _build(target, manifest.graphs["image"], tmp_path)  # with the timings of the first


@pytest.mark.parametrize(
    ("installed", "present", "hardware", "expected"),
    [
        (("tensorrt_rtx",), None, None, [("tensorrt_rtx", sm) for sm in AHEAD_OF_TIME]),
        (("tensorrt_rtx",), "sm89", None, [("tensorrt_rtx", "sm89")]),
        (("tensorrt", "tensorrt_rtx"), "sm89", None, [("tensorrt", "sm89")]),
        (
            ("tensorrt", "tensorrt_rtx"),
            "sm90",
            ["sm90", "sm86"],
            [("tensorrt", "sm90"), ("tensorrt_rtx", "sm86")],
        ),
    ],
)
def test_which_library_builds_for_what(
    installed: tuple[str, ...],
    present: str | None,
    hardware: list[str] | None,
    expected: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pretend(monkeypatch, installed, present)
    assert [(t.library, t.hardware) for t in choose_targets(hardware)] == expected


@pytest.mark.parametrize(
    ("installed", "present", "hardware", "reason"),
    [
        ((), None, None, "tensorrt is not installed; tensorrt_rtx is not installed"),
        (("tensorrt",), None, None, "tensorrt builds for the GPU at hand, which is none"),
        (("tensorrt",), "sm90", ["sm89"], "the GPU at hand, which is sm90"),
        (("tensorrt_rtx",), None, ["sm90"], "builds for sm75, sm80, sm86, sm89, sm120, sm121"),
    ],
)
def test_where_nothing_can_build_every_reason_is_given(
    installed: tuple[str, ...],
    present: str | None,
    hardware: list[str] | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pretend(monkeypatch, installed, present)
    with pytest.raises(TensorRTUnavailable) as refused:
        choose_targets(hardware)
    assert reason in str(refused.value)
    assert "pip install 'hivlp-engine[trt-rtx]'" in str(refused.value)


def _pretend(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], present: str | None
) -> None:
    module = SimpleNamespace(__version__="9.9", ComputeCapability=rtx.ComputeCapability)
    monkeypatch.setattr(builder, "imported", lambda name: module if name in installed else None)
    monkeypatch.setattr(builder, "hardware_of", lambda _: present)
