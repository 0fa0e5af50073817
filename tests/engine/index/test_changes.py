"""An index that grows and shrinks: appends, conflicts, compaction, lookups and metadata."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import engine
from engine.index import Index
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST
from tests.engine.index.small import assert_same, files_of, more, named_by, small

# ---------------------------------------------------------------------- growing and shrinking


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    index = small().save(tmp_path)
    first = files_of(tmp_path)
    index = index.append(more([5, 6])).save()
    second = files_of(tmp_path)
    unchanged = first.keys() - {MANIFEST}
    assert {name: second[name] for name in unchanged} == {name: first[name] for name in unchanged}
    assert {name.partition("-")[0] for name in second.keys() - first.keys()} == {
        "coarse",
        "fine",
        "ids",
    }
    index = index.without([1, 6]).save()
    third = files_of(tmp_path)
    assert sorted(name.partition("-")[0] for name in third.keys() - second.keys()) == [
        "deleted",
        "deleted",
    ]
    assert index.save() is index
    assert files_of(tmp_path) == third
    opened = Index.open(tmp_path)
    opened.verify()
    assert_same(opened, index)
    assert [opened.ids_at(np.flatnonzero(opened.live))] == [[0, 2, 3, 4, 5]]  # type: ignore[arg-type]
    rows = opened.without([0]).save().refreshed()
    assert len(rows) == 4
    assert len([name for name in files_of(tmp_path) if name.startswith("deleted")]) == 2


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_compacting_keeps_live_items_in_their_order(
    tmp_path: Path, strings: bool, saved: bool
) -> None:
    def named(ids: list[int]) -> Any:
        return [f"é{id}" for id in ids] if strings else ids

    index = small(named([4, 3, 2, 1, 0]), metadata=[{"n": n} for n in range(5)])
    index = index.append(more(named([9, 8, 7])))
    if saved:
        index = index.save(tmp_path)
    index = index.without(named([4, 1, 8])).append(more(named([8]), 2, metadata=[{"s": "x"}]))
    live = np.flatnonzero(index.live)  # type: ignore[arg-type]
    compact = index.compact()
    assert len(compact.segments) == 1
    assert compact.live is None
    assert_same(compact, Index.open(tmp_path) if saved else compact)
    assert compact.ids_at(np.arange(len(compact))) == index.ids_at(live)
    assert [compact.metadata_at(row) for row in range(len(compact))] == [
        index.metadata_at(int(row)) for row in live
    ]
    np.testing.assert_array_equal(compact.fine, index.fine[live])
    np.testing.assert_array_equal(compact.coarse, index.coarse[live])
    assert compact.rows_of(named([8, 2])).tolist() == [5, 1]
    if saved:
        assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK, *named_by(tmp_path)}
        compact.verify()


def test_compacting_what_is_empty(tmp_path: Path) -> None:
    index = small().save(tmp_path).without(range(5))
    assert index.compact().segments == ()
    assert len(Index.open(tmp_path)) == 0
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK}
    again = Index.open(tmp_path).append(more(["now strings"])).save()
    assert again.rows_of(["now strings"]).tolist() == [0]


def test_conflicts() -> None:
    index = small(["a", "b", "c", "d", "e"])
    new = more(["x", "b", "d"])
    with pytest.raises(engine.InvalidArgument, match="does not hold yet, got 'b'"):
        index.append(new)
    with pytest.raises(engine.InvalidArgument, match="on_conflict: expected"):
        index.append(new, "upsert")  # type: ignore[arg-type]
    replaced = index.append(new, "replace")
    assert len(replaced) == 6
    for row, id in enumerate(["x", "b", "d"]):
        np.testing.assert_array_equal(replaced.fine[replaced.rows_of([id])[0]], new.fine[row])
    skipped = index.append(new, "skip")
    assert len(skipped) == 6
    np.testing.assert_array_equal(skipped.fine[skipped.rows_of(["b"])[0]], index.fine[1])
    assert index.append(more(["a", "c"]), "skip") is index
    assert len(index) == 5


def test_many_small_adds_leave_few_segments_and_every_id_is_found() -> None:
    index = small([-1, -2, -3, -4, -5])
    for id in range(0, 300, 2):
        index = index.append(more([id, id + 1], id))
        if id % 3 == 0:
            index = index.append(more([id], id + 1000), "replace")
        if id % 10 == 0:
            index = index.without([id + 1])
    assert len(index.segments) < 12
    for id in (0, 4, 60, 298):
        expected = more([id], id + 1000) if id % 3 == 0 else more([id, id + 1], id)
        np.testing.assert_array_equal(index.fine[index.rows_of([id])[0]], expected.fine[0])
    with pytest.raises(engine.UnknownId, match="got 11"):
        index.rows_of([0, 11, 21])
    assert len(index) == 305 - 30
    ids = index.ids_at(np.flatnonzero(index.live))  # type: ignore[arg-type]
    assert len(set(ids)) == len(ids) == len(index)


def test_strings_of_one_key_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if BLAKE2b had only four digests."""
    from engine.index import contents as module
    from engine.index import lookup

    def few(ids: Any) -> Any:
        return np.array([len(id) % 4 for id in ids], dtype=np.int64)

    monkeypatch.setattr(lookup, "keys_of", few)
    monkeypatch.setattr(module, "keys_of", few)
    ids = [f"{n}" * (n % 3 + 1) for n in range(40)]
    index = more(ids[:20]).append(more(ids[20:], 2)).save(tmp_path).without(ids[5:9])
    index = index.append(more(ids[5:7], 3)).save()
    opened = Index.open(tmp_path)
    kept = [id for id in ids if id not in ids[7:9]]
    assert opened.ids_at(opened.rows_of(kept)) == kept
    assert opened.live is not None
    assert opened.live[opened.rows_of(kept)].all()
    with pytest.raises(engine.UnknownId, match=repr(ids[7])):
        opened.rows_of([ids[7]])


