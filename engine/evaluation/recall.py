"""Recall@K, AR and median rank from places, with bootstrap confidence intervals.

A query counts as answered at K if any of its first K hits shows what it asks for: for a caption, a picture of the
same concept; for a picture, a caption of its concept. AR is the mean of R@1, R@5 and R@10 in both directions
(LightningDOT, arXiv 2103.08784).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CUTOFFS = (1, 5, 10)
RESAMPLES = 2000
SEED = 0  # every figure is resampled from the same seed, so that none depends on what else was measured

Direction = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, Direction] = ("text_to_image", "image_to_text")


@dataclass(frozen=True)
class Recalls:
    """Percentages of queries answered within K hits, K = 1, 5, 10; their mean, AR; and what they may be by chance.

    median_rank: per direction; None = beyond the places that were looked at.
    intervals: per direction and K, and for "average", the percentages between which 95 % of resamples lie.
    """

    text_to_image: dict[str, float]
    image_to_text: dict[str, float]
    average: float
    median_rank: dict[str, float | None]
    intervals: dict[str, Any]


def recalls_of(text_to_image: Tensor, image_to_text: Tensor, depth: int) -> Recalls:
    """Recalls from the places (int64, from 1; more than `depth` = not found) of every query of each direction.

    The intervals are percentile bootstraps over queries. They say how much the figure would move with other queries
    of the same kind, taken as independent: captions of one picture are not quite.
    """
    places = {"text_to_image": text_to_image.numpy(), "image_to_text": image_to_text.numpy()}
    figures = {
        name: {f"R@{k}": 100 * float((found <= k).mean()) for k in CUTOFFS}
        for name, found in places.items()
    }
    chance = np.random.default_rng(SEED)
    resampled = {name: _resampled(found, chance) for name, found in places.items()}
    intervals: dict[str, Any] = {
        name: {f"R@{k}": _middle(column) for k, column in zip(CUTOFFS, columns.T, strict=True)}
        for name, columns in resampled.items()
    }
    both = np.hstack(list(resampled.values()))
    return Recalls(
        **figures,
        average=float(np.mean([list(found.values()) for found in figures.values()])),
        median_rank={name: _median(found, depth) for name, found in places.items()},
        intervals=intervals | {"average": _middle(both.mean(axis=1))},
    )


def _resampled(places: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.float64]:
    """R@1, R@5, R@10 in percent, `[RESAMPLES, 3]`, of as many queries drawn anew with replacement.

    Only how many of them fall at or below each cutoff matters, and those counts are multinomial.
    """
    count = len(places)
    within = [int((places <= k).sum()) for k in CUTOFFS]
    shares = np.diff([0, *within, count]) / count
    drawn = chance.multinomial(count, shares, size=RESAMPLES)
    percent: NDArray[np.float64] = 100 * drawn[:, :-1].cumsum(axis=1) / count
    return percent


def _middle(values: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def _median(places: NDArray[np.int64], depth: int) -> float | None:
    median = float(np.median(places))
    return median if median <= depth else None
