"""How good a model in training is: the average recall of pictures that it does not learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.dataset import Example
from engine.errors import InvalidArgument
from engine.evaluation import Pool, Way, evaluate
from engine.model import HiVLPModel
from engine.training.inputs import Inputs

CANDIDATES = 32


@dataclass(frozen=True, eq=False)
class Validation:
    """Pictures held out, and how the model is fed with them."""

    inputs: Inputs

    def average_recall(self, model: HiVLPModel) -> float:
        """AR in percent of the search that users make: coarse, then fine over 32 candidates."""
        images, texts = self.inputs.all_vectors(model)
        pool = Pool.of(images, texts, self.inputs.examples)
        report = evaluate(pool, candidates=[CANDIDATES])
        return report.recalls[Way("two_stage", "head", model.config.coarse_dim, CANDIDATES)].average


def hold_out(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """What is trained on, and the pictures of a `share` of the concepts, drawn by `seed`: at least two of them.

    Raises InvalidArgument where that leaves nothing to train on.
    """
    concepts = sorted({example.concept for example in examples})
    count = max(2, round(share * len(concepts))) if 0 < share < 1 else len(concepts)
    if count >= len(concepts):
        raise InvalidArgument(
            "validation",
            expected=f"a part, or a share between 0 and 1 that leaves some of {len(concepts)} concepts",
            got=str(share),
            remedy="A twentieth is usual: 0.05.",
        )
    drawn = np.random.default_rng([seed, 2]).permutation(len(concepts))[:count]
    held = {concepts[place] for place in drawn}
    kept = [example for example in examples if example.concept not in held]
    return kept, [example for example in examples if example.concept in held]
