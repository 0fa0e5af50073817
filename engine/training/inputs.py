"""What the model is fed for drawn pictures and captions: cached features, or pixels and tokens."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.checkpoints import Processor
from engine.dataset import Example
from engine.embeddings import Embeddings
from engine.images import read_image
from engine.model import HiVLPFeatures, HiVLPModel
from engine.training.features import image_tower_features, view
from engine.training.sampling import Drawn, Rows
from engine.training.sentences import Sentences

AT_A_TIME = 512  # vectors computed at once where no gradient is wanted


class Inputs:
    """Pictures and captions of `examples` by their rows.

    features: float16 `[N, views, F]`, the image tower's; None: pictures are read and their pixels taken.
    caption_features: float16 `[M, F]`, a backbone's; None: captions are tokenised.
    phrasing: whether captions are said in other ways while training (tokens only).
    """

    def __init__(
        self,
        examples: Sequence[Example],
        processor: Processor,
        features: Tensor | None,
        caption_features: Tensor | None,
        *,
        phrasing: bool,
        seed: int,
    ) -> None:
        self.examples, self._processor = examples, processor
        self._features, self._caption_features = features, caption_features
        captions = [caption for example in examples for caption in example.captions]
        self._captions, self._seed = len(captions), seed
        self._sentences = (
            Sentences.of(captions, processor, phrasing=phrasing, seed=seed)
            if caption_features is None
            else None
        )

    def of(self, drawn: Drawn, number: int) -> dict[str, Tensor]:
        """A batch for the model's `forward`; whatever is drawn depends on the seed and `number` alone."""
        chance = random.Random(f"{self._seed}/{number}")
        pictures = self.pictures(drawn.pictures, drawn.views, chance)
        ways = np.zeros_like(drawn.captions)
        if self._sentences is not None:
            ways = self._sentences.draw(len(ways), np.random.default_rng([self._seed, number, 3]))
        return pictures | self.captions(drawn.captions, ways)

    def pictures(self, rows: Rows, views: Rows, chance: random.Random) -> dict[str, Tensor]:
        if self._features is not None:
            chosen = self._features[torch.from_numpy(rows), torch.from_numpy(views)]
            return {"image_features": chosen.float()}
        images = [
            view(read_image(self.examples[row].image), number, chance)
            for row, number in zip(rows.tolist(), views.tolist(), strict=True)
        ]
        return {"pixel_values": self._processor.pixels(images)}

    def captions(self, rows: Rows, ways: Rows) -> dict[str, Tensor]:
        if self._sentences is not None:
            return self._sentences.tokens(rows, ways, cut=self._processor.padding == "longest")
        assert self._caption_features is not None
        return {"text_features": self._caption_features[torch.from_numpy(rows)].float()}

    @torch.no_grad()
    def vectors(
        self, model: HiVLPModel, pictures: Rows, captions: Rows
    ) -> tuple[Embeddings, Embeddings]:
        """The model's vectors of these pictures, as they are, and captions, as they are written; on the CPU."""
        training = model.training
        model.eval()
        images = [self._image_vectors(model, rows) for rows in _parts(pictures)]
        texts = [self._text_vectors(model, rows) for rows in _parts(captions)]
        model.train(training)
        return _joined(images), _joined(texts)

    def all_vectors(self, model: HiVLPModel) -> tuple[Embeddings, Embeddings]:
        """Those of all pictures and captions, in their order."""
        return self.vectors(model, np.arange(len(self.examples)), np.arange(self._captions))

    def _image_vectors(self, model: HiVLPModel, rows: Rows) -> Embeddings:
        given = self.pictures(rows, np.zeros_like(rows), random.Random(0))
        features = given.get("image_features")
        if features is None:
            features = image_tower_features(model, given["pixel_values"])
        return _on_cpu(model.image_heads(features.to(model.device)))

    def _text_vectors(self, model: HiVLPModel, rows: Rows) -> Embeddings:
        given = {
            name: part.to(model.device)
            for name, part in self.captions(rows, np.zeros_like(rows)).items()
        }
        features = given.get("text_features")
        found = (
            model.text_heads(features) if features is not None else model.get_text_features(**given)
        )
        return _on_cpu(found)


def _on_cpu(found: HiVLPFeatures) -> Embeddings:
    assert found.coarse is not None
    assert found.fine is not None
    return Embeddings(found.coarse.cpu(), found.fine.cpu())


def _parts(rows: Rows) -> list[Rows]:
    return np.split(rows, range(AT_A_TIME, len(rows), AT_A_TIME))


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    coarse = torch.cat([part.coarse for part in parts if part.coarse is not None])
    return Embeddings(coarse, torch.cat([part.fine for part in parts]))
