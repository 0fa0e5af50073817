"""Every kind of checkpoint, plain and with trained heads, in every dtype: its towers run, and become graphs."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import export.run
from engine.checkpoints import open_checkpoint
from engine.encoders.manifest import Dtype, ExportManifest
from engine.training import Settings
from engine.training.publish import save_checkpoint
from engine.training.start import from_checkpoint
from export.errors import ExportError
from export.graph import check_batches, check_graph, export_graph, open_graph, run_graph
from export.precision import Float32Where, lower
from export.to_onnx import to_onnx
from export.to_trt import to_trt
from export.tower import exported_tower
from tests.engine.small_models import SMALL, clip, open_clip, siglip
from tests.export.running import run_here

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "bf16")
LEAST = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.995}
# What a run trains on the towers of others: the fine vector theirs or a head's, the coarse one made in each way.
HEADS: dict[str, dict[str, Any]] = {
    "own": {"heads": "own"},
    "own, both": {"heads": "own", "fine_dim": 12},
    "shared": {"heads": "shared", "fine_dim": 12},
    "nested": {"heads": "nested", "fine_dim": 12},
}
KINDS = [*((kind, "plain") for kind in ("hivlp", "clip", "siglip", "siglip2", "open_clip"))]
KINDS += [(kind, heads) for kind in ("clip", "siglip", "siglip2", "open_clip") for heads in HEADS]


def with_heads(source: Path, place: Path, **settings: Any) -> Path:
    """New heads on a checkpoint's towers, saved as a training run saves them."""
    torch.manual_seed(5)
    start = from_checkpoint(source, Settings(coarse_dim=6, head_dim=16, **settings))
    place.mkdir()
    save_checkpoint(start.model.eval(), start.processor, place, torch.float32, start.source)
    return place


