"""What a run may start from: a checkpoint of ours, or the towers of CLIP and SigLIP, frozen or not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import engine
from engine.checkpoints import open_checkpoint
from engine.dataset import Example
from engine.encoders.torch_encoder import torch_encoder
from engine.images import read_image
from engine.training import Settings, train

HEADS = Settings(coarse_dim=6, head_dim=12, steps=6, batch_size=4, every=3)


def fine_vectors(directory: Path, examples: list[Example]) -> list[Tensor]:
    encoder = torch_encoder(open_checkpoint(directory), device="cpu", why="a test")
    pictures = encoder.encode_images([read_image(example.image) for example in examples])
    texts = encoder.encode_texts([example.captions[0] for example in examples])
    return [pictures.fine, texts.fine]


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize("name", ["clip", "siglip2", "open_clip"])
def test_heads_on_frozen_towers_leave_the_fine_vectors_as_they_were(
    name: str, examples: list[Example], small: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    facts = train(examples, out, HEADS, checkpoint=small(name), validation=examples[:4])
    assert facts["heads"] == "own"
    for found, expected in zip(
        fine_vectors(out, examples), fine_vectors(small(name), examples), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    opened = open_checkpoint(out)
    assert (opened.kind, opened.coarse_dim) == ("hivlp", 6)
    assert opened.processor.padding == open_checkpoint(small(name)).processor.padding
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / file).read_bytes() == (small(name) / file).read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config["fine_from"] == "backbone"
    assert config["backbone"]["model_type"] == ("siglip" if name == "siglip2" else "clip")


def test_the_heads_are_learned_and_the_towers_are_not(
    examples: list[Example], small: Callable[[str], Path], tmp_path: Path
) -> None:
    train(examples, tmp_path / "one", replace(HEADS, steps=1), checkpoint=small("clip"))
    train(examples, tmp_path / "six", HEADS, checkpoint=small("clip"))
    train(examples, tmp_path / "all", replace(HEADS, unfreeze=True), checkpoint=small("clip"))
    one, six, everything = (weights_of(tmp_path / name) for name in ("one", "six", "all"))
    changed = {name for name in one if not torch.equal(one[name], six[name])}
    assert not {name for name in changed if "tower" in name}
    assert {"image_heads.coarse.weight", "text_heads.coarse_trunk.2.weight"} <= changed
    changed = {name for name in one if not torch.equal(one[name], everything[name])}
    assert {name.partition(".")[0] for name in changed} >= {"image_tower", "text_tower"}


def test_a_fine_dim_asks_for_a_head_of_its_own(
    examples: list[Example], small: Callable[[str], Path], tmp_path: Path
) -> None:
    train(examples, tmp_path / "out", replace(HEADS, fine_dim=9), checkpoint=small("clip"))
    assert open_checkpoint(tmp_path / "out").fine_dim == 9


def test_training_goes_on_from_our_checkpoint(
    examples: list[Example], untrained: Path, tmp_path: Path
) -> None:
    settings = Settings(steps=5, batch_size=4, views=2, every=5)
    train(examples, tmp_path / "on", settings, checkpoint=untrained)
    before, after = weights_of(untrained), weights_of(tmp_path / "on")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if name.startswith("image_tower")}
    assert any(name.startswith("text_tower") for name in changed)
    for name in ("tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "on" / name).read_bytes() == (untrained / name).read_bytes()
    cosine = torch.cosine_similarity(
        before["image_heads.fine.weight"].float().ravel(),
        after["image_heads.fine.weight"].float().ravel(),
        dim=0,
    )
    assert 0.5 < cosine < 0.99999  # from there, and not from other random weights


@pytest.mark.parametrize(
    "changes",
    [
        {"coarse_dim": 5},
        {"fine_dim": 256},
        {"heads": "own"},
        {"head_dim": 33},
        {"text_layers": 2},
        {"text_hidden": 8},
        {"dropout": 0.2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_other_dims_is_refused(
    changes: dict[str, Any], examples: list[Example], untrained: Path, tmp_path: Path
) -> None:
    settings = Settings(steps=1, batch_size=4, **changes)
    name = next(iter(changes))
    with pytest.raises(engine.CheckpointError, match=f"a checkpoint whose {name} is"):
        train(examples, tmp_path / "out", settings, checkpoint=untrained)
    assert not list(tmp_path.iterdir())


def test_a_text_tower_of_our_own_does_not_go_with_a_backbone(
    examples: list[Example], small: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = Settings(steps=1, batch_size=4, coarse_text_dim=8)
    with pytest.raises(
        engine.InvalidArgument, match="coarse_text_dim: expected the towers of the checkpoint"
    ):
        train(examples, tmp_path / "out", settings, checkpoint=small("clip"))


def test_pictures_that_cannot_be_read_are_left_out_before_pixels_are_trained_on(
    examples: list[Example], small: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    given = [*examples, Example(broken, ("broken",), "broken")]
    settings = replace(HEADS, steps=1, unfreeze=True)
    with pytest.raises(engine.ImageError, match="broken"):
        train(given, tmp_path / "refused", settings, checkpoint=small("clip"))
    skipped: list[str] = []
    train(given, tmp_path / "out", settings, checkpoint=small("clip"), skipped=skipped)
    assert len(skipped) == 1
    assert "broken.png" in skipped[0]
