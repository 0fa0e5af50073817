"""The loss against float64 NumPy, the sampling of concepts, cached features, one whole run."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import engine
from engine.dataset import Example, read_dataset
from engine.training import Settings, hierarchical_loss, train
from engine.training.features import cached_features, features_key, view
from engine.training.phrasing import phrase
from engine.training.trainer import Concepts


def by_hand(image: np.ndarray, text: np.ndarray, log_scale: float) -> float:
    """Mean over both directions of -log softmax at the diagonal, in float64."""
    logits = min(np.exp(log_scale), 100.0) * image.astype(np.float64) @ text.astype(np.float64).T
    along_rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    along_columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return float((along_rows.mean() + along_columns.mean()) / 2)


@pytest.mark.parametrize("batch", [1, 2, 7, 63])
@pytest.mark.parametrize("log_scale", [0.0, 2.6, 9.0])
def test_the_loss_equals_its_formula(batch: int, log_scale: float) -> None:
    rng = np.random.default_rng(batch)
    levels = {"coarse": 4, "fine": 16}
    vectors = [
        {name: rng.standard_normal((batch, dim)) / np.sqrt(dim) for name, dim in levels.items()}
        for _ in range(2)
    ]
    image, text = (
        {name: torch.from_numpy(value).float() for name, value in part.items()} for part in vectors
    )
    scales = {"coarse": torch.tensor(log_scale), "fine": torch.tensor(1.0)}
    expected = np.mean(
        [by_hand(vectors[0][name], vectors[1][name], float(scales[name])) for name in levels]
    )
    found = hierarchical_loss(image, text, scales)
    np.testing.assert_allclose(float(found), expected, rtol=2e-5, atol=1e-6)


def test_a_batch_draws_one_picture_of_each_concept_with_a_caption_of_its_own() -> None:
    examples = [
        Example(Path(f"{row}.png"), (f"caption {row} a", f"caption {row} b"), str(row % 3))
        for row in range(7)
    ]
    features = torch.arange(7 * 2).reshape(7, 2, 1).half()
    concepts = Concepts(examples, features, seed=0)
    assert len(concepts) == 3
    seen = set()
    for _ in range(100):
        for concept in range(3):
            drawn, caption = concepts[concept]
            row, shown = divmod(int(drawn), 2)
            assert row % 3 == concept
            assert f"caption {row} " in caption
            seen.add((row, shown))
    assert len(seen) == 14  # every view of every picture comes up


def test_phrases_use_the_captions_own_words() -> None:
    chance = random.Random(0)
    said = {phrase("umbrella, rain, weather", chance) for _ in range(300)}
    assert "umbrella, rain, weather" in said
    assert len(said) > 50
    assert all(
        {"umbrella", "rain", "weather"} & set(words.replace(",", "").split()) for words in said
    )


def test_views() -> None:
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    chance = random.Random(0)
    assert view(image, 0, chance) is image
    for number in range(1, 20):
        seen = view(image, number, chance)
        smaller = seen.width <= 40 and seen.height <= 30
        assert smaller == bool(number % 2)


def test_features_are_kept_for_the_same_pictures_and_settings_only(tmp_path: Path) -> None:
    file, calls = tmp_path / "some" / "features.safetensors", []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.full((2, 1, 3), len(calls)).half()

    for key, expected in (("a", 1), ("a", 1), ("b", 2), ("a", 3)):
        assert torch.equal(
            cached_features(file, key, compute), torch.full((2, 1, 3), expected).half()
        )
    cached_features(None, "a", compute)
    assert len(calls) == 4


def test_the_features_key_depends_on_everything_that_matters(tmp_path: Path) -> None:
    weights, picture = tmp_path / "weights", tmp_path / "a.png"
    weights.write_bytes(b"1")
    picture.write_bytes(b"123")
    examples = [Example(picture, ("x",), "a")]
    keys = [features_key(examples, weights, 3, 0)]
    keys += [features_key(examples, weights, 2, 0), features_key(examples, weights, 3, 1)]
    keys += [features_key(examples * 2, weights, 3, 0)]
    picture.write_bytes(b"1234")
    keys += [features_key(examples, weights, 3, 0)]
    weights.write_bytes(b"2")
    keys += [features_key(examples, weights, 3, 0)]
    assert len(set(keys)) == len(keys)


def test_a_run_keeps_the_image_tower_and_will_not_write_over_a_checkpoint(
    tiny_dataset: Path, image_weights: Path, tmp_path: Path
) -> None:
    settings = Settings(steps=3, batch_size=4, views=2, coarse_dim=8, fine_dim=16, vocabulary=200)
    examples = read_dataset(tiny_dataset)
    facts = train(examples, tmp_path / "one", image_weights, settings)
    assert (facts["pictures"], facts["concepts"], facts["steps"]) == (12, 6, 3)
    one = load_file(tmp_path / "one" / "model.safetensors")
    tower = load_file(image_weights)
    assert all(torch.equal(one[f"image_tower.{name}"], tower[name].half()) for name in tower)
    assert engine.open_encoder(tmp_path / "one").fine_dim == 16
    with pytest.raises(engine.CheckpointError, match="a free place for the checkpoint expected"):
        train(examples, tmp_path / "one", image_weights, settings)