@pytest.mark.parametrize("id", ["0", 5, -1, 2**63, 2.0, None, True, "\ud800"])
def test_ids_that_are_not_there(id: Any) -> None:
    for index in (small(), small(["a", "b", "c", "d", ""]), small().without(range(5))):
        with pytest.raises(engine.UnknownId):
            index.rows_of([id])


def test_new_ids_follow_the_largest() -> None:
    index = small([7, -3, 90, 4, 5])
    assert index.next_ids(2).tolist() == [91, 92]
    assert index.without([90]).next_ids(1).tolist() == [91]  # not given out twice
    assert small([-9, -8, -7, -6, -5]).next_ids(1).tolist() == [-4]
    assert Index(small().header).next_ids(2).tolist() == [0, 1]


# ---------------------------------------------------------------------- metadata


def test_metadata_may_gain_columns_but_not_change_their_types() -> None:
    index = small(metadata=[{"n": 1, "tags": []}, None, {"x": 0.5}, {}, {"deep": {"a": 1}}])
    index = index.append(more([5], metadata=[{"tags": ["t"], "x": 2, "deep": {"b": "c"}}]))
    index = index.append(more([6], metadata=[{"new": True, "tags": []}]))
    assert index.metadata_at(5) == {"tags": ["t"], "x": 2.0, "deep": {"b": "c"}}
    assert [index.metadata_at(row) for row in (0, 1, 2, 3)] == [
        {"n": 1, "tags": []},
        None,
        {"x": 0.5},
        None,
    ]
    assert index.metadata_at(6) == {"new": True, "tags": []}
    for wrong in ({"n": "one"}, {"n": True}, {"tags": [1]}, {"deep": 1}, {"deep": {"b": 2}}):
        with pytest.raises(engine.InvalidArgument, match=f"column '{next(iter(wrong))}'"):
            index.append(more([7], metadata=[wrong]))


