"""Indexes that earlier releases wrote open and answer the same for ever (golden/write.py wrote them)."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.index import Index
from engine.index.manifest import VERSION
from engine.queries.mode import Mode
from tests.engine.index.golden.write import one_line

GOLDEN = Path(__file__).parent / "golden"
INDEXES = sorted(GOLDEN.glob("format-*/*.index"))
MODES: tuple[Mode, ...] = ("exact", "two_stage")

Golden = tuple[Path, dict[str, Any]]  # a copy of an index, and what it must hold and answer


@pytest.fixture(params=INDEXES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    said = json.loads(request.param.with_suffix(".json").read_text(encoding="utf-8"))
    return Path(shutil.copytree(request.param, tmp_path / "golden.index")), said


def test_every_format_has_its_own() -> None:
    formats = {path.parent.name for path in INDEXES}
    assert formats == {f"format-{version}" for version in range(2, VERSION + 1)}


def test_it_holds_what_it_held(golden: Golden) -> None:
    place, said = golden
    index = Index.open(place)
    index.verify()
    assert json.loads(json.dumps(asdict(index.header))) == with_defaults(said["header"])
    assert [len(segment) for segment in index.segments] == said["segments"]
    assert index.live is not None
    assert np.flatnonzero(index.live).tolist() == said["live"]
    assert index.ids_at(np.array(said["live"])) == said["ids"]
    assert index.rows_of(said["ids"]).tolist() == said["live"]
    metadata = [index.metadata_at(row) for row in said["live"]]
    assert json.loads(one_line(metadata)) == said["metadata"]
    assert index.coarse.tolist() == said["coarse"]
    assert index.fine.tolist() == said["fine"]
    reduction = None if index.reduction is None else index.reduction.tolist()
    assert reduction == said["reduction"]


def with_defaults(header: dict[str, Any]) -> dict[str, Any]:
    """With what format 2 lacks."""
    whole = {"learned": None} | header
    for entry, name, default in (("quantization", "offset", []), ("calibration", "changed", 0)):
        if whole[entry] is not None:
            whole[entry] = {name: default} | whole[entry]
    return whole


def test_it_answers_as_it_answered(golden: Golden) -> None:
    place, said = golden
    id_of = dict(zip(said["live"], said["ids"], strict=True))
    fine, k = torch.tensor(said["queries"]), len(said["rows"][0])
    # Where no reduction makes coarse queries, any do: all items are candidates.
    coarse = None if said["reduction"] else torch.ones(len(fine), len(said["coarse"][0]))
    with engine.Retriever(place) as r:
        for mode in MODES:
            queries = engine.Embeddings(coarse, fine)
            found = r.search(queries, k=k, mode=mode, candidates=len(said["live"]))
            assert found.rows.tolist() == said["rows"]
            assert found.ids == [[id_of[row] for row in rows] for rows in said["rows"]]
            np.testing.assert_allclose(found.scores.numpy(), said["scores"], rtol=1e-6, atol=1e-6)


def test_conditions_find_what_they_found(golden: Golden) -> None:
    place, said = golden
    queries = np.array(said["queries"], dtype=np.float32)
    with engine.Retriever(place) as r:
        if not any(said["metadata"]):
            with pytest.raises(engine.InvalidArgument, match="filter"):
                r.search(queries, filter="year > 2000", mode="exact")
            return
        found = r.search(queries, k=20, filter="year > 2000 and flag == False", mode="exact")
    wanted = {
        id
        for id, held in zip(said["ids"], said["metadata"], strict=True)
        if held and held.get("year", 0) > 2000 and not held["flag"]
    }
    assert len(wanted) > 3
    assert [set(ids) for ids in found.ids] == [wanted] * len(queries)


def test_it_can_be_changed_and_saved(golden: Golden) -> None:
    place, said = golden
    gone, *kept = said["ids"]
    new = "new" if isinstance(gone, str) else 99
    # Unit vectors, of which float16 holds every value.
    fine = torch.eye(len(said["fine"][0]))[:1]
    coarse = torch.eye(len(said["coarse"][0]))[:1] if said["reduction"] is None else None
    with engine.Retriever(place) as r:
        with pytest.raises(engine.InvalidArgument, match="ids"):
            r.add(embeddings=engine.Embeddings(coarse, fine), ids=[kept[0]])
        r.add(embeddings=engine.Embeddings(coarse, fine), ids=[new])
        r.remove([gone])
        r.save()

    index = Index.open(place)
    index.verify()
    rows = np.arange(index.row_count)
    rows = rows if index.live is None else rows[index.live]
    assert index.ids_at(rows) == [*kept, new]
    metadata = [index.metadata_at(row) for row in rows.tolist()]
    assert json.loads(one_line(metadata)) == [*said["metadata"][1:], None]
    with engine.Retriever(place) as r:
        found = r.search(fine, k=len(index), mode="exact")
    scores = dict(zip(found.ids[0], found.scores[0].tolist(), strict=True))
    assert scores.keys() == {*kept, new}
    assert scores[new] == 1.0
    firsts = [said["fine"][row][0] for row in said["live"]]
    assert [scores[id] for id in kept] == firsts[1:]
