"""`engine.Query`: the weighted sum of a text and an image, against float64 arithmetic on their own vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.queries.query import weighted_sum
from tests.conftest import PICTURES

TEXTS = ("a red car", "a dog and a cat")
IMAGES = sorted((PICTURES / "noto").glob("*.webp"))[:3]


@pytest.fixture(scope="module")
def retriever(untrained: Path) -> engine.Retriever:
    r = engine.Retriever.from_pretrained(untrained)
    r.add(sorted((PICTURES / "noto").glob("*.webp"))[:30], ids=list(range(30)))
    return r


def combined(parts: list[Any], weights: tuple[float, float]) -> Any:
    """In float64: sum of unit vectors, scaled to unit length."""
    whole = sum(w * part.double().numpy() for w, part in zip(weights, parts, strict=True))
    return whole / np.linalg.norm(whole)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (1.0, -0.5), (1.0, 0.0), (0.0, -3.0)])
def test_scores_are_those_of_the_weighted_sum(
    retriever: engine.Retriever, untrained: Path, weights: tuple[float, float]
) -> None:
    """Of the fine and of the coarse vectors; other queries beside it stay what they are."""
    encoder = engine.open_encoder(untrained)
    from engine.images import read_image

    text, image = encoder.encode_texts([TEXTS[0]]), encoder.encode_images([read_image(IMAGES[1])])
    items = np.asarray(retriever.index.fine, dtype=np.float64)
    query = engine.Query(text=TEXTS[0], image=IMAGES[1], weights=weights)
    fine = items @ combined([text.fine[0], image.fine[0]], weights)
    found = retriever.search([TEXTS[1], query, IMAGES[2]], 30, mode="exact")
    np.testing.assert_array_equal(found.rows[1], np.argsort(-fine, kind="stable"))
    np.testing.assert_allclose(found.scores[1], np.sort(fine)[::-1], atol=1e-5)
    for place, plain in ((0, TEXTS[1]), (2, IMAGES[2])):
        np.testing.assert_array_equal(
            found.rows[place], retriever.search(plain, 30, mode="exact").rows[0]
        )
    assert text.coarse is not None
    assert image.coarse is not None
    coarse = np.asarray(retriever.index.coarse, dtype=np.float64) @ combined(
        [text.coarse[0], image.coarse[0]], weights
    )
    by_coarse = retriever.search(query, 30, mode="coarse")
    np.testing.assert_allclose(by_coarse.scores[0], np.sort(coarse)[::-1], atol=1e-5)


def test_one_part_alone_is_that_part(retriever: engine.Retriever) -> None:
    for query, plain in (
        (engine.Query(text=TEXTS[0]), TEXTS[0]),
        (engine.Query(image=IMAGES[0]), IMAGES[0]),
    ):
        assert retriever.search(query, 5).ids == retriever.search(plain, 5).ids
        torch.testing.assert_close(
            retriever.search(query, 5).scores, retriever.search(plain, 5).scores
        )


def test_vectors_of_other_lengths_are_scaled_before_not_after() -> None:
    vectors = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    weights = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(weighted_sum(vectors, weights, fine=True), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(weighted_sum(vectors, weights, fine=False), torch.tensor([3.0, 1.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a text, an image, or both, got neither"),
        ({"text": "a", "weights": (0, 0)}, r"not both 0, got \(0, 0\)"),
        ({"text": "a", "weights": (1, float("nan"))}, "two finite numbers"),
        ({"text": "a", "weights": (1,)}, "two finite numbers"),
    ],
)
def test_bad_queries(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(engine.InvalidArgument, match=message):
        engine.Query(**arguments)


def test_bad_parts_are_named(retriever: engine.Retriever) -> None:
    with pytest.raises(engine.InvalidArgument, match=r"batch\[1\]: expected words"):
        retriever.search(["a", engine.Query(text=" ", image=IMAGES[0])])
    with pytest.raises(engine.InvalidArgument, match="do not cancel"):
        weighted_sum(torch.eye(2)[[0, 0]], torch.tensor([1.0, -1.0]), fine=True)
    with pytest.raises(engine.InvalidArgument, match="do not cancel"):
        retriever.search(engine.Query(text="a", weights=(0, 1)))
