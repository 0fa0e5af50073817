"""The committed pictures are whole, on white, captioned and free of leaks."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.build import captions, dataset
from examples.build.splits import family, splits
from tests.examples.making import pixels

COMMITTED = Path(__file__).resolve().parents[2] / "examples" / "pictures"


@pytest.fixture(scope="module")
def committed() -> list[dataset.Record]:
    lines = (COMMITTED / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_committed_pictures_are_whole(committed: list[dataset.Record]) -> None:
    present = {p.relative_to(COMMITTED).as_posix() for p in COMMITTED.rglob("*.webp")}
    assert {record["image"] for record in committed} == present
    assert len(present) == len(committed)
    styles = collections.Counter(record["source"] for record in committed)
    assert set(styles) == {"twemoji", "noto", "fluent3d"}
    assert min(styles.values()) == max(styles.values()) >= 1000
    files = [path for path in COMMITTED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_the_committed_pictures_are_on_white(committed: list[dataset.Record]) -> None:
    for record in committed[::16]:
        with Image.open(COMMITTED / record["image"]) as image:
            assert (image.size, image.mode) == ((112, 112), "RGB"), record
            values = pixels(image)
        # the corner pixel is clear in every one of these drawings; a black one means a lost alpha
        assert values[0, 0].min() > 225, record
        assert values.std() > 4, record


def test_the_committed_captions_are_clean(committed: list[dataset.Record]) -> None:
    for record in committed:
        said = record["captions"]
        assert 1 <= len(said) <= 2
        assert list(captions.clean(said)) == said
        assert record["splits"] == splits(record["source"], record["concept"])
        assert record["licence"] in {"CC-BY-4.0", "OFL-1.1", "MIT"}


@pytest.mark.parametrize("split", ["style", "concept"])
def test_nothing_leaks(committed: list[dataset.Record], split: str) -> None:
    """No picture is on both sides, and for ``concept`` no family is, in any style."""
    sides: dict[str, set[str]] = collections.defaultdict(set)
    for record in committed:
        content = (COMMITTED / record["image"]).read_bytes()
        sides[hashlib.sha256(content).hexdigest()].add(record["splits"][split])
        if split == "concept":
            sides[family(record["concept"])].add(record["splits"][split])
            sides[record["captions"][0].casefold()].add(record["splits"][split])
    assert all(len(side) == 1 for side in sides.values())
    test = np.mean([record["splits"][split] == "test" for record in committed])
    assert (0.15 < test < 0.25) if split == "concept" else (test == pytest.approx(1 / 3))
