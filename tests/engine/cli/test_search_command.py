"""What `search` can be asked beside words: conditions, near-duplicates; in this process, as it is quicker."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import engine
from engine.building import build_index
from engine.cli.commands import app
from tests.conftest import PICTURES

NAMES = [path.name for path in sorted((PICTURES / "noto").glob("*.webp"))[:6]]


@pytest.fixture(scope="module")
def described(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with years, and a copy of the first."""
    folder = tmp_path_factory.mktemp("described")
    lines = []
    for number, name in enumerate([*NAMES, "copy.webp"]):
        shutil.copy(PICTURES / "noto" / NAMES[number % 6], folder / name)
        lines.append(json.dumps({"image": name, "year": 2000 + number, "caption": f"no. {number}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    place = folder / "index"
    build_index([folder], place, untrained)
    return place


def search(index: Path, *options: str) -> list[dict[str, Any]]:
    picture = str(PICTURES / "noto" / NAMES[0])
    result = CliRunner().invoke(app, ["search", str(index), "--image", picture, "--json", *options])
    if result.exception:
        raise result.exception
    hits = json.loads(result.stdout)["answers"][0]["hits"]
    assert isinstance(hits, list)
    return hits


def test_a_condition(described: Path) -> None:
    hits = search(described, "--where", "year > 2002 and year != 2006")
    assert {hit["id"] for hit in hits} == set(NAMES[3:])
    assert all(
        hit["metadata"]["captions"] == [f"no. {hit['metadata']['year'] - 2000}"] for hit in hits
    )
    with pytest.raises(engine.InvalidArgument, match="filter: expected"):
        search(described, "--where", "print(1)")


def test_near_duplicates(described: Path) -> None:
    assert {hit["id"] for hit in search(described)} == {*NAMES, "copy.webp"}
    ids = [hit["id"] for hit in search(described, "--duplicates", "0.9999")]
    same = {NAMES[0], "copy.webp"}  # but for the last bit of a vector, which decides who stays
    assert ids[0] in same
    assert set(ids) == {ids[0], *NAMES[1:]}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["search", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.stdout


def test_csv_and_the_lowest_score(described: Path) -> None:
    picture = PICTURES / "noto" / NAMES[2]
    hits = search(described, "--where", "year < 2006")
    rows = list(csv.reader(io.StringIO(run(described, "--image", picture, "--csv", "-k", 3))))
    assert rows[0] == ["query", "rank", "score", "id", "metadata"]
    assert [row[1:2] + row[3:4] for row in rows[1:2]] == [["1", NAMES[2]]]
    assert json.loads(rows[1][4])["year"] == 2002
    lowest = hits[2]["score"]
    kept = search(described, "--where", "year < 2006", "--min-score", str(lowest))
    assert kept == [hit for hit in hits if hit["score"] >= lowest]


def test_vectors_in_a_file(described: Path, tmp_path: Path) -> None:
    vectors = np.asarray(engine.Index.open(described).fine)[[4, 1]]
    np.save(tmp_path / "two.npy", vectors)
    with engine.Retriever(described) as r:
        expected = r.search(vectors, 2, mode="exact").ids
    asked = ("--vector", tmp_path / "two.npy", "-k", 2, "--mode", "exact", "--json")
    answers = json.loads(run(described, *asked))["answers"]
    assert [[hit["id"] for hit in answer["hits"]] for answer in answers] == expected
    assert answers[1]["query"].endswith("two.npy, row 1")
    for words in ((), ("words", "--vector", tmp_path / "two.npy")):
        with pytest.raises(engine.InvalidArgument, match="TEXTS: expected words or --image"):
            run(described, *words)


def test_words_and_a_picture_together(described: Path) -> None:
    picture = PICTURES / "noto" / NAMES[0]
    with engine.Retriever(described) as r:
        expected = r.search([engine.Query("a cat", picture)], 3).ids
    asked = (described, "a cat", "--image", picture, "--together", "-k", 3, "--json")
    (answer,) = json.loads(run(*asked))["answers"]
    assert [hit["id"] for hit in answer["hits"]] == expected[0]
    with pytest.raises(engine.InvalidArgument, match="--together: expected one text and one"):
        run(described, "a", "b", "--together")
