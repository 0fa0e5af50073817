"""The objective against its formulas in float64 NumPy, written with loops."""

import numpy as np
import pytest
import torch

from engine.training.loss import hierarchical_loss
from engine.training.queue import Past
from tests.engine.training.by_hand import Pairs, objective

LEVELS = {"tiny": 3, "coarse": 4, "fine": 16}


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

    def pairs(self, first: int, last: int | None) -> Pairs:
        image, text = (
            {name: value[first:last] for name, value in side.items()}
            for side in (self.image, self.text)
        )
        return Pairs(image, text, self.concepts[first:last])

    def tensors(self, first: int, last: int | None) -> tuple[dict[str, torch.Tensor], ...]:
        return tuple(
            {name: torch.from_numpy(value[first:last]) for name, value in side.items()}
            for side in (self.image, self.text)
        )

    def past(self) -> Past:
        image, text = self.tensors(self.batch, None)
        return Past(image, text, torch.from_numpy(self.concepts[self.batch :]))


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
    expected = objective(
        given.pairs(0, batch),
        given.pairs(batch, None) if queued else None,
        given.scales,
        weights,
        distillation,
        biases if sigmoid else None,
    )
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
