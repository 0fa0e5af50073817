"""Every kind of head and tower: what the vectors are, saved and opened again, and exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import engine
from tests.conftest import CHECKPOINT, PICTURES

pytest.importorskip("transformers")  # at import: a GPU machine collects this file without it

from transformers import AutoConfig, AutoModel, BertConfig, set_seed

from engine.checkpoints import Checkpoint, open_checkpoint
from engine.checkpoints.checkpoint import open_backbone
from engine.checkpoints.files import kind_of, processor_files
from engine.images import read_image
from engine.model import HiVLPConfig, HiVLPModel
from engine.model.backbone import backbone_dim, backbone_towers

if TYPE_CHECKING:
    from export.run import Settings

HEADS: dict[str, dict[str, Any]] = {
    "shared": {"heads": "shared"},
    "nested": {"heads": "nested"},
    "own": {"heads": "own", "coarse_head_dim": 12},
    "own-neck": {"heads": "own", "coarse_head_dim": 12, "image_neck": 9},
    "shared-neck": {"image_neck": 9},
    "own-pieces": {"heads": "own", "coarse_head_dim": 12, "coarse_text_dim": 10},
}
SENTENCES = ["a red car", "dog", "a dog and a cat, asleep"]


def small_config(kind: str, layers: int = 1, **others: Any) -> HiVLPConfig:
    text = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    return HiVLPConfig(
        text_config=text, head_dim=20, fine_dim=14, coarse_dim=6, **HEADS[kind], **others
    )


def model_of(kind: str, layers: int, image_weights: Path, **others: Any) -> HiVLPModel:
    """Random but for the image tower, whose vectors would all be zero."""
    set_seed(3)
    model = HiVLPModel(small_config(kind, layers, **others))
    model.image_tower.load_state_dict(load_file(image_weights))
    return model


def with_backbone(source: Path, **others: Any) -> HiVLPModel:
    """A model on the towers of a CLIP or SigLIP directory."""
    backbone = open_backbone(source, kind_of(source))
    settings = {"heads": "own", "fine_from": "backbone", "coarse_dim": 6, "coarse_head_dim": 12}
    settings |= {"fine_dim": backbone_dim(backbone.config), **others}
    model = HiVLPModel(HiVLPConfig(backbone=backbone.config, **settings))  # type: ignore[arg-type]
    image, text = backbone_towers(backbone)
    model.image_tower.load_state_dict(image.state_dict())
    model.text_tower.load_state_dict(text.state_dict())
    return model


def save(model: HiVLPModel, source: Path, place: Path) -> Path:
    """A checkpoint of `model` with the processor of `source`."""
    model.half().save_pretrained(place)
    for name in set(processor_files(source)) - {"config.json"}:
        shutil.copy(source / name, place)
    return place


def vectors(checkpoint: Checkpoint) -> list[torch.Tensor]:
    from engine.encoders.torch_encoder import torch_encoder

    encoder = torch_encoder(checkpoint, device="cpu", why="a test")
    pictures = [read_image(file) for file in sorted((PICTURES / "noto").glob("*.webp"))[:3]]
    both = (encoder.encode_texts(SENTENCES), encoder.encode_images(pictures))
    return [part for found in both for part in (found.coarse, found.fine) if part is not None]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("kind", HEADS)
def test_every_kind_is_saved_opened_and_encodes(
    kind: str, layers: int, untrained: Path, image_weights: Path, tmp_path: Path
) -> None:
    model = model_of(kind, layers, image_weights, logit_bias=layers == 0)
    checkpoint = open_checkpoint(save(model, untrained, tmp_path / "checkpoint"))
    assert (checkpoint.coarse_dim, checkpoint.fine_dim) == (6, 14)
    for found, dim in zip(vectors(checkpoint), (6, 14, 6, 14), strict=True):
        assert found.shape == (3, dim)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
        assert (found @ found.T).triu(1).max() < 0.99999  # the inputs make a difference
    ids = checkpoint.processor.tokens(SENTENCES)
    with torch.inference_mode():
        auto = AutoModel.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
        torch.testing.assert_close(auto.get_text_features(**ids).coarse, vectors(checkpoint)[0])


def test_a_text_tower_of_no_layers_is_a_table_of_word_vectors_averaged(untrained: Path) -> None:
    set_seed(3)
    model = HiVLPModel(small_config("own-pieces", 0)).eval()
    names = [name for name in model.state_dict() if name.startswith(("text_tower", "coarse_p"))]
    assert names == ["text_tower.weight", "coarse_pieces.weight"]
    tokens = open_checkpoint(untrained).processor.tokens(SENTENCES)
    read = []
    model.text_heads.register_forward_hook(lambda _, inputs, __: read.extend(inputs))
    with torch.inference_mode():
        model.get_text_features(**tokens)
    for table, found in zip((model.text_tower, model.coarse_pieces), read, strict=True):
        weights = table.weight.detach().double().numpy()
        for row, features in enumerate(found):
            kept = tokens["input_ids"][row][tokens["attention_mask"][row] == 1]
            np.testing.assert_allclose(features, weights[kept].mean(axis=0), rtol=1e-5, atol=1e-7)


def test_nested_coarse_vectors_are_the_first_coordinates_of_the_fine_ones() -> None:
    set_seed(3)
    model = HiVLPModel(small_config("nested", 0)).eval()
    found = model.image_heads(torch.randn(5, 1280))
    prefix = found.fine[:, :6].double()
    expected = prefix / prefix.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.coarse.double(), expected, atol=1e-6, rtol=0)


def test_own_heads_share_no_weight_so_the_coarse_loss_leaves_the_fine_head_alone() -> None:
    for kind, alone in (("own", True), ("shared", False), ("nested", False)):
        model = HiVLPModel(small_config(kind, 0))
        model.image_heads(torch.randn(5, 1280)).coarse.sum().backward()
        touched = {name for name, p in model.image_heads.named_parameters() if p.grad is not None}
        assert (not any(name.startswith(("trunk", "fine")) for name in touched)) == alone


def test_a_configuration_without_the_newer_keys_is_the_kind_that_it_was(tmp_path: Path) -> None:
    small_config("shared").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    newer = ("heads", "fine_from", "coarse_head_dim", "coarse_text_dim", "image_neck", "logit_bias")
    older = {name: value for name, value in written.items() if name not in newer}
    (tmp_path / "config.json").write_text(json.dumps(older))
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.heads, config.fine_from, config.coarse_text_dim) == ("shared", "head", 0)
    assert (config.backbone, config.image_neck) == (None, 0)
    heads = {n for n in AutoModel.from_config(config).state_dict() if n.startswith("image_heads")}
    trunk = {f"image_heads.trunk.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert heads == trunk | {"image_heads.coarse.weight", "image_heads.fine.weight"}


def test_the_example_checkpoint_holds_what_its_configuration_says_and_no_more() -> None:
    config = AutoConfig.from_pretrained(CHECKPOINT)
    names = set(load_file(CHECKPOINT / "model.safetensors"))
    assert names == set(AutoModel.from_config(config).state_dict())
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 12e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"heads": "none"},
            "config.json: expected heads to be 'shared' or 'own' or 'nested', got 'none'",
        ),
        (
            {"heads": "shared", "coarse_text_dim": 8},
            "expected heads='own' with coarse_text_dim=8, got heads='shared'",
        ),
        (
            {"heads": "own", "fine_from": "backbone"},
            "expected heads='own' and a backbone with fine_from='backbone', got ",
        ),
        (
            {"backbone": {"model_type": "bert"}},
            "expected a backbone of model_type clip or siglip, got 'bert'",
        ),
        (
            {"backbone": {"model_type": "clip"}, "image_neck": 8},
            "expected image_neck to be 0 with a backbone, got 8",
        ),
        ({"coarse_dim": 300}, "expected 0 < coarse_dim <= fine_dim, got coarse_dim=300"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(engine.CheckpointError, match=message):
        HiVLPConfig(**changes)


@pytest.mark.parametrize("name", ["clip", "clip-other", "siglip", "siglip2-other"])
def test_on_a_backbone_the_fine_vectors_are_its_own(
    name: str, small: Callable[[str], Path], tmp_path: Path
) -> None:
    source = open_checkpoint(small(name))
    checkpoint = open_checkpoint(save(with_backbone(small(name)), small(name), tmp_path / "ours"))
    assert checkpoint.processor.padding == source.processor.padding
    assert checkpoint.processor.max_tokens == source.processor.max_tokens
    text_coarse, text_fine, image_coarse, image_fine = vectors(checkpoint)
    expected_text, expected_image = vectors(source)
    torch.testing.assert_close(text_fine, expected_text, atol=3e-3, rtol=0)  # stored in float16
    torch.testing.assert_close(image_fine, expected_image, atol=3e-3, rtol=0)
    assert text_coarse.shape == image_coarse.shape == (3, 6)


@pytest.mark.parametrize("name", ["own-pieces", "clip", "siglip"])
def test_the_newer_kinds_are_exported_like_any_other(
    name: str,
    untrained: Path,
    image_weights: Path,
    small: Callable[[str], Path],
    export_settings: "Callable[[str], Settings]",
    tmp_path: Path,
) -> None:
    from export.run import export_checkpoint

    if name in HEADS:
        place = save(model_of(name, 0, image_weights), untrained, tmp_path / "checkpoint")
    else:
        place = save(with_backbone(small(name)), small(name), tmp_path / "checkpoint")
    manifest = export_checkpoint(
        str(place), tmp_path / "export", export_settings("hivlp"), [], None
    )
    assert (manifest.kind, manifest.coarse_from, manifest.coarse_dim) == ("hivlp", "head", 6)
    assert manifest.parity["passed"]
    exported, own = engine.open_encoder(tmp_path / "export"), engine.open_encoder(place)
    assert exported.runtime == "onnx"
    found, expected = (encoder.encode_texts(SENTENCES) for encoder in (exported, own))
    torch.testing.assert_close(found.coarse, expected.coarse, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.fine, expected.fine, atol=1e-4, rtol=0)
