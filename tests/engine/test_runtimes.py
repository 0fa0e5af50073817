"""Encoders of an export: ONNX Runtime, TensorRT, and which is chosen; nothing that was changed is ever opened."""

import ctypes
import logging
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data

import engine
from engine.encoders import tensorrt_encoder as trt_module
from engine.encoders.manifest import TOWERS, Manifest, TensorRTEngine, stored_file
from engine.encoders.onnx_encoder import onnx_encoder
from engine.encoders.tensorrt_encoder import Engine, TensorRTTower, tensorrt_encoder
from export.parity import Gate
from export.run import Settings, export_checkpoint
from tests.engine.small_models import SMALL
from tests.engine.test_encoder import images

SENTENCES = ["a red car", "Dog!", "the quick brown fox jumps over the lazy dog", "🦓"] * 5
BATCH = (2, 4, 8)


@pytest.fixture(scope="session")
def checkpoints(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with a coarse head, one without, and one whose sentences are always padded to the full length."""
    place = tmp_path_factory.mktemp("sources")
    return {
        "hivlp": untrained,
        "clip": SMALL["clip"](place / "clip"),
        "siglip2": SMALL["siglip2"](place / "siglip2"),
    }


@pytest.fixture(scope="session")
def exports(
    checkpoints: dict[str, Path], tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Exports in fp32 by kind, each made when first asked for."""
    place = tmp_path_factory.mktemp("exports")

    def of(kind: str) -> Path:
        if not (place / kind).exists():
            settings = Settings(
                dtype="fp32",
                batch=BATCH,
                coarse_data=tiny_dataset,
                coarse_dim=None if kind == "hivlp" else 16,
                parity_data=tiny_dataset,
                pairs=4,
                gate=Gate(0.9, 0.1),
                timing_cache=place / "timings",
            )
            export_checkpoint(str(checkpoints[kind]), place / kind, settings, [], None)
        return place / kind

    return of


@pytest.fixture
def changed(exports: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the CLIP export, its manifest rewritten to fit what `change` did to it."""

    def copy(change: Callable[[Path], None] = lambda _: None, **entries: Any) -> Path:
        place = tmp_path / "export"
        shutil.copytree(exports("clip"), place)
        manifest = Manifest.read(place)
        change(place)
        named = {file.name for file in place.iterdir()} - {"manifest.json"}
        files = {name: stored_file(place / name) for name in sorted(named)}
        replace(manifest, files=files, **entries).write(place)
        return place

    return copy


def assert_close(found: engine.Embeddings, expected: engine.Embeddings) -> None:
    assert (found.coarse is None) == (expected.coarse is None)
    torch.testing.assert_close(found.fine, expected.fine, atol=1e-5, rtol=0)
    if found.coarse is not None:
        torch.testing.assert_close(found.coarse, expected.coarse, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- ONNX Runtime


@pytest.mark.parametrize("kind", ["hivlp", "clip", "siglip2"])
def test_onnx_runtime_gives_the_vectors_of_torch(
    exports: Callable[[str], Path], checkpoints: dict[str, Path], kind: str
) -> None:
    """Also for one item, below the profile, and for more than its largest batch, which are run in parts."""
    theirs = engine.open_encoder(checkpoints[kind])
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
    checkpoints: dict[str, Path],
    some_pictures: Path,
    tmp_path: Path,
) -> None:
    from engine.building import index_folder

    for kind in ("hivlp", "clip"):
        made = index_folder(some_pictures, engine.open_encoder(checkpoints[kind]))
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
    graphs = Manifest.read(exports("clip")).graphs
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
    with pytest.raises(engine.CheckpointError, match="weights inside the graph expected, got"):
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
    with pytest.raises(engine.CheckpointError, match=f"{name}: .* sha256 .* expected"):
        engine.open_encoder(place)


def test_a_graph_that_is_none(changed: Callable[..., Path], tmp_path: Path) -> None:
    for content in (b"", b"no graph", b"\xff" * 99):
        place = changed(lambda place, content=content: (place / "image.onnx").write_bytes(content))
        with pytest.raises(engine.CheckpointError, match=r"image.onnx: .*graph"):
            onnx_encoder(place, why="a test")
        shutil.rmtree(tmp_path / "export")


def test_a_graph_of_other_inputs(changed: Callable[..., Path]) -> None:
    place = changed(lambda place: shutil.copy(place / "text.onnx", place / "image.onnx"))
    with pytest.raises(engine.CheckpointError, match=r"inputs .*pixel_values.* by the manifest"):
        onnx_encoder(place, why="a test")


# ---------------------------------------------------------------- which runtime


def engines(hardware: str, file: str = "tower.engine") -> tuple[TensorRTEngine, ...]:
    return tuple(
        TensorRTEngine(tower, file, "tensorrt_rtx", "1.2.3", hardware, "fp32", 0.1)
        for tower in TOWERS
    )


def with_engine(place: Path) -> None:
    (place / "tower.engine").write_bytes(bytes(range(256)) * 8)


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
    monkeypatch.setattr(trt_module, "_imported", lambda _: library)
    with pytest.raises(engine.RuntimeUnavailable, match=reason):
        tensorrt_encoder(changed(with_engine, engines=engines("sm89")), why="a test")


def test_without_onnx_runtime_the_source_is_run(
    exports: Callable[[str], Path],
    checkpoints: dict[str, Path],
    changed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = engine.open_encoder(exports("siglip2"))
    assert encoder.runtime == "torch"
    assert "pip install 'hivlp-engine[onnx]'" in encoder.why
    assert encoder.reference.path == str(checkpoints["siglip2"])
    source = Manifest.read(exports("clip")).source
    gone = changed(source=replace(source, path="gone/for/good"))
    with pytest.raises(engine.RuntimeUnavailable, match=r"hivlp-engine\[onnx\].*gone/for/good"):
        engine.open_encoder(gone)
    manifest = Manifest.read(gone)
    replace(manifest, source=replace(source, sha256="0" * 64)).write(gone)
    with pytest.raises(engine.CheckpointMismatch, match="the checkpoint that was exported"):
        engine.open_encoder(gone)


def test_bfloat16_is_not_for_onnx_runtime_on_a_cpu(changed: Callable[..., Path]) -> None:
    place = changed(dtype="bf16")
    with pytest.raises(engine.RuntimeUnavailable, match="this export is bf16"):
        onnx_encoder(place, device="cpu", why="a test")
    assert engine.open_encoder(place, device="cpu").runtime == "torch"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "hivlp-export", "version": 99}'])
def test_a_manifest_of_another_form(changed: Callable[..., Path], content: str) -> None:
    place = changed()
    (place / "manifest.json").write_text(content)
    with pytest.raises(engine.CheckpointError, match=r"manifest.json: "):
        engine.open_encoder(place)


# ---------------------------------------------------------------- TensorRT


class Deserialiser:
    """Stands for the library, and counts what reaches its native code."""

    __version__ = "1.2.3"

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            assert level == self.ERROR

    def __init__(self) -> None:
        self.reached: list[bytes] = []

    def Runtime(self, _: Any) -> Any:  # noqa: N802  # TensorRT's own name
        return self

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self.reached.append(content)
        return None  # as TensorRT does with what it cannot read


def test_a_hundred_changed_bytes_never_reach_the_deserialiser(
    changed: Callable[..., Path],
) -> None:
    place = changed(with_engine, engines=engines("sm89"))
    manifest, library = Manifest.read(place), Deserialiser()
    whole = (place / "tower.engine").read_bytes()
    chance = np.random.default_rng(0)
    for at in chance.choice(len(whole), 100, replace=False):
        content = bytearray(whole)
        content[at] ^= 1 << int(chance.integers(8))
        (place / "tower.engine").write_bytes(content)
        with pytest.raises(engine.CheckpointError, match="sha256"):
            Engine.load(place, manifest, manifest.engines[0], library)
    (place / "tower.engine").write_bytes(whole[:-1])
    with pytest.raises(engine.CheckpointError, match="2,048 bytes"):
        Engine.load(place, manifest, manifest.engines[0], library)
    assert not library.reached
    (place / "tower.engine").write_bytes(whole)
    with pytest.raises(engine.CheckpointError, match="can run expected; it refused"):
        Engine.load(place, manifest, manifest.engines[0], library)
    assert library.reached == [whole]


class Context:
    """An execution context over ONNX Runtime: shapes and addresses as TensorRT takes them, memory of the CPU."""

    def __init__(self, place: Path, manifest: Manifest, tower: Any) -> None:
        self.graph = manifest.graphs[tower]
        self.session = onnxruntime.InferenceSession(place / self.graph.file)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran: list[int] = []

    def create_execution_context(self) -> "Context":
        return self

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        lengths = {"batch": BATCH, "tokens": (1, 8, 16)}
        shape = self.graph.inputs[name].shape
        return [
            tuple(lengths[axis][n] if isinstance(axis, str) else axis for axis in shape)
            for n in range(3)
        ]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def _memory(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_char * length).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        fed = {
            name: self._memory(name, self.shapes[name], spec.dtype)
            for name, spec in self.graph.inputs.items()
        }
        results = self.session.run(["coarse", "fine"], fed)
        for name, result in zip(("coarse", "fine"), results, strict=True):
            self._memory(name, result.shape, "float32")[:] = result
        self.ran.append(len(result))
        return True


def test_tensorrt_is_fed_and_read_as_its_interface_asks(
    exports: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU: streams and contexts are stood in for, tensors are real. Parts of at most 8, filled up to 2."""
    from contextlib import nullcontext

    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    place = exports("clip")
    manifest = Manifest.read(place)
    reference = onnx_encoder(place, why="a test")
    pixels = reference.processor.pixels(images(11))
    tokens = tuple(reference.processor.tokens(SENTENCES[:9]).values())
    for tower, inputs, ran in (("image", (pixels,), [8, 3]), ("text", tokens, [8, 2])):
        context = Context(place, manifest, tower)
        entry = next(e for e in engines("sm89") if e.tower == tower)
        loaded = Engine(entry, place / "tower.engine", None, context)
        run = TensorRTTower(loaded, manifest, torch.device("cpu"))
        found, expected = run(*inputs), getattr(reference, tower)(*inputs)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert context.ran == ran
    with pytest.raises(engine.InvalidArgument, match=r"input_ids: expected a shape from \(2, 1\)"):
        run(torch.ones(3, 17, dtype=torch.int64), torch.ones(3, 17, dtype=torch.int64))


@pytest.mark.gpu
def test_tensorrt_gives_the_vectors_of_torch(
    checkpoints: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    """Builds for the GPU at hand, then runs it."""
    if trt_module._imported("tensorrt") is None and trt_module._imported("tensorrt_rtx") is None:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    from export.tensorrt_builder import choose_targets

    for kind, checkpoint in checkpoints.items():
        settings = Settings(
            dtype="fp32",
            batch=BATCH,
            coarse_data=tiny_dataset,
            coarse_dim=None if kind == "hivlp" else 16,
            parity_data=tiny_dataset,
            pairs=4,
            gate=Gate(0.9, 0.1),
            timing_cache=tmp_path / "timings",
        )
        export_checkpoint(str(checkpoint), tmp_path / kind, settings, choose_targets(None), None)
        theirs, ours = engine.open_encoder(checkpoint), engine.open_encoder(tmp_path / kind)
        assert ours.runtime == "tensorrt"
        for count in (1, 3, 20):
            found = ours.encode_texts(SENTENCES[:count]).fine
            expected = theirs.encode_texts(SENTENCES[:count]).fine
            assert (found * expected).sum(dim=1).min() > 0.999
        found, expected = (e.encode_images(images(11)).fine for e in (ours, theirs))
        assert (found * expected).sum(dim=1).min() > 0.999
