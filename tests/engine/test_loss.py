"""The objective against its formulas in float64 NumPy, written with loops."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.training.loss import hierarchical_loss
from engine.training.queue import Past

Array = NDArray[np.float64]
LEVELS = {"tiny": 3, "coarse": 4, "fine": 16}


def log_softmax(row: Array) -> Array:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def softmax_loss(logits: Array, positives: NDArray[np.bool_]) -> float:
    rows = [-log_softmax(row)[chosen].mean() for row, chosen in zip(logits, positives, strict=True)]
    return float(np.mean(rows))


def sigmoid_loss(logits: Array, positives: NDArray[np.bool_], bias: float) -> float:
    total = 0.0
    for row, chosen in zip(logits, positives, strict=True):
        for logit, positive in zip(row, chosen, strict=True):
            total += np.log1p(np.exp(-(1 if positive else -1) * (logit + bias)))
    return total / len(logits)


def divergence(logits: Array, teacher: Array) -> float:
    rows = []
    for row, told in zip(logits, teacher, strict=True):
        p = np.exp(log_softmax(told))
        rows.append((p * (log_softmax(told) - log_softmax(row))).sum())
    return float(np.mean(rows))


class Batch:
    """B pairs at three levels, with Q pairs of the past, as NumPy and as tensors."""

    def __init__(self, batch: int, past: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        both = batch + past
        self.image = {n: rng.standard_normal((both, d)) / d for n, d in LEVELS.items()}
        self.text = {n: rng.standard_normal((both, d)) / d for n, d in LEVELS.items()}
        self.concepts = rng.integers(0, max(2, both // 2), both)
        self.scales = dict(zip(LEVELS, [0.3, 2.0, 9.0], strict=True))
        self.batch = batch

    def logits(self, level: str) -> tuple[Array, Array]:
        scale = min(np.exp(self.scales[level]), 100.0)
        image, text = self.image[level], self.text[level]
        return scale * image[: self.batch] @ text.T, scale * text[: self.batch] @ image.T

    def tensors(self, first: int, last: int | None) -> tuple[dict[str, torch.Tensor], ...]:
        return tuple(
            {name: torch.from_numpy(value[first:last]) for name, value in side.items()}
            for side in (self.image, self.text)
        )

    def past(self) -> Past:
        image, text = self.tensors(self.batch, None)
        return Past(image, text, torch.from_numpy(self.concepts[self.batch :]))

    def positives(self) -> NDArray[np.bool_]:
        return self.concepts[: self.batch, None] == self.concepts[None, :]


@pytest.mark.parametrize("batch", [1, 2, 7, 63])
@pytest.mark.parametrize("queued", [0, 9])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("distillation", [0.0, 0.7])
def test_the_loss_equals_its_formula(
    batch: int, queued: int, sigmoid: bool, distillation: float
) -> None:
    given = Batch(batch, queued, seed=batch + queued)
    weights = {"tiny": 0.2, "coarse": 0.5, "fine": 1.0}
    biases = {"tiny": -1.0, "coarse": 0.5, "fine": -10.0}
    expected = 0.0
    for level in LEVELS:
        both = given.logits(level)
        parts = [
            sigmoid_loss(logits, given.positives(), biases[level])
            if sigmoid
            else softmax_loss(logits, given.positives())
            for logits in both
        ]
        expected += weights[level] * float(np.mean(parts))
        if level != "fine":
            pairs = zip(both, given.logits("fine"), strict=True)
            expected += distillation * np.mean([divergence(a, b) for a, b in pairs])
    image, text = given.tensors(0, batch)
    found = hierarchical_loss(
        image,
        text,
        {name: torch.tensor(value).double() for name, value in given.scales.items()},
        concepts=torch.from_numpy(given.concepts[:batch]),
        weights=weights,
        distillation=distillation,
        biases={name: torch.tensor(value).double() for name, value in biases.items()}
        if sigmoid
        else None,
        past=given.past() if queued else None,
    )
    np.testing.assert_allclose(float(found), expected, rtol=1e-9)


def test_distillation_leaves_the_teacher_alone() -> None:
    given = Batch(7, 0, seed=0)
    image, text = given.tensors(0, 7)
    for side in (image, text):
        for vectors in side.values():
            vectors.requires_grad_()
    scales = {name: torch.tensor(value).double() for name, value in given.scales.items()}
    nothing = dict.fromkeys(LEVELS, 0.0)
    hierarchical_loss(image, text, scales, weights=nothing, distillation=1.0).backward()
    assert not image["fine"].grad.any()  # type: ignore[union-attr]
    assert not text["fine"].grad.any()  # type: ignore[union-attr]
    assert image["coarse"].grad.any()  # type: ignore[union-attr]
    assert text["tiny"].grad.any()  # type: ignore[union-attr]


def test_two_rows_of_one_concept_are_not_each_others_negatives() -> None:
    """Rows 0 and 1 are the same picture: without concepts the loss has a floor of log 2 for them."""
    vectors = torch.eye(4)[[0, 0, 1]]
    levels, scales = {"fine": vectors}, {"fine": torch.tensor(4.6)}
    blind = hierarchical_loss(levels, levels, scales)
    told = hierarchical_loss(levels, levels, scales, concepts=torch.tensor([5, 5, 6]))
    assert float(blind) == pytest.approx(2 / 3 * np.log(2), abs=1e-3)
    assert float(told) == pytest.approx(2 / 3 * np.log(2), abs=1e-3)  # its own entropy
    aside = torch.eye(4)[[0, 2, 1]]  # pulled apart: told pays for it, blind is glad
    apart = {"fine": aside}
    assert hierarchical_loss(apart, apart, scales) < 0.1
    assert hierarchical_loss(apart, apart, scales, concepts=torch.tensor([5, 5, 6])) > 10


def test_the_past_keeps_the_newest_pairs() -> None:
    first, second = Batch(5, 0, seed=1), Batch(4, 0, seed=2)
    image, text = first.tensors(0, 5)
    past = Past.empty(image, text, torch.arange(5))
    assert len(past.concepts) == 0
    past = past.followed_by(image, text, torch.arange(5), 6)
    newer_image, newer_text = second.tensors(0, 4)
    newer_image["fine"].requires_grad_()
    past = past.followed_by(newer_image, newer_text, torch.arange(10, 14), 6)
    assert past.concepts.tolist() == [3, 4, 10, 11, 12, 13]
    assert torch.equal(past.image["fine"][:2], image["fine"][3:])
    assert torch.equal(past.text["tiny"][2:], newer_text["tiny"])
    assert not past.image["fine"].requires_grad
