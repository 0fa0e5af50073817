"""Captioned pictures to learn from and to compare on: a sample of a dataset folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.dataset import read_dataset
from engine.dataset.examples import Picture

EXAMPLES = Path(__file__).parent.parent / "examples" / "pictures"  # in a source checkout only


@dataclass(frozen=True, eq=False)
class Pairs:
    """Picture i and caption i belong together; `concepts[i]` says what both show, and more of a set may show it."""

    folder: Path
    images: tuple[Picture, ...]
    texts: tuple[str, ...]
    concepts: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.images)


def read_pairs(folder: Path, at_most: int) -> Pairs:
    """Up to `at_most` pictures of a dataset, evenly spaced, each with its first caption.

    Raises DatasetError where the folder cannot be read.
    """
    examples = read_dataset(folder)
    rows = np.unique(np.linspace(0, len(examples) - 1, min(at_most, len(examples))).astype(int))
    chosen = [examples[row] for row in rows]
    return Pairs(
        folder,
        tuple(example.image for example in chosen),
        tuple(example.captions[0] for example in chosen),
        np.array([example.concept for example in chosen]),
    )
