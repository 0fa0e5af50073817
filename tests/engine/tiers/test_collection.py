"""A retriever over a directory: who may change it, what is kept, what others see, and when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.index import Index
from tests.engine.brute_force import assert_found, brute_force, vectors
from tests.engine.index.small import files_of


@pytest.fixture
def place(tmp_path: Path) -> Path:
    engine.Retriever.from_embeddings(vectors(20)).save(tmp_path / "index")
    return tmp_path / "index"


def test_changes_last_once_saved(place: Path) -> None:
    with engine.Retriever(place) as r:
        r.add(embeddings=vectors(3, seed=1), metadata=[{"n": 1}, None, {"n": 3}])
        r.remove([0, 21])
        assert len(engine.Retriever(place)) == 20
        r.save()
        assert r.index.path == place
        assert not r.index.unsaved
        expected = r.search(vectors(4, seed=2), 5, mode="exact")
        r.remove([5])  # never saved
    r = engine.Retriever(place)
    assert r.search(vectors(4, seed=2), 5, mode="exact").ids == expected.ids
    assert r.index.metadata_at(22) == {"n": 3}
    items = np.concatenate([vectors(20), vectors(3, seed=1)])
    live = ~np.isin(np.arange(23), [0, 21])
    queries = vectors(4, seed=2)
    assert_found(r.search(queries, 5, mode="exact"), brute_force(queries, items, 5, live))


@pytest.mark.parametrize("on_conflict", ["replace", "skip"])
def test_upsert(on_conflict: Any) -> None:
    r = engine.Retriever.from_embeddings(vectors(4), ids=["a", "b", "c", "d"], candidates=9)
    r.add(embeddings=vectors(3, seed=1), ids=["e", "b", "a"], on_conflict=on_conflict)
    assert len(r) == 5
    new = on_conflict == "replace"
    for id, row in (("e", 0), ("b", 1), ("a", 2)):
        expected = vectors(3, seed=1)[row] if new or id == "e" else vectors(4)["ab".index(id)]
        found = r.search(expected, 1, mode="exact", filter=[id])
        assert found.scores[0, 0] == (expected**2).sum()
    assert sorted(r.search(vectors(1), 9).ids[0]) == ["a", "b", "c", "d", "e"]


def test_a_second_writer_fails_at_once_and_readers_go_on(place: Path) -> None:
    first, second = engine.Retriever(place), engine.Retriever(place)
    first.remove([3])
    before = files_of(place)
    for change in (
        lambda: second.remove([4]),
        lambda: second.add(embeddings=vectors(1)),
        second.compact,
    ):
        with pytest.raises(engine.IndexLocked, match="this process itself"):
            change()
    assert len(second) == 20
    assert files_of(place) == before
    first.save()
    first.close()
    with pytest.raises(engine.IndexChanged, match="refresh"):
        second.remove([4])
    with pytest.raises(engine.IndexChanged):
        second.remove([4])  # the lock was let go: not IndexLocked
    assert second.refresh()
    second.remove([4])
    second.save()
    assert len(engine.Retriever(place)) == 18


@pytest.mark.parametrize("tier", ["device", "disk"])
def test_a_reader_keeps_its_state_until_refresh(place: Path, tier: Any) -> None:
    reader, writer = engine.Retriever(place, fine_tier=tier), engine.Retriever(place)
    queries = vectors(3, seed=5)
    old = reader.search(queries, 30)
    items = vectors(20)
    for step in range(3):
        writer.add(embeddings=vectors(7, seed=step + 1))
        writer.remove([step])
        writer.save()
        items = np.concatenate([items, vectors(7, seed=step + 1)])
        assert reader.search(queries, 30).ids == old.ids
        assert reader.refresh()
        assert not reader.refresh()
        live = np.arange(len(items)) > step
        old = reader.search(queries, 30)
        assert_found(reader.search(queries, 9, mode="exact"), brute_force(queries, items, 9, live))
    writer.compact()
    assert reader.search(queries, 30).ids == old.ids
    assert reader.refresh()
    assert_found(reader.search(queries, 9, mode="exact"), brute_force(queries, items[3:], 9))
    writer.remove([9])
    with pytest.raises(engine.InvalidArgument, match="refresh: expected an index without changes"):
        writer.refresh()
    with pytest.raises(engine.InvalidArgument, match=r"refresh: .*in memory only"):
        engine.Retriever.from_embeddings(vectors(1)).refresh()


def test_saving_elsewhere_is_a_copy_but_the_first_place_is_kept(tmp_path: Path) -> None:
    r = engine.Retriever.from_embeddings(vectors(9))
    with pytest.raises(engine.InvalidArgument, match=r"path: .*in memory only"):
        r.save()
    r.save(tmp_path / "a")
    r.remove([1])
    r.save(tmp_path / "b")
    assert r.index.path == tmp_path / "a"
    assert len(engine.Retriever(tmp_path / "a")) == 9
    assert len(engine.Retriever(tmp_path / "b")) == 8
    r.save()
    assert len(engine.Retriever(tmp_path / "a")) == 8
    r.close()


def test_a_refused_change_leaves_retriever_and_files_alone(place: Path) -> None:
    r = engine.Retriever(place)
    before, files = r.index, files_of(place)
    nan = vectors(2)
    nan[1, 1] = np.nan
    for refused in (
        lambda: r.add(embeddings=nan),
        lambda: r.add(embeddings=vectors(1, 47)),
        lambda: r.add(embeddings=vectors(2), ids=[50, 50]),
        lambda: r.add(embeddings=vectors(1), ids=[3]),
        lambda: r.add(embeddings=vectors(1), ids=["x"]),
        lambda: r.add(embeddings=vectors(1), metadata=[{"a": object()}]),
        lambda: r.add(embeddings=vectors(1), on_conflict="merge"),  # type: ignore[arg-type]
        lambda: r.remove([3, 999]),
    ):
        with pytest.raises(engine.InvalidArgument):
            refused()
    assert r.index is before
    assert files_of(place) == files
    engine.Retriever(place).remove([1])  # and no lock was taken


def test_everything_removed_and_something_else_added(place: Path) -> None:
    r = engine.Retriever(place)
    r.remove(list(range(20)))
    assert r.search(vectors(1), 5).ids == [[]]
    r.add(embeddings=vectors(30, seed=3), ids=[f"{n}" for n in range(30)])  # more rows than before
    queries = vectors(2, seed=4)
    assert_found(r.search(queries, 5, mode="exact"), brute_force(queries, vectors(30, seed=3), 5))
    r.save()
    r.close()
    assert engine.Retriever(place).index.rows_of(["7"]).tolist() == [7]


def test_replacing_every_item(place: Path) -> None:
    r = engine.Retriever(place)
    r.add(embeddings=vectors(25, seed=3), ids=np.arange(25), on_conflict="replace")  # type: ignore[arg-type]
    queries = vectors(2, seed=4)
    found = r.search(queries, 5, mode="exact")
    scores, rows = brute_force(queries, vectors(25, seed=3), 5)
    assert found.ids == rows.tolist()
    np.testing.assert_array_equal(found.scores.numpy(), scores)
    r.close()


def test_skipping_everything_changes_nothing(place: Path) -> None:
    r = engine.Retriever(place)
    before = r.index
    r.add(embeddings=vectors(20), ids=np.arange(20), on_conflict="skip")  # type: ignore[arg-type]
    r.remove([])
    assert r.index is before
    engine.Retriever(place).remove([1])


def test_a_retriever_over_an_index_object_of_a_directory(place: Path) -> None:
    with engine.Retriever(Index.open(place)) as r:
        r.remove([2])
        r.save()
    assert len(Index.open(place)) == 19


def test_the_longest_coarse_vector_counts_when_it_is_new() -> None:
    """`max_norm` is remembered from snapshot to snapshot: one that were too small would lose hits."""
    rng = np.random.default_rng(0)
    small = rng.standard_normal((3000, 8)).astype(np.float32) * 1e-3
    r = engine.Retriever.from_embeddings(small, small)
    queries = torch.from_numpy(rng.standard_normal((9, 8)).astype(np.float32))
    r.search(engine.Embeddings(queries, queries), 5, mode="coarse")
    large = rng.standard_normal((5, 8)).astype(np.float32) * 1e3
    r.add(embeddings=engine.Embeddings(torch.from_numpy(large), torch.from_numpy(large)))
    found = r.search(engine.Embeddings(queries, queries), 5, mode="coarse")
    _, rows = brute_force(queries.numpy(), np.concatenate([small, large]), 5)
    np.testing.assert_array_equal(found.rows.numpy(), rows)


def test_what_is_told_and_asked_of_items(place: Path) -> None:
    """`add` and `remove` say how many; `in` and `get` look one up."""
    r = engine.Retriever(place)
    assert r.add(embeddings=vectors(3, seed=1), metadata=[{"n": 1}, None, {"n": 3}]) == 3
    assert r.add(embeddings=vectors(3, seed=1), ids=[5, 30, 31], on_conflict="skip") == 2
    assert r.add(embeddings=vectors(2, seed=1), ids=[5, 40], on_conflict="replace") == 2
    assert r.add(embeddings=vectors(0)) == 0
    assert r.remove([0, 21]) == 2
    assert r.remove([]) == 0
    assert [id in r for id in (20, 21, 40, -1, "20", 2.0, True, None)] == [True, False, True] + [
        False
    ] * 5
    assert np.int64(20) in r  # as NumPy and pandas give ids
    assert (r.get(20), r.get(1)) == ({"n": 1}, None)
    with pytest.raises(engine.UnknownId):
        r.get(21)
