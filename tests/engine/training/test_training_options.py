"""What every option of a run does to its steps, against the same steps in float64 NumPy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, set_seed

from engine.checkpoints import Processor, open_checkpoint
from engine.dataset import Example
from engine.encoders.torch_encoder import torch_encoder
from engine.images import read_image
from engine.model import HiVLPModel
from engine.model.image_tower import FEATURE_DIM
from engine.training import Settings, train
from engine.training import trainer as trainer_module
from engine.training import validation as validation_module
from engine.training.inputs import Inputs
from engine.training.phrasing import JOINTS, OPENINGS
from engine.training.start import scratch_config
from engine.training.tokenizer import train_tokenizer
from engine.training.validation import Validation
from tests.engine.training import by_hand
from tests.engine.training.by_hand import Array, Rows, Shape
from tests.engine.training.steps import Step, numbers, watched

SMALL = Settings(
    coarse_dim=6,
    fine_dim=12,
    head_dim=16,
    coarse_head_dim=8,
    coarse_text_dim=8,
    text_hidden=16,
    image_neck=10,
    vocabulary=120,
    dropout=0.0,  # so that a step can be computed again
    steps=4,
    batch_size=4,
    views=2,
    every=4,
)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step of the runs of a test, as they are made."""
    return watched(monkeypatch)


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(examples: list[Example], image_weights: Path, features: Path, tmp_path: Path) -> Run:
    """Train from scratch; returns what `train` returns."""

    def trained(settings: Settings, **others: Any) -> dict[str, Any]:
        out = tmp_path / "out"
        return train(
            examples,
            out,
            settings,
            image_weights=image_weights,
            features_file=features,
            **others,
        )

    return trained


def expected_losses(steps: list[Step], settings: Settings, shape: Shape) -> list[float]:
    """The loss of every step by hand, its queue filled as the run goes."""
    queue, losses = None, []
    for step in steps:
        pairs = step.pairs(shape)
        losses.append(
            by_hand.objective(
                pairs,
                queue,
                step.by_level("logit_scales"),
                {"coarse": settings.coarse_weight, "fine": settings.fine_weight},
                settings.distillation,
                step.by_level("logit_biases") if settings.sigmoid else None,
            )
        )
        if settings.queue:
            queue = pairs if queue is None else queue.before(pairs, settings.queue)
    return losses


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, Shape()),
        ({"heads": "shared", "coarse_head_dim": None, "coarse_text_dim": None}, Shape("shared", False)),
        ({"heads": "nested", "coarse_head_dim": None, "coarse_text_dim": None}, Shape("nested", False)),
        ({"coarse_text_dim": 0}, Shape(words=False)),
        ({"queue": 6}, Shape()),
        ({"sigmoid": True}, Shape()),
        ({"distillation": 0.7}, Shape()),
        ({"coarse_weight": 0.0}, Shape()),
        ({"fine_weight": 0.1}, Shape()),
        ({"sigmoid": True, "queue": 5, "distillation": 0.3, "fine_weight": 2.0}, Shape()),
    ],
    ids=lambda given: ",".join(map(str, given)) or "none" if isinstance(given, dict) else "",
)  # fmt: skip
def test_the_loss_of_every_step_is_that_of_its_batch_by_hand(
    changes: dict[str, Any], shape: Shape, run: Run, steps: list[Step]
) -> None:
    settings = replace(SMALL, **changes)
    assert run(settings)["heads"] == shape.heads
    assert len(steps) == settings.steps
    found = [step.loss for step in steps]
    np.testing.assert_allclose(found, expected_losses(steps, settings, shape), rtol=2e-6)


def test_bfloat16_loses_digits_and_no_more(run: Run, steps: list[Step]) -> None:
    """8 bits a number: a relative 2⁻⁸ of logits up to 14 moves the loss by a few hundredths."""
    settings = replace(SMALL, bf16=True)
    run(settings)
    error = np.abs(
        [step.loss for step in steps] - np.array(expected_losses(steps, settings, Shape()))
    )
    assert error.max() < 0.1
    assert error.min() > 2e-5  # float32 is 10 times as near


