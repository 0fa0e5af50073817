"""Recall against hand-made cases, an independent count, and the example checkpoint's own floor."""

from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.dataset import Example, read_dataset
from engine.evaluation import evaluate
from engine.evaluation.recall import recalls_at
from tests.conftest import CHECKPOINT, PICTURES


def as_embeddings(vectors: np.ndarray) -> engine.Embeddings:
    tensor = torch.from_numpy(vectors.astype(np.float32))
    return engine.Embeddings(tensor, tensor)


def test_recall_of_a_case_worked_out_by_hand() -> None:
    """Items ranked 5, 4, 3, 2, 1, 0 for every query; the first right one stands at 1, 2, 6, and nowhere."""
    items = as_embeddings(np.arange(6)[:, None])
    concepts = np.array(["zero", "a", "b", "a", "near", "top"])
    queries = as_embeddings(np.ones((4, 1)))
    wanted = np.array(["top", "near", "zero", "missing"])
    for mode in ("exact", "two_stage", "coarse"):
        found = recalls_at(queries, wanted, items, concepts, mode, candidates=6)  # type: ignore[arg-type]
        assert found == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0}


def test_recall_equals_a_count_by_full_ranking() -> None:
    rng = np.random.default_rng(0)
    items, queries = rng.standard_normal((200, 8)), rng.standard_normal((90, 8))
    item_concepts, query_concepts = rng.integers(0, 40, 200), rng.integers(0, 40, 90)
    ranking = np.argsort(-(queries @ items.T), axis=1, kind="stable")
    right = item_concepts[ranking] == query_concepts[:, None]
    expected = {f"R@{k}": 100 * right[:, :k].any(axis=1).mean() for k in (1, 5, 10)}
    found = recalls_at(
        as_embeddings(queries), query_concepts, as_embeddings(items), item_concepts, "exact", 10
    )
    assert found == pytest.approx(expected)


class Spelling:
    """An encoder that knows the answers: a text or picture becomes the axis its number names."""

    coarse_dim, fine_dim = 2, 4
    reference = engine.index.CheckpointReference("none", "none")

    def encode_texts(self, texts: list[str]) -> engine.Embeddings:
        fine = torch.eye(4)[[int(text) for text in texts]]
        return engine.Embeddings(fine[:, :2] * 0 + torch.tensor([1.0, 0.0]), fine)

    def encode_images(self, images: list[object]) -> engine.Embeddings:
        return self.encode_texts([str(image.width - 1) for image in images])  # type: ignore[attr-defined]


def test_a_report_of_known_answers(tmp_path: Path) -> None:
    """Fine vectors are perfect; coarse ones all alike, so coarse search returns rows in order."""
    from PIL import Image

    examples = []
    for number in range(4):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (number + 1, 1)).save(file)
        examples.append(Example(file, (str(number), str(number)), str(number)))
    report = evaluate(Spelling(), examples, candidates=32)  # type: ignore[arg-type]
    fine, two_stage, coarse = report.recalls.values()
    assert (report.pictures, report.captions) == (4, 8)
    assert fine.average == two_stage.average == 100
    assert coarse.text_to_image == {"R@1": 25.0, "R@5": 100.0, "R@10": 100.0}
    assert coarse.image_to_text == {"R@1": 25.0, "R@5": 75.0, "R@10": 100.0}
    assert coarse.average == pytest.approx((25 + 100 + 100 + 25 + 75 + 100) / 6)
    assert evaluate(Spelling(), examples, captions="first").captions == 4  # type: ignore[arg-type]
    rows = report.to_markdown().splitlines()
    assert rows[0].startswith("| search | t→i R@1 | t→i R@5 |")
    assert rows[4] == ("| coarse alone (2-d) | 25.0 | 100.0 | 100.0 | 25.0 | 75.0 | 100.0 | 70.8 |")


def test_the_example_checkpoint_finds_noto_pictures_it_never_saw() -> None:
    """Real pictures, encode to search: 1,419 of a style held out of training, asked by their captions.

    Measured when it was trained: see examples/checkpoint/evaluation.json. Chance is 0.07 %.
    """
    noto = [example for example in read_dataset(PICTURES) if example.image.parent.name == "noto"]
    assert len(noto) == 1419
    report = evaluate(engine.open_encoder(CHECKPOINT), noto)
    fine, two_stage, coarse = (recalls.text_to_image["R@1"] for recalls in report.recalls.values())
    assert fine >= 40
    assert two_stage >= 40
    assert coarse >= 25