def test_columns_of_metadata_widen() -> None:
    """Numbers and moments: what was there reads as it was, and a number that floats cannot hold is refused."""
    first = {
        "n": 1,
        "f": np.float32(0.5),
        "at": dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        "d": Decimal("1.5"),
    }
    zone = dt.timezone(dt.timedelta(hours=2))
    second = {
        "n": 1.5,
        "f": 0.1,
        "at": dt.datetime(2024, 1, 2, 2, tzinfo=zone),
        "d": Decimal("1.25"),
    }
    for one, other in ((first, second), (second, first)):
        index = small(metadata=[one] * 5).append(more([5], metadata=[other]))
        assert index.metadata_at(0) == one
        found = index.metadata_at(5)
        assert found == {**other, "at": first["at"]}
        assert index.matching(pc.field("n") < 2).all()
    large = small(metadata=[{"n": 2**53 + 1}] * 5)
    with pytest.raises(engine.InvalidArgument, match="double in column 'n'"):
        large.append(more([5], metadata=[{"n": 0.5}]))
    with pytest.raises(engine.InvalidArgument, match="double in column 'n'"):
        small(metadata=[{"n": 0.5}] * 5).append(more([5], metadata=[{"n": 2**53 + 1}]))


@pytest.mark.parametrize(
    "metadata",
    [[{"a": 1}, {"a": "x"}], [{"a": {}}, None], [{1: 2}, None], [{"a": 2**70}, None]],
)
def test_metadata_that_parquet_cannot_hold(metadata: Any) -> None:
    with pytest.raises(engine.InvalidArgument, match="metadata: expected values of one type"):
        more([1, 2], metadata=metadata)


def test_metadata_are_read_a_group_at_a_time(tmp_path: Path) -> None:
    from engine.index.columns import GROUP_ROWS

    count = 2 * GROUP_ROWS + 3
    rows = [{"n": n} if n % 5 else None for n in range(count)]
    vectors = np.ones((count, 1), dtype=np.float32)
    Index.build(vectors, vectors, metadata=rows).save(tmp_path)
    opened = Index.open(tmp_path)
    for row in (0, 1, GROUP_ROWS - 1, GROUP_ROWS, 2 * GROUP_ROWS + 1, count - 1):
        assert opened.metadata_at(row) == rows[row]


def test_an_expression_over_metadata_gives_a_mask() -> None:
    from pyarrow import compute

    index = small(metadata=[{"year": n, "tag": "ab"[n % 2]} for n in range(5)])
    index = index.append(more(range(5, 11))).append(
        more(range(20, 40), metadata=[{"year": n} for n in range(20)])
    )
    year = np.array([*range(5), *[np.nan] * 6, *range(20)])
    mask = index.matching((compute.field("year") > 2) & (compute.field("year") < 8))
    np.testing.assert_array_equal(mask, (year > 2) & (year < 8))
    np.testing.assert_array_equal(index.matching(compute.field("year").is_null()), np.isnan(year))
    tag_a = index.matching(compute.field("tag") == "a")
    assert np.flatnonzero(tag_a).tolist() == [0, 2, 4]
    assert Index(index.header).append(small()).matching(compute.scalar(True)).all()
    for wrong in (compute.field("month") == 3, compute.field("year") == "x", "year > 2"):
        with pytest.raises(engine.InvalidArgument, match="filter: expected"):
            index.matching(wrong)


def test_whole_numbers_that_floats_cannot_hold_are_refused_when_they_are_added(
    tmp_path: Path,
) -> None:
    """Or the segments could never be merged again."""
    index = more([1], metadata=[{"score": 0.5}]).append(more([2], metadata=[{"score": 2**53}]))
    for value in (2**53 + 1, [2**53 + 1]):
        base = more([1], metadata=[{"score": [0.5] if isinstance(value, list) else 0.5}])
        with pytest.raises(engine.InvalidArgument, match=r"metadata: .*column 'score'"):
            base.append(more([3], metadata=[{"score": value}]))
    saved = index.save(tmp_path / "index").compact()
    assert [saved.metadata_at(row) for row in (0, 1)] == [{"score": 0.5}, {"score": float(2**53)}]