def test_mined_neighbours_are_the_concepts_that_score_best_and_fill_the_batches(
    run: Run, steps: list[Step], examples: list[Example], features: Path, tmp_path: Path
) -> None:
    settings = replace(SMALL, steps=7, hard=2, mine_every=3, phrasing=False)
    run(settings)
    names = sorted({example.concept for example in examples})
    firsts = [next(row for row, e in enumerate(examples) if e.concept == n) for n in names]
    tokens = load_tokens(tmp_path / "out", [examples[row].captions[0] for row in firsts])
    shown = load_file(features)["features"][firsts, 0].double().numpy()
    neighbours = None
    for number, step in enumerate(steps):
        if number in (3, 6):
            images = by_hand.image_vectors(step.weights, Shape(), shown)["fine"]
            texts = by_hand.text_vectors(step.weights, Shape(), *tokens)["fine"]
            neighbours = most_confused(texts, images, 2)
        if neighbours is not None:
            expected = filled(number, neighbours, len(names), settings)
            assert step.batch["concepts"].tolist() == expected
    assert neighbours is not None


def most_confused(texts: Array, images: Array, count: int) -> Rows:
    scores = texts @ images.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def filled(number: int, neighbours: Rows, concepts: int, settings: Settings) -> list[int]:
    """A batch: concepts as they are drawn, each with its neighbours, none twice."""
    batch: list[int] = []
    for drawn in np.random.default_rng([settings.seed, number, 0]).permutation(concepts):
        batch += [c for c in (int(drawn), *map(int, neighbours[drawn])) if c not in batch]
    return batch[: settings.batch_size]


def load_tokens(checkpoint: Path, captions: list[str]) -> tuple[Rows, Rows]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = tokenizer(captions, padding=True, truncation=True, return_tensors="np")
    return found["input_ids"], found["attention_mask"]


