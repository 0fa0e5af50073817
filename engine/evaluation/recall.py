"""Recall@K and AR, text to image and image to text, by the protocol of the image-text literature.

A query counts as answered at K if any of its first K hits shows what it asks for: for a caption, a picture of the
same concept; for a picture, a caption of its concept. AR is the mean of R@1, R@5 and R@10 in both directions
(LightningDOT, arXiv 2103.08784).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.dataset import Example
from engine.embeddings import Embeddings
from engine.encoders import Encoder, encode_all
from engine.progress import progress
from engine.reduction import COARSE_DIM
from engine.retriever import Mode, Retriever

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Recalls:
    """Percentages of queries answered within K hits, K = 1, 5, 10, and their mean, AR."""

    text_to_image: dict[str, float]
    image_to_text: dict[str, float]
    average: float


@dataclass(frozen=True)
class Report:
    """One encoder on one set of pictures: recalls by way of searching, in the order fine, two-stage, coarse."""

    pictures: int
    captions: int
    coarse_dim: int
    fine_dim: int
    candidates: int
    recalls: dict[str, Recalls]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table, one row a way of searching."""
        head = ["search", *(f"t→i R@{k}" for k in CUTOFFS), *(f"i→t R@{k}" for k in CUTOFFS), "AR"]
        rows = [
            [
                name,
                *(f"{value:.1f}" for value in recalls.text_to_image.values()),
                *(f"{value:.1f}" for value in recalls.image_to_text.values()),
                f"{recalls.average:.1f}",
            ]
            for name, recalls in self.recalls.items()
        ]
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def evaluate(
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    captions: Literal["all", "first"] = "all",
    candidates: int = 32,
) -> Report:
    """Encode every picture and caption once, then search each way in both directions.

    Args:
        captions: ask with every caption of a picture, or only with its first.
        candidates: how many the coarse stage keeps in the two-stage search.
    """
    concepts = np.array([example.concept for example in examples])
    kept = [example.captions if captions == "all" else example.captions[:1] for example in examples]
    texts = [text for group in kept for text in group]
    text_concepts = np.repeat(concepts, [len(group) for group in kept])
    with progress("encoding pictures", len(examples)) as advance:
        images = encode_all(encoder, [example.image for example in examples], advance)
    with progress("encoding captions", len(texts)) as advance:
        sentences = encode_all(encoder, texts, advance)
    fine_dim = images.fine.shape[1]
    # Without a coarse head, `recalls_at` searches with a reduction learned from the items, as an index would.
    coarse_dim = min(COARSE_DIM, fine_dim) if images.coarse is None else images.coarse.shape[1]
    ways: dict[str, Mode] = {
        f"fine, all items ({fine_dim}-d)": "exact",
        f"coarse {coarse_dim}-d, then fine over {candidates}": "two_stage",
        f"coarse alone ({coarse_dim}-d)": "coarse",
    }
    return Report(
        pictures=len(examples),
        captions=len(texts),
        coarse_dim=coarse_dim,
        fine_dim=fine_dim,
        candidates=candidates,
        recalls={
            name: _both_directions(images, concepts, sentences, text_concepts, mode, candidates)
            for name, mode in ways.items()
        },
    )


def _both_directions(
    images: Embeddings,
    concepts: NDArray[Any],
    texts: Embeddings,
    text_concepts: NDArray[Any],
    mode: Mode,
    candidates: int,
) -> Recalls:
    text_to_image = recalls_at(texts, text_concepts, images, concepts, mode, candidates)
    image_to_text = recalls_at(images, concepts, texts, text_concepts, mode, candidates)
    average = fmean([*text_to_image.values(), *image_to_text.values()])
    return Recalls(text_to_image, image_to_text, average)


def recalls_at(
    queries: Embeddings,
    query_concepts: NDArray[Any],
    items: Embeddings,
    item_concepts: NDArray[Any],
    mode: Mode,
    candidates: int,
) -> dict[str, float]:
    """R@1, R@5, R@10 in percent."""
    deepest = max(CUTOFFS)
    retriever = Retriever.from_embeddings(items.fine, items.coarse)
    rows = retriever.search(
        queries, deepest, mode=mode, candidates=max(candidates, deepest)
    ).to_numpy()["rows"]
    answers = (item_concepts[rows] == query_concepts[:, None]) & (rows >= 0)  # [B, 10]
    return {f"R@{k}": 100 * float(answers[:, :k].any(axis=1).mean()) for k in CUTOFFS}
