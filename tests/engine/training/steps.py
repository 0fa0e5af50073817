"""What happens in a training step, written down: the batch, the weights before it, the loss, the gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engine.training.trainer import HierarchicalTrainer
from tests.engine.training import by_hand
from tests.engine.training.by_hand import Array, Pairs, Rows, Shape


@dataclass(frozen=True)
class Step:
    """One batch, as the model took it: arrays in float64, `weights` before it and `gradients` after it.

    pictures, captions: what was drawn, rows of the examples and of all captions.
    """

    batch: dict[str, Any]
    pictures: Rows
    captions: Rows
    weights: dict[str, Array]
    loss: float
    gradients: dict[str, Array]

    def pairs(self, shape: Shape) -> Pairs:
        """The vectors of the batch, by hand."""
        image = by_hand.image_vectors(self.weights, shape, self.batch["image_features"])
        ids, mask = self.batch["input_ids"], self.batch["attention_mask"]
        text = by_hand.text_vectors(self.weights, shape, ids, mask)
        return Pairs(image, text, self.batch["concepts"])

    def by_level(self, name: str) -> dict[str, float]:
        return {level: float(self.weights[f"{name}.{level}"]) for level in ("coarse", "fine")}


def numbers(named: Any) -> dict[str, Array]:
    """Of our own towers the image tower's are left out: they stay as they are."""
    return {
        name: value.detach().double().numpy().copy()
        for name, value in named
        if value is not None and not name.startswith("image_tower.blocks")
    }


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step of the runs to come, as they are made."""
    seen: list[Step] = []
    half: list[dict[str, Any]] = []
    own_step, own_loss = HierarchicalTrainer.training_step, HierarchicalTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        batch = {name: part.numpy().astype(np.float64 if part.is_floating_point() else np.int64)
                 for name, part in inputs.items()}  # fmt: skip
        found = own_loss(self, model, inputs, *given, **named)
        half.append({"batch": batch, "loss": found.item()})
        return found

    def training_step(self: Any, model: Any, inputs: Any, *given: Any) -> Any:
        number = int(inputs["number"])
        weights = numbers(model.named_parameters())
        found = own_step(self, model, inputs, *given)
        drawn = self._sampler.draw(number)
        gradients = numbers((name, part.grad) for name, part in model.named_parameters())
        seen.append(
            Step(
                pictures=drawn.pictures,
                captions=drawn.captions,
                weights=weights,
                gradients=gradients,
                **half.pop(),
            )
        )
        return found

    monkeypatch.setattr(HierarchicalTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr(HierarchicalTrainer, "training_step", training_step)
    return seen
