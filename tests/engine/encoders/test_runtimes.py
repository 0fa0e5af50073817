"""Encoders of an export: ONNX Runtime, and which runtime is chosen; nothing that was changed is ever opened."""

import logging
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine
from engine.encoders import tensorrt_encoder as trt_module
from engine.encoders.manifest import ExportManifest
from engine.encoders.onnx_encoder import onnx_encoder
from engine.encoders.tensorrt_encoder import tensorrt_encoder
from tests.engine.encoders.fake_tensorrt import engines, with_engine
from tests.engine.encoders.pictures import images

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SENTENCES = ["a red car", "Dog!", "the quick brown fox jumps over the lazy dog", "🦓"] * 5


def assert_close(found: engine.Embeddings, expected: engine.Embeddings) -> None:
    assert (found.coarse is None) == (expected.coarse is None)
    torch.testing.assert_close(found.fine, expected.fine, atol=1e-5, rtol=0)
    if found.coarse is not None:
        torch.testing.assert_close(found.coarse, expected.coarse, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- ONNX Runtime


@pytest.mark.parametrize("kind", ["hivlp", "clip", "siglip2"])
def test_onnx_runtime_gives_the_vectors_of_torch(
    exports: Callable[[str], Path], sources: dict[str, Path], kind: str
) -> None:
    """Also for one item, below the profile, and for more than its largest batch, which are run in parts."""
    theirs = engine.open_encoder(sources[kind])
    ours = onnx_encoder(exports(kind), why="a test")
    assert isinstance(ours, engine.Encoder)
    assert (ours.coarse_dim, ours.fine_dim) == (theirs.coarse_dim, theirs.fine_dim)
    assert ours.reference.sha256 == theirs.reference.sha256
    for count in (1, 3, 20):
        assert_close(ours.encode_texts(SENTENCES[:count]), theirs.encode_texts(SENTENCES[:count]))
    for count in (1, 11):
        pictures = images(count)
        assert_close(ours.encode_images(pictures), theirs.encode_images(pictures))


def test_an_index_is_searched_with_any_runtime(
    exports: Callable[[str], Path],
    sources: dict[str, Path],
    some_pictures: Path,
    tmp_path: Path,
) -> None:
    from engine.building import index_folder

    for kind in ("hivlp", "clip"):
        made = index_folder(some_pictures, engine.open_encoder(sources[kind]))
        made.save(tmp_path / kind)
        with_torch = engine.Retriever(tmp_path / kind).search(SENTENCES, k=3)
        with_onnx = engine.Retriever(tmp_path / kind, encoder=exports(kind)).search(SENTENCES, k=3)
        assert with_onnx.ids == with_torch.ids
        torch.testing.assert_close(with_onnx.scores, with_torch.scores, atol=1e-5, rtol=0)
    built = index_folder(some_pictures, engine.open_encoder(exports("clip")))
    assert built.search(SENTENCES, k=3).ids == with_torch.ids
    assert built.index.checkpoint is not None
    assert built.index.checkpoint.path == str(exports("clip"))


def test_many_threads_share_a_session(exports: Callable[[str], Path]) -> None:
    encoder = onnx_encoder(exports("clip"), why="a test")
    expected = [encoder.encode_texts([text]).fine for text in SENTENCES[:4]]
    failures: list[int] = []

    def encode(place: int) -> None:
        for _ in range(20):
            if not torch.equal(encoder.encode_texts([SENTENCES[place]]).fine, expected[place]):
                failures.append(place)

    threads = [threading.Thread(target=encode, args=(place % 4,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def apart(place: Path, location: str = "image.onnx.data") -> None:
    """Move the weights of `image.onnx` into a file, and let the graph name it `location`."""
    from onnx.external_data_helper import convert_model_to_external_data

    model = onnx.load(place / "image.onnx")
    convert_model_to_external_data(model, location="image.onnx.data", size_threshold=1024)
    onnx.save(model, place / "image.onnx")
    model = onnx.load(place / "image.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (place / "image.onnx").write_bytes(model.SerializeToString())


def test_weights_in_a_file_of_their_own(
    changed: Callable[..., Path], exports: Callable[[str], Path]
) -> None:
    graphs = ExportManifest.read(exports("clip")).graphs
    graphs |= {"image": replace(graphs["image"], weights="image.onnx.data")}
    place = changed(apart, graphs=graphs)
    assert (place / "image.onnx.data").stat().st_size > (place / "image.onnx").stat().st_size
    expected = onnx_encoder(exports("clip"), why="a test").encode_images(images())
    assert_close(onnx_encoder(place, why="a test").encode_images(images()), expected)
    weights = bytearray((place / "image.onnx.data").read_bytes())
    weights[77] ^= 1
    (place / "image.onnx.data").write_bytes(weights)
    with pytest.raises(engine.CheckpointError, match=r"image.onnx.data: .* sha256"):
        onnx_encoder(place, why="a test")
    (place / "image.onnx.data").unlink()
    (place / "image.onnx.data").symlink_to(exports("clip") / "image.onnx")
    with pytest.raises(engine.CheckpointError, match="not a link"):
        onnx_encoder(place, why="a test")


@pytest.mark.parametrize("location", ["/etc/passwd", "../image.onnx.data", "text.onnx"])
def test_weights_from_anywhere_else_are_refused(
    changed: Callable[..., Path], location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with every hash right: the graph itself is not to be trusted with names of files."""
    place = changed(lambda place: apart(place, location))
    monkeypatch.setattr(onnxruntime, "InferenceSession", never)
    with pytest.raises(engine.CheckpointError, match="expected weights inside the graph, got"):
        onnx_encoder(place, why="a test")


def test_a_weight_from_elsewhere_within_a_branch(changed: Callable[..., Path]) -> None:
    def hide(place: Path) -> None:
        model = onnx.load(place / "text.onnx")
        tensor = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=1)
        tensor.external_data.add(key="location", value="/etc/passwd")
        inner = onnx.helper.make_graph([], "branch", [], [], initializer=[tensor])
        model.graph.node.append(onnx.helper.make_node("If", ["c"], ["o"], then_branch=inner))
        (place / "text.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(engine.CheckpointError, match="got 'hidden' in '/etc/passwd'"):
        onnx_encoder(changed(hide), why="a test")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("must not be reached")


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json", "config.json"])
def test_a_changed_byte_is_found(
    changed: Callable[..., Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = changed()
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1
    (place / name).write_bytes(content)
    if name == "image.onnx":
        monkeypatch.setattr(onnxruntime, "InferenceSession", never)
    with pytest.raises(engine.CheckpointError, match=f"{name}: expected .* sha256 .*, got "):
        engine.open_encoder(place)


def test_another_padding_than_at_the_export(changed: Callable[..., Path]) -> None:
    with pytest.raises(
        engine.CheckpointError, match=r"expected sentences padded .* \(max_length, 16 tokens\), got"
    ):
        onnx_encoder(changed(padding="max_length"), why="a test")


def test_a_graph_that_is_none(changed: Callable[..., Path], tmp_path: Path) -> None:
    for content in (b"", b"no graph", b"\xff" * 99):
        place = changed(lambda place, content=content: (place / "image.onnx").write_bytes(content))
        with pytest.raises(engine.CheckpointError, match=r"image.onnx: .*graph"):
            onnx_encoder(place, why="a test")
        shutil.rmtree(tmp_path / "export")


def test_a_graph_of_other_inputs(changed: Callable[..., Path]) -> None:
    place = changed(lambda place: shutil.copy(place / "text.onnx", place / "image.onnx"))
    with pytest.raises(
        engine.CheckpointError,
        match=r"expected inputs .*pixel_values.*, as the manifest says, got ",
    ):
        onnx_encoder(place, why="a test")


# ---------------------------------------------------------------- which runtime


def test_the_choice_is_said(
    changed: Callable[..., Path],
    exports: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "engine"):
        encoder = engine.open_encoder(exports("clip"))
    assert encoder.runtime == "onnx"
    assert "runtime='onnx': the export holds no TensorRT engine" in repr(encoder)
    assert repr(encoder) in caplog.text
    caplog.clear()
    encoder = engine.open_encoder(changed(with_engine, engines=engines("sm12")))
    assert (encoder.runtime, encoder.why) == ("onnx", "no TensorRT engine fits this machine")
    assert "tower.engine is for sm12, this is" in caplog.text
    assert "python -m export.to_trt" in caplog.text


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (None, "needs tensorrt_rtx, which is not installed"),
        (SimpleNamespace(__version__="1.2.4"), "for tensorrt_rtx 1.2.3, here is 1.2.4"),
    ],
)
def test_an_engine_for_another_library(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, library: Any, reason: str
) -> None:
    monkeypatch.setattr(trt_module, "hardware_of", lambda _: "sm89")
    monkeypatch.setattr(trt_module, "imported", lambda _: library)
    with pytest.raises(engine.RuntimeUnavailable, match=reason):
        tensorrt_encoder(changed(with_engine, engines=engines("sm89")), why="a test")


def test_without_onnx_runtime_the_source_is_run(
    exports: Callable[[str], Path],
    sources: dict[str, Path],
    changed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = engine.open_encoder(exports("siglip2"))
    assert encoder.runtime == "torch"
    assert "pip install 'hivlp-engine[onnx]'" in encoder.why
    assert encoder.reference.path == str(sources["siglip2"])
    source = ExportManifest.read(exports("clip")).source
    gone = changed(source=replace(source, path="gone/for/good"))
    with pytest.raises(engine.RuntimeUnavailable, match=r"hivlp-engine\[onnx\].*gone/for/good"):
        engine.open_encoder(gone)
    manifest = ExportManifest.read(gone)
    replace(manifest, source=replace(source, sha256="0" * 64)).write(gone)
    with pytest.raises(engine.CheckpointMismatch, match="the checkpoint that was exported"):
        engine.open_encoder(gone)


def test_bfloat16_is_not_for_onnx_runtime_on_a_cpu(changed: Callable[..., Path]) -> None:
    place = changed(dtype="bf16")
    with pytest.raises(
        engine.RuntimeUnavailable, match=r"expected an export in fp32 or fp16, .* got one in bf16"
    ):
        onnx_encoder(place, device="cpu", why="a test")
    assert engine.open_encoder(place, device="cpu").runtime == "torch"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "hivlp-export", "version": 99}'])
def test_a_manifest_of_another_form(changed: Callable[..., Path], content: str) -> None:
    place = changed()
    (place / "manifest.json").write_text(content)
    with pytest.raises(engine.CheckpointError, match=r"manifest.json: "):
        engine.open_encoder(place)
