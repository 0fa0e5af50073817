"""How many candidates the coarse stage keeps, seen in what is found, and what `warmup` does."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.embeddings import Embeddings
from engine.index import Calibration
from tests.conftest import PICTURES

ROWS = 700


def opposed(**given: Any) -> engine.Retriever:
    """Lower rows have better coarse and worse fine scores: the best hit is the last candidate."""
    row = np.arange(ROWS, dtype=np.float32)[:, None]
    return engine.Retriever.from_embeddings(row + 1, ROWS - row, **given)


ONE = Embeddings(torch.ones(1, 1), torch.ones(1, 1))


def kept_by(r: engine.Retriever, k: int, **asked: Any) -> int:
    """How many candidates a search takes."""
    rows = r.search(ONE, k, **asked).rows[0].tolist()
    assert rows == list(range(rows[0], rows[0] - k, -1))
    return int(rows[0]) + 1


@pytest.mark.parametrize(
    ("k", "kept"),
    [(1, 128), (10, 128), (32, 128), (33, 132), (50, 200), (174, 696), (175, 700), (300, 700)],
)
def test_four_times_k_and_at_least_128(k: int, kept: int) -> None:
    assert kept_by(opposed(), k) == kept


def test_the_search_is_asked_first_then_the_retriever_then_the_calibration() -> None:
    r = opposed(candidates=40)
    assert kept_by(r, 3) == 40
    assert kept_by(r, 40) == 40
    assert kept_by(r, 3, candidates=77) == 77
    assert kept_by(r, 3, candidates=3) == 3
    with pytest.raises(engine.InvalidArgument, match=r"candidates: expected at least k \(41\)"):
        r.search(ONE, 41)
    r._collection.calibrate(
        Calibration(10, 19, 0.99, 0.95, queries=400, recall=1.0, lower_bound=0.99, items=ROWS)
    )
    assert kept_by(r, 3) == 40
    free = engine.Retriever(r.index)
    assert [kept_by(free, k) for k in (1, 10, 11)] == [19, 19, 128]


class Watched(engine.Retriever):
    """Notes every search."""

    def search(self, batch: Any, k: int = 10, **asked: Any) -> engine.SearchResult:
        found = super().search(batch, k, **asked)
        self.searches = [*getattr(self, "searches", []), (len(batch), k, asked["candidates"])]
        return found


def test_warmup_searches_once_with_each_batch_size() -> None:
    r = Watched(opposed().index)
    r.warmup()
    assert r.searches == [(1, 10, 128), (32, 10, 128)]
    r.searches = []
    r.warmup([3, 5, 2], k=50, candidates=90)
    assert r.searches == [(3, 50, 90), (5, 50, 90), (2, 50, 90)]
    r.searches = []
    r.warmup([4], k=ROWS + 5)
    assert r.searches == [(4, ROWS, ROWS)]


def test_warmup_opens_the_encoder(untrained: Path, tmp_path: Path) -> None:
    """So that the first search reads no checkpoint: here it is gone by then."""
    checkpoint, place = tmp_path / "checkpoint", tmp_path / "index"
    shutil.copytree(untrained, checkpoint)
    pictures = sorted((PICTURES / "noto").glob("*.webp"))[:3]
    made = engine.Retriever.from_pretrained(checkpoint)
    made.add(pictures)
    made.save(place)
    expected = made.search("a red car", 3)
    with engine.Retriever(place) as r:
        r.warmup([1], k=2)
        shutil.rmtree(checkpoint)
        found = r.search("a red car", 3)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores, expected.scores)
