"""Checkpoints and encoders: what is saved comes back to the bit, what is damaged is refused by name."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import engine
from engine.checkpoints import open_processor
from tests.conftest import CHECKPOINT
from tests.engine.encoders.pictures import images

SENTENCES = ["a red car", "a dog", "the quick brown fox jumps over the lazy dog, twice"]


def assert_same(one: engine.Embeddings, other: engine.Embeddings) -> None:
    assert one.coarse is not None
    assert other.coarse is not None
    assert torch.equal(one.coarse, other.coarse)
    assert torch.equal(one.fine, other.fine)


def test_vectors_have_unit_length_and_the_configured_dims() -> None:
    encoder = engine.open_encoder(CHECKPOINT)
    assert isinstance(encoder, engine.Encoder)
    for vectors in (encoder.encode_texts(SENTENCES), encoder.encode_images(images())):
        assert vectors.coarse is not None
        assert vectors.coarse.shape == (3, encoder.coarse_dim)
        assert vectors.fine.shape == (3, encoder.fine_dim)
        for level in (vectors.coarse, vectors.fine):
            assert level.dtype == torch.float32
            torch.testing.assert_close(level.norm(dim=1), torch.ones(3))


def test_a_checkpoint_round_trip_gives_the_same_vectors_to_the_bit(tmp_path: Path) -> None:
    """save_pretrained and the Auto classes, as other people's tools would use them."""
    from transformers import AutoModel, AutoTokenizer

    first = engine.open_encoder(CHECKPOINT)
    AutoModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(
        (CHECKPOINT / "preprocessor_config.json").read_bytes()
    )
    again = engine.open_encoder(tmp_path)
    assert_same(first.encode_texts(SENTENCES), again.encode_texts(SENTENCES))
    assert_same(first.encode_images(images()), again.encode_images(images()))


def test_auto_classes_load_our_checkpoints() -> None:
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from engine.model import HiVLPConfig, HiVLPModel, HiVLPProcessor

    assert isinstance(AutoConfig.from_pretrained(CHECKPOINT), HiVLPConfig)
    assert isinstance(AutoModel.from_pretrained(CHECKPOINT), HiVLPModel)
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert isinstance(processor, HiVLPProcessor)
    pixels = processor(images=images(), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, open_processor(CHECKPOINT).pixels(images()))


def test_preprocessing_follows_the_checkpoints_file(damaged: Callable[..., Path]) -> None:
    checkpoint = damaged()
    file = checkpoint / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    settings |= {
        "size": {"height": 96, "width": 64},
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    }
    file.write_text(json.dumps(settings))
    pixels = open_processor(checkpoint).pixels([Image.new("RGB", (9, 9), (255, 0, 51))])
    assert pixels.shape == (1, 3, 96, 64)
    torch.testing.assert_close(pixels[0, :, 5, 5], torch.tensor([1.0, 0.0, 0.2]))


def test_padding_does_not_change_a_sentence_beyond_rounding() -> None:
    encoder = engine.open_encoder(CHECKPOINT)
    together, alone = encoder.encode_texts(SENTENCES), encoder.encode_texts(SENTENCES[:1])
    torch.testing.assert_close(together.fine[:1], alone.fine, atol=1e-6, rtol=1e-5)


def test_a_long_text_is_cut_to_the_checkpoints_length() -> None:
    encoder = engine.open_encoder(CHECKPOINT)
    assert_same(encoder.encode_texts(["dog " * 500]), encoder.encode_texts(["dog " * 600]))