@pytest.fixture(scope="module")
def checkpoint(
    untrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """A checkpoint of a kind, plain or with heads of ours, made when first asked for."""
    thin: dict[str, Any] = {"clip": clip, "siglip": siglip, "open_clip": open_clip}
    made: dict[tuple[str, str], Path] = {("hivlp", "plain"): untrained}

    def of(kind: str, heads: str) -> Path:
        if (kind, heads) not in made:
            place = tmp_path_factory.mktemp("kinds") / kind
            if heads != "plain":
                made[kind, heads] = with_heads(of(kind, "plain"), place, **HEADS[heads])
            elif kind in thin:
                made[kind, heads] = thin[kind](place, layers=(1, 1))
            else:
                made[kind, heads] = SMALL[kind](place)
        return made[kind, heads]

    return of


def inputs(place: Path, tower: str) -> dict[str, torch.Tensor]:
    """Three random pictures or sentences, as the graphs take them."""
    chance = torch.Generator().manual_seed(3)
    opened = open_checkpoint(place)
    if tower == "image":
        from PIL import Image

        side = opened.processor.pixels([Image.new("RGB", (50, 40))]).shape[2:]
        return {"pixel_values": torch.randn(3, 3, *side, generator=chance)}
    length = opened.processor.max_tokens - 1
    if opened.processor.padding == "max_length":
        length += 1
    ids = torch.randint(3, 20, (3, length), generator=chance, dtype=torch.int32)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(("kind", "heads"), KINDS)
def test_towers_run_in_every_dtype(
    kind: str, heads: str, checkpoint: Callable[[str, str], Path]
) -> None:
    """The very modules that are traced. Operands of two dtypes are an error in torch, as they are in ONNX."""
    place = checkpoint(kind, heads)
    opened = open_checkpoint(place)
    rotation = None if opened.coarse_dim else torch.eye(opened.fine_dim)[:, :6]
    for tower in ("image", "text"):
        given = tuple(inputs(place, tower).values())
        with torch.inference_mode():
            found = {d: exported_tower(opened, tower, d, rotation)(*given) for d in DTYPES}
        for dtype, vectors in found.items():
            for vector, wanted in zip(vectors, found["fp32"], strict=True):
                assert vector.dtype == torch.float32
                assert (vector * wanted).sum(dim=1).min() > LEAST[dtype]


@pytest.mark.parametrize(
    ("kind", "tower", "dtype"),
    [("siglip", "text", "bf16"), ("open_clip", "image", "fp16")],
)
def test_towers_with_trained_heads_become_graphs(
    kind: str, tower: Any, dtype: Dtype, checkpoint: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """ONNX's checker accepts them, and ONNX Runtime gives torch's vectors at other batch sizes too."""
    place = checkpoint(kind, "own")
    opened, given = open_checkpoint(place), inputs(place, tower)
    file = tmp_path / "tower.onnx"
    low = exported_tower(opened, tower, dtype)
    export_graph(low, given, file, dynamic_tokens=False)
    check_batches(file, given, (1, 5))
    vectors = run_graph(open_graph(file), {name: x.numpy() for name, x in given.items()})
    with torch.inference_mode():
        wanted = exported_tower(opened, tower, "fp32")(*given.values())
    for ours, theirs in zip(vectors, wanted, strict=True):
        assert (ours * theirs.numpy()).sum(axis=1).min() > LEAST[dtype]


def test_a_trained_clip_is_exported_as_the_command_does_by_default(
    checkpoint: Callable[[str, str], Path], pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    code = run_here(
        to_trt, checkpoint("clip", "own"), "-o", out, "--onnx-only",
        "--parity-data", pictures, "--parity-pairs", 8, "--min-overlap", 0.5,
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    manifest = ExportManifest.read(out)
    assert (manifest.dtype, manifest.coarse_from, manifest.coarse_dim) == ("fp16", "head", 6)
    assert manifest.parity["passed"] is True


class _Mixed(nn.Module):
    """A unit vector, float32 in low precision, read by everything that multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bilinear = nn.Linear(8, 8), nn.Bilinear(8, 8, 4)
        self.convolution, self.weight = nn.Conv1d(1, 2, 3), nn.Parameter(torch.eye(8))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        unit, square = F.normalize(x, dim=-1), self.weight
        batch = unit[None].expand(2, -1, -1)
        return [
            self.linear(unit),
            F.linear(input=unit, weight=square),
            self.bilinear(unit, unit),
            self.convolution(unit[:, None]),
            unit @ square,
            square @ unit.T,
            torch.matmul(unit, square),
            torch.mm(unit, square),
            torch.bmm(batch, square[None].expand(2, -1, -1)),
            torch.addmm(self.linear.bias, unit, square),
            F.scaled_dot_product_attention(batch, batch @ square, batch),
        ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_beside_low_precision_comes_down_in_products(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, x = _Mixed().eval(), torch.randn(4, 8)
    with torch.inference_mode():
        wanted = module(x)
        low = lower(module, dtype)
        with Float32Where():
            found = low(x.to(dtype))
            norm = F.layer_norm(x, (8,), torch.ones(8, dtype=dtype))
    assert [y.dtype for y in found] == [dtype] * len(wanted)
    assert norm.dtype == torch.float32
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.float().numpy(), theirs.numpy(), atol=0.05)


# What goes wrong


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no kernel for this\nand a page more"), "RuntimeError: no kernel for this."),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "error: out of memory."),
        (
            ExportError("image.onnx", expected="a graph", got="none", remedy="Try again."),
            "error: image.onnx: expected a graph, got none. Try again.",
        ),
    ],
)
def test_no_failure_is_a_traceback(
    error: Exception, said: str, untrained: Path, pictures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(export.run, "export_graph", failing)
    out = tmp_path / "out"
    code = 1 if isinstance(error, MemoryError) else 2
    assert run_here(to_onnx, untrained, "-o", out, "--parity-data", pictures) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err.splitlines()[-1]
    assert "Traceback" not in output.err
    assert not list(tmp_path.iterdir())


def test_a_graph_of_two_dtypes_is_an_export_error(tmp_path: Path) -> None:
    """As a float32 value that reaches a product in low precision would make it."""
    wide, low = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])],
        "mixed",
        [value("x", wide, [2, 2]), value("w", low, [2, 2])],
        [value("y", wide, [2, 2])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "image.onnx")
    with pytest.raises(ExportError, match=r"image\.onnx: expected a graph that ONNX allows, got "):
        check_graph(tmp_path / "image.onnx")


def test_a_missing_package_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.cli.find_spec", lambda name: None if name == "onnxscript" else sys)
    assert run_here(to_onnx, "anything") == 2
    assert "pip install 'hivlp-engine[onnx]'" in capsys.readouterr().err


def test_heads_are_saved_without_the_towers_they_were_made_from(
    checkpoint: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """What is exported above depends on nothing beside its directory."""
    place = tmp_path / "moved"
    shutil.copytree(checkpoint("clip", "own"), place)
    assert open_checkpoint(place).coarse_dim == 6
