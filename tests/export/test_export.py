"""An export directory: what it holds, that it is whole or absent, and that the engine runs it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import engine
import export.run
from engine.checkpoints import open_checkpoint
from engine.encoders import open_encoder
from engine.encoders.manifest import MANIFEST, ExportManifest, Graph, stored_file
from engine.errors import CheckpointError, DatasetError, InvalidArgument
from engine.images import read_image
from export.errors import ExportError
from export.pairs import read_pairs
from export.rotation import learn_rotation
from export.run import Settings, export_checkpoint
from export.triton_repo import write_repository
from tests.export.overflow import overflowing

Exported = Callable[..., tuple[Path, ExportManifest]]


@pytest.mark.parametrize(("kind", "dtype"), [("clip", "fp16"), ("siglip2-other", "bf16")])
def test_the_manifest_says_what_the_directory_holds(
    kind: str, dtype: str, exported: Exported, small: Callable[[str], Path]
) -> None:
    place, manifest = exported(kind, dtype)
    checkpoint = open_checkpoint(small(kind))
    assert ExportManifest.read(place) == manifest
    assert manifest.source == checkpoint.reference
    assert (manifest.kind, manifest.dtype) == (checkpoint.kind, dtype)
    assert manifest.coarse_from == "rotation"
    assert manifest.fine_dim == checkpoint.fine_dim
    assert manifest.coarse_dim == min(64, checkpoint.fine_dim)
    assert manifest.padding == checkpoint.processor.padding
    assert manifest.max_tokens == checkpoint.processor.max_tokens
    assert manifest.profile["batch"] == (1, 4, 8)
    assert ("tokens" in manifest.profile) == (manifest.padding == "longest")
    assert {file.name for file in place.iterdir()} == {MANIFEST, *manifest.files}
    assert all(manifest.files[name] == stored_file(place / name) for name in manifest.files)
    for name in manifest.processor:
        assert (place / name).read_bytes() == (small(kind) / name).read_bytes()
    assert not list(place.glob("*.safetensors"))
    assert {"torch", "onnx", "onnxscript", "transformers"} <= manifest.versions.keys()
    assert manifest.gpu is None or torch.cuda.is_available()
    assert {"image.onnx", "text.onnx", "parity"} <= manifest.seconds.keys()
    assert (
        json.loads((place / "parity.json").read_text())["passed"]
        is manifest.parity["passed"]
        is True
    )


def test_a_retriever_runs_an_export_as_it_runs_the_checkpoint(
    exported: Exported, small: Callable[[str], Path], pictures: Path
) -> None:
    place, _ = exported("clip-other", "fp32")
    pairs = read_pairs(pictures, 12)
    found = []
    for source in (small("clip-other"), place):
        with engine.Retriever.from_pretrained(source) as retriever:
            files = [image for image in pairs.images if isinstance(image, Path)]
            retriever.add(files, ids=[str(n) for n in range(len(pairs))])
            found.append(retriever.search(list(pairs.texts), k=5, mode="exact"))
    assert found[0].ids == found[1].ids
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-5, rtol=0)
    assert open_encoder(place).runtime == "onnx"


def test_the_coarse_output_is_the_learned_rotation_of_the_fine_one(
    exported: Exported, small: Callable[[str], Path], pictures: Path
) -> None:
    """The leading eigenvectors of the second moment of pictures and captions together, in float64 NumPy."""
    place, manifest = exported("clip-other", "fp32")
    pairs = read_pairs(pictures, 512)
    encoder = open_encoder(small("clip-other"))
    parts = [encoder.encode_images([read_image(file) for file in pairs.images]).fine]
    parts.append(encoder.encode_texts(pairs.texts).fine)
    rows = torch.cat(parts).double().numpy()
    leading = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, : manifest.coarse_dim]
    model = onnx.load(place / "text.onnx")
    stored = next(w for w in model.graph.initializer if w.name == "rotation")
    rotation = numpy_helper.to_array(stored).astype(np.float64)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(manifest.coarse_dim), atol=1e-5)
    kept = [np.linalg.norm(rows @ basis) ** 2 for basis in (leading, rotation)]
    assert kept[1] == pytest.approx(kept[0], rel=1e-6)


@pytest.mark.parametrize(
    ("dim", "count", "message"),
    [
        (0, 40, r"1 to 20"),
        (21, 40, r"1 to 20"),
        (20, 5, r"at least 10 captioned pictures .* got 5"),
    ],
)
def test_a_rotation_that_cannot_be_learned_is_refused(
    dim: int, count: int, message: str, small: Callable[[str], Path], pictures: Path
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        learn_rotation(open_checkpoint(small("clip")), read_pairs(pictures, count), dim)


def test_our_own_checkpoint_keeps_its_head(
    untrained: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    manifest = export_checkpoint(str(untrained), tmp_path / "out", settings("fp32"), [], None)
    assert (manifest.coarse_from, manifest.coarse_dim, manifest.fine_dim) == ("head", 8, 24)
    ours, theirs = open_encoder(tmp_path / "out"), open_encoder(untrained)
    assert ours.runtime == "onnx"
    texts = ["a red car", "a dog and a cat"]
    for head in ("coarse", "fine"):
        vectors = [getattr(encoder.encode_texts(texts), head) for encoder in (ours, theirs)]
        torch.testing.assert_close(*vectors, atol=1e-5, rtol=0)


# What goes wrong


def test_a_corrupted_weight_fails_the_gate_where_it_happened(
    small: Callable[[str], Path],
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One weight of the ONNX graph alone: torch, in both precisions, is right."""
    original = export.run.export_graph  # type: ignore[attr-defined]

    def corrupting(tower: object, inputs: object, file: Path, **options: bool) -> Graph:
        graph = original(tower, inputs, file, **options)  # type: ignore[arg-type]
        if file.name == "image.onnx":
            model = onnx.load(file)
            weight = max(model.graph.initializer, key=lambda w: len(w.raw_data))
            values = numpy_helper.to_array(weight).copy()
            values.flat[0] = 3e4
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
            onnx.save(model, file)
        return graph

    monkeypatch.setattr(export.run, "export_graph", corrupting)
    out = tmp_path / "out"
    manifest = export_checkpoint(str(small("clip")), out, settings("fp16"), [], None)
    assert manifest.parity["passed"] is False
    assert manifest.parity["lost_at"] == "ONNX Runtime"
    assert any(failure.startswith("image fine: cosine") for failure in manifest.parity["failures"])
    assert not any(
        failure.startswith("text fine: cosine") for failure in manifest.parity["failures"]
    )
    assert ExportManifest.read(out).parity["passed"] is False  # kept, and it says so
    assert "**Failed.** Accuracy was lost at: ONNX Runtime" in (out / "parity.md").read_text()


