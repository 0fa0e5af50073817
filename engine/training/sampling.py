"""Which pictures, views and captions make up each batch: a function of the seed and the batch's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.dataset import Example
from engine.errors import DatasetError

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One batch, a row a pair: int64 `[B]` each.

    concepts: what is shown, all different. pictures: rows of the examples. captions: rows among all captions.
    """

    concepts: Rows
    pictures: Rows
    views: Rows
    captions: Rows


class Sampler:
    """Draws concepts, and for each one of its pictures, a view of it, and one of that picture's captions.

    A batch of different concepts holds no two rows that show the same thing, so that no false negative is left; and
    a concept drawn in many styles weighs no more than one with a single picture. All concepts come up before one
    comes up again, but for a rest smaller than a batch.

    neighbours: int64 `[concepts, h]`; given, each drawn concept brings its h neighbours into the batch.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, views: int, seed: int) -> None:
        names, concepts = np.unique([e.concept for e in examples], return_inverse=True)
        self.concepts, self.batch_size, self.views, self.seed = len(names), batch_size, views, seed
        if self.concepts < batch_size:
            raise DatasetError(
                "batch_size",
                expected=f"at most the {self.concepts} concepts of the data set",
                got=str(batch_size),
                remedy="Give a smaller batch or more pictures.",
            )
        self._pictures: Rows = concepts.argsort(kind="stable").astype(
            np.int64
        )  # concept by concept
        self._pictures_each: Rows = np.bincount(concepts)
        self._captions_each: Rows = np.array([len(e.captions) for e in examples], dtype=np.int64)
        self._first_picture: Rows = self._pictures_each.cumsum() - self._pictures_each
        self._first_caption: Rows = self._captions_each.cumsum() - self._captions_each
        self.neighbours: Rows | None = None

    def first_of_each(self) -> tuple[Rows, Rows]:
        """A picture of every concept, and a caption of it: the first ones."""
        pictures = self._pictures[self._first_picture]
        return pictures, self._first_caption[pictures]

    def draw(self, number: int) -> Drawn:
        """Batch `number`, counted from 0 over the whole run."""
        chance = np.random.default_rng([self.seed, number, 0])
        concepts = self._concepts(number, chance)
        place = chance.integers(0, self._pictures_each[concepts])
        pictures = self._pictures[self._first_picture[concepts] + place]
        views = chance.integers(0, self.views, len(concepts))
        captions = self._first_caption[pictures]
        captions = captions + chance.integers(0, self._captions_each[pictures])
        return Drawn(concepts, pictures, views, captions)

    def _concepts(self, number: int, chance: np.random.Generator) -> Rows:
        if self.neighbours is None:
            epoch, place = divmod(number, self.concepts // self.batch_size)
            order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.concepts)
            return order[place * self.batch_size :][: self.batch_size]
        drawn = chance.permutation(self.concepts)[: self.batch_size]
        together = np.hstack([drawn[:, None], self.neighbours[drawn]]).ravel()
        _, first = np.unique(together, return_index=True)
        return together[np.sort(first)][: self.batch_size]
