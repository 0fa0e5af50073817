"""`Pool`: the pictures and captions that are searched, as vectors, and which of them ask.

The literature's pools: 1K is Flickr30k's test part, 5K is COCO's; in 31K and 123K the same pictures and captions
ask, and all of the data set is searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.dataset import Example, Skipped
from engine.embeddings import Embeddings
from engine.encoders import CHUNK, Encoder, encode_all
from engine.errors import DatasetError, ImageError, InvalidArgument
from engine.images import read_image
from engine.progress import progress


@dataclass(frozen=True, eq=False)
class Pool:
    """N pictures and their M captions; caption j is of picture `owners[j]`, and those of one stand together.

    images, texts: vectors of N pictures and M captions; both have coarse ones, or neither.
    concepts: int64 `[N]`; pictures of one concept answer each other's captions.
    owners: int64 `[M]`, ascending.
    asking: bool `[N]`, the pictures that ask, as do their captions.
    """

    images: Embeddings
    texts: Embeddings
    concepts: Tensor
    owners: Tensor
    asking: Tensor

    @classmethod
    def of(cls, images: Embeddings, texts: Embeddings, examples: Sequence[Example]) -> "Pool":
        """The pool of `examples`, whose pictures and captions have these vectors, row by row; all ask.

        Raises InvalidArgument where there are more or fewer rows, or their dims differ.
        """
        captions = [len(example.captions) for example in examples]
        _check_rows("images", images, len(examples), "pictures")
        _check_rows("texts", texts, sum(captions), "captions")
        if _dims(images) != _dims(texts):
            raise InvalidArgument(
                "texts",
                expected=f"vectors of {_dims(images)} coarse and fine dims, as the images have",
                got=f"{_dims(texts)}",
                remedy="Give both sides as one encoder makes them.",
            )
        _, concepts = np.unique([example.concept for example in examples], return_inverse=True)
        return cls(
            images,
            texts,
            torch.from_numpy(concepts.astype(np.int64)),
            torch.arange(len(examples)).repeat_interleave(torch.tensor(captions)),
            torch.ones(len(examples), dtype=torch.bool),
        )

    def take(self, rows: Tensor) -> "Pool":
        """The pictures of `rows` (int64, ascending) with their captions, searched by themselves."""
        place = torch.full((len(self.images),), -1)
        place[rows] = torch.arange(len(rows))
        owners = place[self.owners]
        return Pool(
            _rows(self.images, rows),
            _rows(self.texts, (owners >= 0).nonzero()[:, 0]),
            self.concepts[rows],
            owners[owners >= 0],
            self.asking[rows],
        )

    def asked_by(self, asking: Tensor) -> "Pool":
        """The same pool, where only the pictures of the bool mask `[N]` and their captions ask."""
        return replace(self, asking=asking)

    def first_captions(self) -> "Pool":
        """The same pictures, each with its first caption only."""
        first = torch.ones(len(self.owners), dtype=torch.bool)
        first[1:] = self.owners[1:] != self.owners[:-1]
        return replace(
            self, texts=_rows(self.texts, first.nonzero()[:, 0]), owners=self.owners[first]
        )

    def folds(self, count: int) -> "list[Pool]":
        """`count` pools of equally many pictures, in their order, each searched by itself: COCO's 1K is 5 of 5K."""
        pictures = len(self.images)
        assert pictures % count == 0  # check_request sees to it
        return [self.take(rows) for rows in torch.arange(pictures).split(pictures // count)]


def encode_pool(
    encoder: Encoder, examples: Sequence[Example], skipped: Skipped | None = None
) -> tuple[Pool, list[Example]]:
    """Encode every picture and caption once; also returns the examples whose pictures could be read.

    A picture that cannot be read is noted in `skipped` and left out; where that is None, ImageError.
    """
    kept: list[Example] = []
    parts: list[Embeddings] = []
    with progress("encoding pictures", len(examples)) as advance:
        for start in range(0, len(examples), CHUNK):
            images = []
            for example in examples[start : start + CHUNK]:
                try:
                    images.append(read_image(example.image))
                except ImageError as error:
                    if skipped is None:
                        raise
                    skipped.append(str(error))
                else:
                    kept.append(example)
            if images:
                parts.append(encoder.encode_images(images))
            advance(min(CHUNK, len(examples) - start))
    if not kept:
        raise DatasetError(
            "examples",
            expected="pictures that can be read",
            got="none",
            remedy="Mend the files, or name another part.",
        )
    texts = [text for example in kept for text in example.captions]
    with progress("encoding captions", len(texts)) as advance:
        sentences = encode_all(encoder, texts, advance)
    coarse = [part.coarse for part in parts if part.coarse is not None]
    pictures = Embeddings(
        torch.cat(coarse) if coarse else None, torch.cat([part.fine for part in parts])
    )
    return Pool.of(pictures, sentences, kept), kept


def asking_rows(examples: Sequence[Example], asking: Sequence[Example]) -> Tensor:
    """bool `[N]`: which of `examples` are among `asking`, by their pictures."""
    images = {example.image for example in asking}
    found: NDArray[np.bool_] = np.array([example.image in images for example in examples])
    return torch.from_numpy(found)


def _rows(vectors: Embeddings, rows: Tensor) -> Embeddings:
    return Embeddings(None if vectors.coarse is None else vectors.coarse[rows], vectors.fine[rows])


def _dims(vectors: Embeddings) -> tuple[int | None, int]:
    return None if vectors.coarse is None else vectors.coarse.shape[1], vectors.fine.shape[1]


def _check_rows(name: str, vectors: Embeddings, count: int, of_what: str) -> None:
    for tensor in (vectors.coarse, vectors.fine):
        if tensor is not None and len(tensor) != count:
            raise InvalidArgument(
                name,
                expected=f"a row for each of the {count:,} {of_what}",
                got=f"{len(tensor):,} rows",
                remedy="Give the vectors of this data set, in its order.",
            )