def test_an_overflow_in_float16_is_found_and_bfloat16_holds(
    small: Callable[[str], Path], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    source = str(overflowing(small("clip"), tmp_path / "clip"))
    half = export_checkpoint(source, tmp_path / "fp16", settings("fp16"), [], None)
    assert half.parity["lost_at"] == "torch fp16"
    assert half.parity["worst"]["torch fp16"]["cosine"] == -1
    brain = export_checkpoint(source, tmp_path / "bf16", settings("bf16"), [], None)
    assert brain.parity["passed"] is True


def test_a_failure_leaves_what_was_there(
    exported: Exported,
    small: Callable[[str], Path],
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, manifest = exported("clip-other", "fp32")
    out = tmp_path / "out"
    shutil.copytree(place, out)

    def full_disk(*_: object, **__: object) -> Graph:
        raise ExportError("x", expected="space", got="none left", remedy="Make room.")

    monkeypatch.setattr(export.run, "export_graph", full_disk)
    with pytest.raises(ExportError):
        export_checkpoint(str(small("clip")), out, settings("fp32"), [], None)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    manifest.verify(out)
    with pytest.raises(ExportError):
        export_checkpoint(str(small("clip")), tmp_path / "new", settings("fp32"), [], None)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(
    exported: Exported,
    untrained: Path,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, _ = exported("clip-other", "fp32")
    earlier = tmp_path / "earlier"
    shutil.copytree(place, earlier)
    (earlier / "left over").write_text("of the earlier one")
    monkeypatch.setattr(export.run, "check_batches", lambda *_: None)
    manifest = export_checkpoint(str(untrained), earlier, settings("fp32"), [], None)
    assert manifest.kind == "hivlp"
    assert {file.name for file in earlier.iterdir()} == {MANIFEST, *manifest.files}
    assert [file.name for file in tmp_path.iterdir()] == ["earlier"]

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(b"mine")
    for taken in (photos, photos / "1.jpg"):
        with pytest.raises(
            InvalidArgument, match="a free name, an empty directory, or an earlier one"
        ):
            export_checkpoint(str(untrained), taken, settings("fp32"), [], None)
    assert (photos / "1.jpg").read_bytes() == b"mine"


def test_bad_input_is_named_and_nothing_is_written(
    damaged: Callable[..., Path], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="expected a checkpoint directory, got nothing"):
        export_checkpoint("no such directory", out, settings("fp32"), [], None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        export_checkpoint(str(damaged(remove="model.safetensors")), out, settings("fp32"), [], None)
    assert not out.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_pairs_that_cannot_be_read_are_named(
    untrained: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    from dataclasses import replace

    with pytest.raises(DatasetError, match="expected a captions file"):
        export_checkpoint(
            str(untrained),
            tmp_path / "out",
            replace(settings("fp32"), parity_data=tmp_path),
            [],
            None,
        )
    with pytest.raises(InvalidArgument, match="expected at least 2 captioned pictures, got 1"):
        export_checkpoint(
            str(untrained), tmp_path / "out", replace(settings("fp32"), pairs=1), [], None
        )
    assert not list(tmp_path.iterdir())


# NVIDIA's Triton Inference Server


def test_a_triton_repository_serves_both_towers(exported: Exported, tmp_path: Path) -> None:
    place, manifest = exported("clip-other", "fp32")
    (tmp_path / "other_model").mkdir()
    models = write_repository(place, manifest, tmp_path, "shop")
    assert [model.name for model in models] == ["shop_image", "shop_text"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other_model",
        "shop_image",
        "shop_text",
    ]
    for model, tower in zip(models, ("image", "text"), strict=True):
        config = (model / "config.pbtxt").read_text()
        assert f'name: "{model.name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n' in config
        assert (model / "1" / "model.onnx").read_bytes() == (place / f"{tower}.onnx").read_bytes()
        tensors = re.findall(
            r'(input|output) \[ \{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] \} \]',
            config,
        )
        expected = {
            "image": [("input", "pixel_values", "TYPE_FP32", "3, 48, 48")],
            "text": [("input", n, "TYPE_INT32", "-1") for n in ("input_ids", "attention_mask")],
        }[tower]
        expected += [("output", "coarse", "TYPE_FP32", "64"), ("output", "fine", "TYPE_FP32", "70")]
        assert tensors == expected
    write_repository(place, manifest, tmp_path, "shop")  # again, over the first
    (tmp_path / "mine_image").mkdir()
    (tmp_path / "mine_image" / "notes").write_text("mine")
    with pytest.raises(InvalidArgument, match="mine_image, which holds something else"):
        write_repository(place, manifest, tmp_path, "mine")


def test_a_triton_repository_takes_the_one_engine_that_the_server_runs(
    exported: Exported, tmp_path: Path
) -> None:
    from dataclasses import replace

    place, manifest = exported("clip", "fp16")
    write_repository(
        place, manifest, tmp_path, "rtx"
    )  # four engines of tensorrt_rtx: none is taken
    assert (tmp_path / "rtx_image" / "1" / "model.onnx").is_file()
    one = [replace(e, library="tensorrt") for e in manifest.engines if e.hardware == "sm80"]
    write_repository(place, replace(manifest, engines=tuple(one)), tmp_path, "trt")
    assert 'platform: "tensorrt_plan"' in (tmp_path / "trt_image" / "config.pbtxt").read_text()
    plan = (tmp_path / "trt_image" / "1" / "model.plan").read_bytes()
    assert plan == (place / one[0].file).read_bytes()
