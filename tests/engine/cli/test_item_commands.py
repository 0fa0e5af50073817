"""`list`, `get`, `remove`, `compact`, `relearn`, `calibrate`, `export` and `plan`, in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

import engine
from engine.cli.commands import app
from engine.index import Index
from tests.engine.brute_force import vectors

N, D = 129, 24
IDS = [f"photo {row}.jpg" for row in range(N)]


@pytest.fixture(params=["texts", "numbers"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two segments, of which some rows were removed."""
    texts = request.param == "texts"
    said = [{"year": 1900 + row, "title": f"no. {row}"} for row in range(N)]
    with engine.Retriever.from_embeddings(
        vectors(100, D), ids=IDS[:100] if texts else None, metadata=said[:100], coarse_dim=8
    ) as r:
        r.save(tmp_path / "index")
        r.add(
            embeddings=vectors(29, D, seed=1), ids=IDS[100:] if texts else None, metadata=said[100:]
        )
        r.remove([IDS[row] if texts else row for row in (3, 101)])
        r.save()
    return tmp_path / "index"


def run(*arguments: object) -> Any:
    """What a command prints as JSON; what it raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def id_of(place: Path, row: int) -> Any:
    return IDS[row] if Index.open(place).holds_strings else row


def test_list(place: Path) -> None:
    listed = run("list", place, "--json")
    assert listed["count"] == 127
    kept = [row for row in range(N) if row not in (3, 101)]
    expected = [
        {"id": id_of(place, row), "metadata": {"year": 1900 + row, "title": f"no. {row}"}}
        for row in kept
    ]
    assert listed["items"] == expected[:100]
    assert run("list", place, "--json", "--limit", 0)["items"] == expected
    assert run("list", place, "--json", "--limit", 7, "--offset", 98)["items"] == expected[98:105]
    found = run("list", place, "--json", "--where", "year > 2020")
    assert [item["id"] for item in found["items"]] == [id_of(place, row) for row in range(121, N)]
    assert (
        run("list", place, "--limit", 1)
        == f'{id_of(place, 0)}  {{"year": 1900, "title": "no. 0"}}\n'
    )


def test_get(place: Path) -> None:
    some = [id_of(place, row) for row in (128, 0)]
    found = run("get", place, *some, "--json")["items"]
    assert [(item["id"], item["metadata"]["year"]) for item in found] == [
        (some[0], 2028),
        (some[1], 1900),
    ]
    assert run("get", place, some[1]) == f"{some[1]}\n  year: 1900\n  title: no. 0\n"
    for gone in (id_of(place, 3), "nowhere", "٣x", "+-5", str(2**70)):
        with pytest.raises(engine.UnknownId):
            run("get", place, gone)


def test_remove(place: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text(f"{id_of(place, 50)}\n{id_of(place, 51)}\n\n")
    asked = ("remove", place, id_of(place, 0), "--ids", listed, "--where", "year >= 2027", "--json")
    assert run(*asked, "--dry-run") == {"would_remove": 5, "items": 127}
    assert len(Index.open(place)) == 127
    assert run(*asked) == {"removed": 5, "items": 122}
    left = Index.open(place)
    left.verify()
    assert len(left) == 122
    assert (left.find([id_of(place, row) for row in (0, 50, 51, 127, 128)]) < 0).all()
    assert run("remove", place, "--where", "year > 3000", "--json") == {"removed": 0, "items": 122}
    with pytest.raises(engine.InvalidArgument, match="IDS: expected ids, --ids FILE or --where"):
        run("remove", place)
    with pytest.raises(engine.UnknownId):
        run("remove", place, id_of(place, 1), id_of(place, 0))
    assert len(Index.open(place)) == 122


def test_compact_and_relearn(place: Path, tmp_path: Path) -> None:
    before = engine.Retriever(place).search(vectors(5, D, seed=2), 4, mode="exact").ids
    assert run("compact", place, "--json")["segments"] == 1
    assert Index.open(place).row_count == 127
    old = np.array(Index.open(place).reduction)
    np.save(tmp_path / "queries.npy", vectors(40, D, seed=3))
    run("relearn", place, "--queries", tmp_path / "queries.npy")
    learned = Index.open(place).header.learned
    assert learned is not None
    assert learned.queries == 40
    assert not np.array_equal(old, np.asarray(Index.open(place).reduction))
    run("compact", place, "--relearn")
    assert Index.open(place).header.learned.queries == 0  # type: ignore[union-attr]
    Index.open(place).verify()
    assert engine.Retriever(place).search(vectors(5, D, seed=2), 4, mode="exact").ids == before


def test_calibrate(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "queries.npy", vectors(60, D, seed=3))
    found = run(
        *("calibrate", place, "--queries", tmp_path / "queries.npy"),
        *("-k", 3, "--target-recall", 0.8, "--json"),
    )
    kept = Index.open(place).header.calibration
    assert kept is not None
    assert found == vars(kept)
    assert (kept.k, kept.queries, kept.items) == (3, 60, 127)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(engine.DatasetError, match=r"broken\.npy"):
        run("calibrate", place, "--queries", tmp_path / "broken.npy")


@pytest.mark.parametrize("which", ["fine", "coarse"])
@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".faiss"])
def test_export(place: Path, which: str, suffix: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / f"out{suffix}"
    assert run("export", place, "-o", output, "--which", which, "--json")["items"] == 127
    index = Index.open(place)
    assert index.live is not None
    rows = np.flatnonzero(index.live)
    expected = (index.fine if which == "fine" else index.coarse)[rows]
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(output), expected)
    elif suffix == ".parquet":
        table = parquet.read_table(output)
        np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), expected)
        assert table["id"].to_pylist() == index.ids_at(rows)
        assert json.loads(table["metadata"][0].as_py()) == {"year": 1900, "title": "no. 0"}
    else:
        faiss = pytest.importorskip("faiss")
        queries = vectors(3, D, seed=4)[:, : expected.shape[1]].copy()
        _, found = faiss.read_index(str(output)).search(queries, 2)
        scores = queries.astype(float) @ expected.astype(float).T
        np.testing.assert_array_equal(found, np.argsort(-scores, axis=1)[:, :2])
    if suffix != ".parquet":
        lines = output.with_name(f"{output.name}.ids.txt").read_text().splitlines()
        assert list(map(json.loads, lines)) == index.ids_at(rows)
    with pytest.raises(engine.InvalidArgument, match="expected a file that is not there yet"):
        run("export", place, "-o", output)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_export_of_fewer_bits(dtype: Any, tmp_path: Path) -> None:
    given = vectors(63, 8) + np.float32(5)
    r = engine.Retriever.from_embeddings(vectors(63, D), given, coarse_dtype=dtype)
    r.save(tmp_path / "index")
    run("export", tmp_path / "index", "-o", tmp_path / "out.npy", "--which", "coarse")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), given, atol=0.04)
    with pytest.raises(engine.InvalidArgument, match=r"expected a file of kind \.npy, "):
        run("export", tmp_path / "index", "-o", tmp_path / "out.txt")


def test_plan() -> None:
    facts = run("plan", 1_000_000, "--fine-dim", 768, "--coarse-dtype", "int8", "--json")
    assert (facts["coarse_bytes"], facts["fine_bytes"]) == (64_000_000, 3_072_000_000)
    assert "1,000,000 items" in run("plan", 1_000_000, "--fine-dim", 768)
