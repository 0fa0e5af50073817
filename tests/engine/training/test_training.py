"""The parts of training: the loss, batches, mined negatives, the tokenizer, cached features, settings."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import engine
from engine.checkpoints import Processor
from engine.dataset import Example
from engine.training import Settings, hierarchical_loss
from engine.training import tokenizer as tokenizer_module
from engine.training.features import PART, cached_features, features_key, view
from engine.training.mining import confused_with
from engine.training.phrasing import phrase
from engine.training.sampling import Sampler
from engine.training.sentences import Sentences
from engine.training.tokenizer import train_tokenizer
from engine.training.validation import hold_out


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


def some_examples(count: int, concepts: int) -> list[Example]:
    return [
        Example(Path(f"{row}.png"), (f"caption {row} a", f"caption {row} b"), str(row % concepts))
        for row in range(count)
    ]


def test_a_batch_draws_one_picture_of_each_concept_with_a_caption_of_its_own() -> None:
    sampler = Sampler(some_examples(7, 3), batch_size=3, views=2, seed=0)
    assert sampler.concepts == 3
    seen = set()
    for number in range(100):
        drawn = sampler.draw(number)
        assert sorted(drawn.concepts.tolist()) == [0, 1, 2]
        for concept, picture, shown, caption in zip(
            drawn.concepts, drawn.pictures, drawn.views, drawn.captions, strict=True
        ):
            assert picture % 3 == concept
            assert caption // 2 == picture
            seen.add((int(picture), int(shown), int(caption)))
    assert len(seen) == 7 * 2 * 2  # every view and caption of every picture comes up


def test_all_concepts_come_up_before_one_comes_up_again() -> None:
    sampler = Sampler(some_examples(26, 13), batch_size=4, views=1, seed=5)
    orders = set()
    for epoch in range(5):
        drawn = np.concatenate([sampler.draw(3 * epoch + place).concepts for place in range(3)])
        assert len(set(drawn.tolist())) == 12
        orders.add(tuple(drawn.tolist()))
    assert len(orders) == 5


def test_a_batch_is_a_function_of_seed_and_number_alone() -> None:
    first, again, other = (Sampler(some_examples(40, 20), 8, 3, seed) for seed in (1, 1, 2))
    kept = [first.draw(number) for number in range(6)]
    for number in (5, 2):  # in any order
        drawn = again.draw(number)
        for name in ("concepts", "pictures", "views", "captions"):
            assert np.array_equal(getattr(drawn, name), getattr(kept[number], name))
        assert not np.array_equal(other.draw(number).pictures, drawn.pictures)


def test_neighbours_come_into_the_batch_beside_those_that_are_confused_with_them() -> None:
    sampler = Sampler(some_examples(40, 40), batch_size=9, views=1, seed=0)
    sampler.neighbours = (np.arange(40)[:, None] + [1, 2]) % 40  # type: ignore[assignment]
    for number in range(20):
        drawn = sampler.draw(number).concepts
        assert len(set(drawn.tolist())) == len(drawn) == 9
        assert {(drawn[0] + 1) % 40, (drawn[0] + 2) % 40} <= set(drawn.tolist())


def test_fewer_concepts_than_a_batch_are_refused() -> None:
    with pytest.raises(engine.DatasetError, match="at most the 3 concepts of the data set"):
        Sampler(some_examples(7, 3), batch_size=4, views=1, seed=0)


@pytest.mark.parametrize("count", [1, 3])
def test_the_concepts_that_are_confused_with_each_other_are_found(count: int) -> None:
    rng = np.random.default_rng(0)
    texts, images = (rng.standard_normal((13, 6)).astype(np.float32) for _ in range(2))
    images[::2] = texts[::2] * 9  # these are found themselves, the others mostly not
    scores = texts.astype(np.float64) @ images.astype(np.float64).T
    np.fill_diagonal(scores, -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    found = confused_with(torch.from_numpy(texts), torch.from_numpy(images), count)
    assert np.array_equal(found.numpy(), expected)


def test_the_tokenizer_is_the_same_file_each_time() -> None:
    """In other processes too, whatever seed their hashes have."""
    captions = [f"{a}{b} {b}{a}" for a in ("red", "car", "dog", "née") for b in ("ing", "s", "ed")]
    program = (
        "import runpy, sys; train = runpy.run_path(sys.argv[1])['train_tokenizer']; "
        "print(train(sys.argv[2:], 40, 24).backend_tokenizer.to_str())"
    )
    child = subprocess.run(  # this process's own seed is another
        [sys.executable, "-c", program, tokenizer_module.__file__, *captions],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {child.stdout}
    tokenizer = train_tokenizer(captions, 40, 24)
    found |= {tokenizer.backend_tokenizer.to_str() + "\n"}
    found |= {train_tokenizer(captions, 40, 24).backend_tokenizer.to_str() + "\n"}
    assert len(found) == 1
    assert len(tokenizer) == 40


def test_the_tokenizer_reads_words_and_knows_where_they_begin(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train_tokenizer(["red cars, dogs", "a red dog", "Née"] * 9, 80, 24).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Red DOG nee")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "▁red", "▁dog", "▁nee", "[SEP]"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red dog nee"
    assert tokenizer("x字")["input_ids"].count(tokenizer.unk_token_id) >= 1
    assert tokenizer.model_max_length == 24


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

    def compute(first: int, last: int) -> torch.Tensor:
        calls.append((first, last))
        return torch.arange(first, last).reshape(-1, 1, 1).half()

    count = 2 * PART + 7
    expected = torch.arange(count).reshape(-1, 1, 1).half()
    for key, computed in (("a", 3), ("a", 3), ("b", 6), ("a", 9)):
        assert torch.equal(cached_features(file, key, count, compute), expected)
        assert len(calls) == computed
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_features_cut_off_midway_go_on_from_there(tmp_path: Path) -> None:
    file, calls = tmp_path / "features.safetensors", []

    def compute(first: int, last: int) -> torch.Tensor:
        calls.append(first)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.zeros(last - first, 1, 1).half()

    with pytest.raises(KeyboardInterrupt):
        cached_features(file, "a", 3 * PART, compute)
    cached_features(file, "a", 3 * PART, compute)
    assert calls == [0, PART, PART, 2 * PART]


def test_the_features_key_depends_on_everything_that_matters(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"123")
    examples = [Example(picture, ("x",), "a")]
    keys = [features_key(examples, "tower", 3, 0), features_key(examples, "other", 3, 0)]
    keys += [features_key(examples, "tower", 2, 0), features_key(examples, "tower", 3, 1)]
    keys += [features_key(examples * 2, "tower", 3, 0)]
    keys += [features_key([Example(picture, ("y",), "a")], "tower", 3, 0)]
    picture.write_bytes(b"1234")
    keys += [features_key(examples, "tower", 3, 0)]
    assert len(set(keys)) == len(keys)


def test_a_share_of_the_concepts_is_held_out_with_all_their_pictures() -> None:
    examples = some_examples(60, 20)
    kept, held = hold_out(examples, 0.2, seed=3)
    assert {example.concept for example in held}.isdisjoint(example.concept for example in kept)
    assert (len(held), len(kept)) == (12, 48)
    assert hold_out(examples, 0.2, seed=3) == (kept, held)
    assert hold_out(examples, 0.2, seed=4) != (kept, held)
    for share in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(engine.InvalidArgument, match="a share between 0 and 1"):
            hold_out(examples, share, seed=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("coarse_dim", 0), ("queue", -1), ("learning_rate", float("nan")), ("hard", -2)],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(engine.InvalidArgument, match=f"{name}: expected"):
        Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_sentences_are_what_the_processor_makes_of_them(padding: Any) -> None:
    captions = ["red", "a red dog, a red car", "dog, car, cat"] * 2
    tokenizer = train_tokenizer(captions, 40, 24)
    processor = Processor(None, tokenizer, padding=padding, max_tokens=12)
    sentences = Sentences.of(captions, processor, phrasing=False, seed=0)
    rows = np.array([3, 0, 5])
    ways = sentences.draw(3, np.random.default_rng(0))
    found = sentences.tokens(rows, ways, cut=padding == "longest")
    expected = processor.tokens([captions[row] for row in rows])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_sentences_said_in_other_ways_keep_the_written_one_for_measuring() -> None:
    captions = ["dog, car, cat", "red"]
    tokenizer = train_tokenizer([*captions, "a an the some of or with and"], 200, 24)
    processor = Processor(None, tokenizer, padding="longest", max_tokens=24)
    sentences = Sentences.of(captions, processor, phrasing=True, seed=0)
    rows = np.zeros(200, dtype=np.int64)
    drawn = sentences.draw(200, np.random.default_rng(0))
    assert set(drawn.tolist()) == set(range(1, 17))
    tokens = sentences.tokens(rows, drawn, cut=True)["input_ids"]
    said = set(tokenizer.batch_decode(tokens, skip_special_tokens=True))
    assert len(said) > 5
    written = sentences.tokens(rows[:1], rows[:1], cut=True)
    assert torch.equal(written["input_ids"], processor.tokens(captions[:1])["input_ids"])
