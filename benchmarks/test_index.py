"""The index as a directory: opened, searched, added to, verified. D = 256 in float16, 64 coarse dims."""

from pathlib import Path

import pytest
import torch

import engine
from benchmarks.conftest import Timed
from benchmarks.vectors import vectors

WIDTH, ADDED = 256, 1000


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    count = 20_000 if request.config.getoption("--quick") else 500_000
    items, _ = vectors("clusters", count, WIDTH, 1)
    place = tmp_path_factory.mktemp("index") / "of.index"
    engine.Retriever.from_embeddings(items.half(), coarse_dtype="int8").save(place)
    return place


def test_open(timed: Timed, place: Path) -> None:
    index = timed(lambda: engine.Index.open(place), op="open")
    assert len(index) >= 20_000


def test_open_and_search(timed: Timed, place: Path) -> None:
    """A retriever over the directory, and its first answer."""
    query = torch.ones(1, WIDTH)
    found = timed(lambda: engine.Retriever(place).search(query), op="open and search")
    assert found.counts.tolist() == [10]


def test_add_and_save(timed: Timed, place: Path) -> None:
    """A thousand items more, and acknowledged on the disk; the index grows with each round."""
    items, _ = vectors("clusters", ADDED, WIDTH, 1)
    retriever = engine.Retriever(place)

    def add() -> None:
        retriever.add(embeddings=items.half())
        retriever.save(place)

    timed(add, op="add and save", added=ADDED)
    assert len(engine.Index.open(place)) > 20_000


def test_verify(timed: Timed, place: Path) -> None:
    index = engine.Index.open(place)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    timed(index.verify, nbytes=size, op="verify")