def test_hard_negatives_of_unfrozen_towers_are_mined_from_their_pixels(
    examples: list[Example],
    small: Callable[[str], Path],
    tmp_path: Path,
    steps: list[Step],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the vectors of a checkpoint that holds the weights of the step at which they are mined."""
    mined: dict[str, Any] = {}
    own = trainer_module.confused_with  # type: ignore[attr-defined]

    def confused_with(texts: torch.Tensor, images: torch.Tensor, count: int) -> torch.Tensor:
        mined["neighbours"] = own(texts, images, count)
        return mined["neighbours"]

    monkeypatch.setattr(trainer_module, "confused_with", confused_with)
    settings = Settings(
        coarse_dim=6,
        fine_dim=9,
        head_dim=12,
        steps=3,
        batch_size=4,
        every=3,
        hard=1,
        mine_every=2,
        unfreeze=True,
    )
    settings = replace(settings, tower_learning_rate=1e-2)
    train(examples, tmp_path / "out", settings, checkpoint=small("clip"))
    file = tmp_path / "out" / "model.safetensors"
    then = {name: torch.from_numpy(weight).float() for name, weight in steps[2].weights.items()}
    save_file(load_file(file) | then, file, metadata={"format": "pt"})
    names = sorted({example.concept for example in examples})
    firsts = [next(e for e in examples if e.concept == name) for name in names]
    encoder = torch_encoder(open_checkpoint(tmp_path / "out"), device="cpu", why="a test")
    images = encoder.encode_images([read_image(e.image) for e in firsts]).fine.double().numpy()
    texts = encoder.encode_texts([e.captions[0] for e in firsts]).fine.double().numpy()
    expected = most_confused(texts, images, 1)
    assert np.array_equal(mined["neighbours"].numpy(), expected)
    assert steps[2].batch["concepts"].tolist() == filled(2, expected, len(names), settings)


@pytest.mark.parametrize("phrasing", [False, True])
def test_captions_are_tokens_of_what_is_written_or_of_other_ways_to_say_it(
    phrasing: bool, run: Run, steps: list[Step], examples: list[Example], tmp_path: Path
) -> None:
    run(replace(SMALL, steps=12, phrasing=phrasing))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    captions = [caption for example in examples for caption in example.captions]
    pieces = [
        {piece for part in caption.split(", ") for piece in tokenizer(part)["input_ids"]}
        for caption in captions
    ]
    added = set(tokenizer(", ".join((*OPENINGS, *JOINTS)))["input_ids"])
    changed = 0
    for step in steps:
        for row, ids, mask in zip(
            step.captions, step.batch["input_ids"], step.batch["attention_mask"], strict=True
        ):
            said = ids[mask == 1].tolist()
            changed += said != tokenizer(captions[row], truncation=True)["input_ids"]
            assert set(said) <= pieces[row] | added
    assert changed > 10 if phrasing else changed == 0


def test_accumulated_batches_give_the_gradient_of_their_mean_loss(
    run: Run, steps: list[Step]
) -> None:
    """Against central differences of the loss by hand."""
    settings = replace(SMALL, accumulate=2, steps=2)
    run(settings)
    assert len(steps) == 4

    def mean_loss(name: str, at: tuple[int, ...], change: float) -> float:
        moved = []
        for step in steps[2:]:
            weights = {**step.weights, name: step.weights[name].copy()}
            weights[name][at] += change
            moved.append(replace(step, weights=weights))
        return float(np.mean(expected_losses(moved, settings, Shape())))

    used = int(steps[3].batch["input_ids"][0, 1])
    for name, at in (
        ("logit_scales.coarse", ()),
        ("logit_scales.fine", ()),
        ("image_heads.fine.weight", (0, 3)),
        ("image_heads.neck.2.bias", (1,)),
        ("text_heads.coarse.weight", (1, 2)),
        ("text_tower.weight", (used, 4)),
        ("coarse_pieces.weight", (used, 0)),
    ):
        assert np.array_equal(steps[2].weights[name], steps[3].weights[name])
        assert not np.array_equal(steps[1].weights[name], steps[2].weights[name])
        expected = (mean_loss(name, at, 1e-4) - mean_loss(name, at, -1e-4)) / 2e-4
        assert steps[3].gradients[name][at] == pytest.approx(expected, rel=1e-3, abs=1e-7), name


def adamw(steps: list[Step], name: str, peak: float, decay: float) -> list[Array]:
    """The weight before every step by hand: warm-up over a tenth of them, then half a cosine to 0."""
    weight = steps[0].weights[name]
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    warm, found = len(steps) // 10, []
    for count, step in enumerate(steps):
        found.append(weight)
        rate = count / warm if count < warm else (
            1 + np.cos(np.pi * (count - warm) / (len(steps) - warm))
        ) / 2  # fmt: skip
        norm = np.sqrt(sum((part**2).sum() for part in step.gradients.values()))
        gradient = step.gradients[name] * min(1.0, 1 / (norm + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.98 * second + 0.02 * gradient**2
        unbiased = np.sqrt(second / (1 - 0.98 ** (count + 1)))
        moved = first / (1 - 0.9 ** (count + 1)) / (unbiased + 1e-8)
        weight = weight * (1 - peak * rate * decay) - peak * rate * moved
    return found


@pytest.mark.parametrize("rate", [None, 1e-2])
def test_weights_move_by_adamw_at_the_rate_asked_for(
    rate: float | None, run: Run, steps: list[Step]
) -> None:
    run(replace(SMALL, steps=20, every=20, learning_rate=rate))
    for name, decay in (
        ("image_heads.fine.weight", 0.05),
        ("text_heads.coarse_trunk.2.bias", 0.0),
        ("coarse_pieces.weight", 0.05),
        ("logit_scales.fine", 0.05),
    ):
        expected = adamw(steps, name, rate or 3e-3, decay)
        for step, weight in zip(steps, expected, strict=True):
            np.testing.assert_allclose(step.weights[name], weight, atol=2e-6, rtol=1e-5)


def test_unfrozen_towers_move_at_a_rate_of_their_own(
    examples: list[Example], small: Callable[[str], Path], tmp_path: Path, steps: list[Step]
) -> None:
    settings = Settings(coarse_dim=6, head_dim=12, dropout=0.0, steps=10, batch_size=4, every=10)
    settings = replace(settings, unfreeze=True, learning_rate=1e-2, tower_learning_rate=2e-4)
    train(examples, tmp_path / "out", settings, checkpoint=small("clip"))
    for name, peak in (
        ("image_tower.projection.weight", 2e-4),
        ("text_tower.projection.weight", 2e-4),
        ("image_heads.coarse.weight", 1e-2),
    ):
        expected = adamw(steps, name, peak, 0.05)
        for step, weight in zip(steps, expected, strict=True):
            np.testing.assert_allclose(step.weights[name], weight, atol=2e-6, rtol=1e-5)


def recall_by_hand(
    weights: dict[str, Array],
    shown: Array,
    tokens: tuple[Rows, Rows],
    examples: list[Example],
    candidates: int,
) -> float:
    return by_hand.average_recall(
        by_hand.image_vectors(weights, Shape(), shown),
        by_hand.text_vectors(weights, Shape(), *tokens),
        [example.concept for example in examples],
        [example.concept for example in examples for _ in example.captions],
        candidates,
    )


def test_validation_is_the_recall_of_coarse_then_fine_over_32_candidates() -> None:
    chance = np.random.default_rng(0)
    examples = [
        Example(Path(f"{n}.png"), (f"{n % 70} one", f"two {n} {n + 7}"), str(n % 70))
        for n in range(100)
    ]
    captions = [caption for example in examples for caption in example.captions]
    tokenizer = train_tokenizer(captions, 80, 24)
    processor = Processor(None, tokenizer, padding="longest", max_tokens=24)
    set_seed(0)
    model = HiVLPModel(scratch_config(SMALL, len(tokenizer)))
    features = torch.from_numpy(chance.standard_normal((100, 1, FEATURE_DIM))).half()
    inputs = Inputs(examples, processor, features, None, phrasing=False, seed=0)
    tokens = tokenizer(captions, padding=True, return_tensors="np")
    found = Validation(inputs).average_recall(model)
    expected = {
        candidates: recall_by_hand(
            numbers(model.named_parameters()),
            features[:, 0].double().numpy(),
            (tokens["input_ids"], tokens["attention_mask"]),
            examples,
            candidates,
        )
        for candidates in (31, 32, 33, 200)
    }
    assert found == pytest.approx(expected[32], abs=1e-9)
    others = {expected[candidates] for candidates in (31, 33, 200)}
    assert expected[32] not in others


def test_validation_looks_at_the_pictures_held_out_with_the_weights_of_its_step(
    run: Run,
    steps: list[Step],
    examples: list[Example],
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three candidates here, so that few pictures will do."""
    monkeypatch.setattr(validation_module, "CANDIDATES", 3)
    held = examples[::2]
    facts = run(replace(SMALL, steps=24, every=3, learning_rate=0.01), validation=held)
    kept = features.with_name("features-validation.safetensors")
    shown = load_file(kept)["features"][:, 0].double().numpy()
    tokens = load_tokens(tmp_path / "out", [c for e in held for c in e.captions])
    assert facts["validation_pictures"] == len(shown) == 6
    recalls = facts["validation_average_recall"]
    for step in range(3, 24, 3):
        expected = recall_by_hand(steps[step].weights, shown, tokens, held, 3)
        assert recalls[str(step)] == pytest.approx(expected, abs=1e-9)
    assert len(set(recalls.values())) > 1
