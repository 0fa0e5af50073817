"""The TensorRT encoder: what reaches its deserialiser, how it is fed, and, on a GPU, what it answers."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.encoders import tensorrt_encoder as trt_module
from engine.encoders.manifest import ExportManifest
from engine.encoders.onnx_encoder import onnx_encoder
from engine.encoders.tensorrt_encoder import Engine, TensorRTTower
from tests.engine.encoders.fake_tensorrt import Context, Deserialiser, engines, with_engine
from tests.engine.encoders.pictures import images
from tests.engine.encoders.test_runtimes import SENTENCES


def test_a_hundred_changed_bytes_never_reach_the_deserialiser(
    changed: Callable[..., Path],
) -> None:
    place = changed(with_engine, engines=engines("sm89"))
    manifest, library = ExportManifest.read(place), Deserialiser()
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
    with pytest.raises(
        engine.CheckpointError, match=r"expected an engine that .* can run, got one that it refuses"
    ):
        Engine.load(place, manifest, manifest.engines[0], library)
    assert library.reached == [whole]


def test_tensorrt_is_fed_and_read_as_its_interface_asks(
    exports: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU: streams and contexts are stood in for, tensors are real. Parts of at most 8, filled up to 2."""
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    place = exports("clip")
    manifest = ExportManifest.read(place)
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
    sources: dict[str, Path], export_settings: Any, tmp_path: Path
) -> None:
    """Builds for the GPU at hand, then runs it."""
    from export.run import export_checkpoint
    from export.tensorrt_builder import choose_targets

    if trt_module.imported("tensorrt") is None and trt_module.imported("tensorrt_rtx") is None:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    for kind, source in sources.items():
        targets = choose_targets(None)
        export_checkpoint(str(source), tmp_path / kind, export_settings(kind), targets, None)
        theirs, ours = engine.open_encoder(source), engine.open_encoder(tmp_path / kind)
        assert ours.runtime == "tensorrt"
        for count in (1, 3, 20):
            found, expected = (e.encode_texts(SENTENCES[:count]).fine for e in (ours, theirs))
            assert (found * expected).sum(dim=1).min() > 0.999
        found, expected = (e.encode_images(images(11)).fine for e in (ours, theirs))
        assert (found * expected).sum(dim=1).min() > 0.999
