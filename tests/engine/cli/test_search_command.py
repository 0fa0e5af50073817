"""What `search` can be asked beside words: conditions, near-duplicates; in this process, as it is quicker."""

import json
import shutil
from pathlib import Path
from typing import Any

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