def test_many_threads_encode_the_same_vectors(untrained: Path) -> None:
    encoder = engine.open_encoder(untrained)
    expected = [encoder.encode_texts([sentence]) for sentence in SENTENCES]
    failures: list[str] = []

    def encode(place: int) -> None:
        for _ in range(20):
            found = encoder.encode_texts([SENTENCES[place]])
            if not torch.equal(found.fine, expected[place].fine):
                failures.append(SENTENCES[place])

    threads = [threading.Thread(target=encode, args=(place % 3,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_a_missing_file_is_named(damaged: Callable[..., Path], name: str) -> None:
    with pytest.raises(engine.CheckpointError, match=f"expected .*, got no {name}"):
        engine.open_encoder(damaged(remove=name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_dim": 32}, "mismatched keys: .*heads.fine.weight"),
        ({"head_dim": 48}, "mismatched keys"),
        ({"coarse_dim": 99}, "expected 0 < coarse_dim <= fine_dim, got coarse_dim=99"),
        (
            {"image_tower": "resnet"},
            "expected image_tower to be 'efficientnet-lite0', got 'resnet'",
        ),
        ({"text_pooling": "max"}, "expected text_pooling to be 'mean', got 'max'"),
        ({"model_type": "bert"}, "expected model_type 'hivlp', 'clip' or 'siglip', got 'bert'"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(
    damaged: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(engine.CheckpointError, match=message):
        engine.open_encoder(damaged(**changes))


def test_a_weight_too_few_or_too_many(damaged: Callable[..., Path]) -> None:
    file = damaged() / "model.safetensors"
    weights = load_file(file)
    taken = weights.pop("text_heads.fine.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(engine.CheckpointError, match=r"missing keys: \['text_heads.fine.weight'\]"):
        engine.open_encoder(file.parent)
    save_file(
        {**weights, "text_heads.fine.weight": taken, "third_head": taken.clone()},
        file,
        metadata={"format": "pt"},
    )
    with pytest.raises(engine.CheckpointError, match=r"unexpected keys: \['third_head'\]"):
        engine.open_encoder(file.parent)


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors", b"\xff" * 64], ids=["empty", "text", "ones"]
)
def test_weights_that_are_no_safetensors(damaged: Callable[..., Path], content: bytes) -> None:
    file = damaged() / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(
        engine.CheckpointError, match=r"model\.safetensors: expected readable safetensors, got "
    ):
        engine.open_encoder(file.parent)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_files_that_are_no_json(damaged: Callable[..., Path], name: str) -> None:
    file = damaged() / name
    file.write_text("{")
    with pytest.raises(engine.CheckpointError):
        engine.open_encoder(file.parent)


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(
        engine.CheckpointError, match="expected a checkpoint directory, got nothing"
    ):
        engine.open_encoder(tmp_path / "nothing")


def test_an_index_refuses_another_checkpoint(
    untrained: Path, some_pictures: Path, tmp_path: Path
) -> None:
    from engine.building import index_folder

    r = index_folder(some_pictures, engine.open_encoder(untrained))
    r.save(tmp_path / "index")
    with pytest.raises(
        engine.CheckpointMismatch,
        match=r"encoder: expected the checkpoint that made the index .*, got ",
    ):
        engine.Retriever(tmp_path / "index", CHECKPOINT)
    assert len(engine.Retriever(tmp_path / "index", untrained).search(["a dog"], k=2).ids[0]) == 2


def test_an_index_whose_checkpoint_has_changed_or_gone(
    damaged: Callable[..., Path], some_pictures: Path, tmp_path: Path
) -> None:
    from engine.building import index_folder

    checkpoint = damaged()
    index_folder(some_pictures, engine.open_encoder(checkpoint)).save(tmp_path / "index")
    (checkpoint / "tokenizer_config.json").write_text(
        (checkpoint / "tokenizer_config.json").read_text() + "\n"
    )
    with pytest.raises(engine.CheckpointMismatch):
        engine.Retriever(tmp_path / "index").search("a dog")
    (checkpoint / "config.json").unlink()
    r = engine.Retriever(tmp_path / "index")
    with pytest.raises(
        engine.CheckpointError,
        match=r"expected a checkpoint, got no config.json and no open_clip_config.json",
    ):
        r.search("a dog")
    assert len(r.search(r.index.fine[:1], k=1, mode="exact").ids[0]) == 1  # vectors need no encoder
