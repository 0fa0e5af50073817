"""The index directory: round trips, replacement, and damage that must not go unnoticed."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine.index import CheckpointReference, Index, WriterLock
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest


def small(ids: Any = None, **given: Any) -> Index:
    rng = np.random.default_rng(0)
    return Index.build(
        rng.standard_normal((5, 4)).astype(np.float32),
        rng.standard_normal((5, 8)).astype(np.float16),
        ids=ids,
        **given,
    )


def assert_same(one: Index, other: Index) -> None:
    """The same items, live and deleted, in the same rows."""
    assert one.header == other.header
    np.testing.assert_array_equal(one.coarse, other.coarse)
    np.testing.assert_array_equal(one.fine, other.fine)
    assert one.coarse.dtype == other.coarse.dtype
    assert one.fine.dtype == other.fine.dtype
    rows = np.arange(one.row_count)
    assert one.ids_at(rows) == other.ids_at(rows)
    assert [one.metadata_at(row) for row in rows] == [other.metadata_at(row) for row in rows]
    np.testing.assert_array_equal(_live(one), _live(other))
    assert (one.reduction is None) == (other.reduction is None)
    if one.reduction is not None and other.reduction is not None:
        np.testing.assert_array_equal(one.reduction, other.reduction)


def _live(index: Index) -> NDArray[np.bool_]:
    return np.ones(index.row_count, bool) if index.live is None else index.live


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != LOCK}


def named_by(directory: Path) -> set[str]:
    return {stored.file for stored in read_manifest(directory)[0].files}


@pytest.mark.parametrize("ids", [None, [5, -7, 0, 2**62, 9], ["a", "", "ü/ö 😀", "d", "eeee"]])
def test_round_trip(tmp_path: Path, ids: Any) -> None:
    index = small(
        ids,
        metadata=[{"a": 1}, None, {"b": ["ü"]}, None, {}],
        reduction=np.eye(8, 4, dtype=np.float32),
        normalize=True,
    )
    saved = index.save(tmp_path / "index")
    saved.verify()
    assert_same(Index.open(tmp_path / "index"), index)


def test_an_empty_index_and_its_checkpoint_survive(tmp_path: Path) -> None:
    index = Index.empty(4, 8, CheckpointReference("somewhere", "abc"))
    index.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    opened.verify()
    assert_same(opened, index)
    assert opened.checkpoint == CheckpointReference("somewhere", "abc")


def test_saving_over_an_index_replaces_it_and_leaves_open_ones_alone(tmp_path: Path) -> None:
    first = small()
    first.save(tmp_path)
    opened = Index.open(tmp_path)
    second = first.without([0, 3])
    second.save(tmp_path)
    assert_same(opened, first)  # its files are gone from the directory, its mapping is not
    assert_same(Index.open(tmp_path), second)
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK, *named_by(tmp_path)}


def test_saving_an_opened_index_over_itself(tmp_path: Path) -> None:
    small(["a", "b", "c", "d", "e"]).save(tmp_path)
    Index.open(tmp_path).save(tmp_path)
    Index.open(tmp_path).verify()
    assert_same(Index.open(tmp_path), small(["a", "b", "c", "d", "e"]))


def test_a_search_writes_nothing_to_the_files(tmp_path: Path) -> None:
    small().save(tmp_path)
    r = engine.Retriever(tmp_path)
    r.search(np.ones((1, 8), dtype=np.float32), k=1, mode="exact")
    r.index.fine[:] = 0  # a private copy of the page, not the file
    Index.open(tmp_path).verify()


def test_a_failing_save_leaves_the_old_index_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small()
    first.save(tmp_path)
    before = files_of(tmp_path)
    calls = 0
    real = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise OSError("disk full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="disk full"):
        first.without([1]).save(tmp_path)
    assert files_of(tmp_path) == before
    with pytest.raises(OSError, match="disk full"):
        first.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_directory_with_something_else_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(engine.IndexFormatError, match="got something else"):
        small().save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_every_changed_byte_is_noticed_by_verify(tmp_path: Path) -> None:
    small(["a", "b", "c", "d", "e"], metadata=[{"n": n} for n in range(5)]).save(tmp_path)
    for file in sorted(tmp_path.glob("*-*")):
        content = bytearray(file.read_bytes())
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            with pytest.raises(engine.IndexFormatError, match=file.name):
                Index.open(tmp_path).verify()
        file.write_bytes(content)
    Index.open(tmp_path).verify()


def test_every_cut_or_missing_file_is_noticed_when_opening(tmp_path: Path) -> None:
    small(["a", "b", "c", "d", "e"], metadata=[{"n": n} for n in range(5)]).save(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        if file.name == LOCK:
            continue
        content = file.read_bytes()
        for damaged in (content[:-1], content + b"x", b"", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(engine.IndexFormatError):
                Index.open(tmp_path)
            file.write_bytes(content)
    Index.open(tmp_path).verify()


def rewrite(directory: Path, change: Any) -> None:
    """Change the manifest and make its checksum right again."""
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    write_manifest(directory, manifest)


def write_manifest(directory: Path, manifest: Any) -> None:
    """Write a manifest with the checksum that belongs to it."""
    text = json.dumps({**manifest, "checksum": "0" * 64})
    digest = sha256(text.encode()).hexdigest()
    (directory / MANIFEST).write_text(text.replace("0" * 64, digest, 1))


def _set(path: str, value: Any) -> Any:
    def change(manifest: Any) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            manifest = manifest[int(parent) if parent.isdigit() else parent]
        if value is None:
            del manifest[last]
        else:
            manifest[last] = value

    return change


FINE = "segments/0/files/fine/"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 1),
        ("version", 3),
        ("format", "faiss"),
        ("count", 6),
        ("count", True),
        ("count", None),
        ("file_count", 4),
        ("file_count", None),
        ("fine_dim", 9),
        ("coarse_dim", 0),
        ("coarse_dtype", "int8"),
        ("segments", None),
        ("segments", [{}]),
        ("segments/0/rows", -5),
        ("segments/0/files/fine", None),
        ("segments/0/files/ids", None),
        (FINE + "shape", [5, 9]),
        (FINE + "shape", [5, 8.0]),
        (FINE + "dtype", "float32"),
        (FINE + "bytes", None),
        (FINE + "bytes", 81),
        (FINE + "file", "../fine-0123456789ab.bin"),
        (FINE + "file", "/etc/passwd"),
        (FINE + "file", 3),
        ("checkpoint", {"path": "x"}),
        ("quantization", {"scale": 1.0, "clipped": 0, "recall": 1.0}),
        ("normalize", None),
        ("normalize", 1),
    ],
)
def test_a_lying_manifest_is_refused(tmp_path: Path, path: str, value: Any) -> None:
    small().save(tmp_path)
    rewrite(tmp_path, _set("normalize", False))
    Index.open(tmp_path)  # the lie is refused, not the rewriting
    rewrite(tmp_path, _set(path, value))
    before = files_of(tmp_path)
    with pytest.raises(engine.IndexFormatError):
        Index.open(tmp_path)
    with pytest.raises(engine.IndexFormatError):
        small().save(tmp_path)
    assert files_of(tmp_path) == before


def test_a_manifest_changed_without_its_checksum_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text.replace('"normalize": false', '"normalize":  true'))
    with pytest.raises(engine.IndexFormatError, match="checksum"):
        Index.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"format": "hivlp-index"}'])
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(engine.IndexFormatError):
        Index.open(tmp_path)


def test_no_index_there(tmp_path: Path) -> None:
    with pytest.raises(engine.IndexFormatError, match="found none"):
        engine.Retriever(tmp_path / "nothing")
    with pytest.raises(engine.IndexFormatError, match="in memory only"):
        small().verify()


# ---------------------------------------------------------------------- growing and shrinking


def more(ids: Any, seed: int = 1, **given: Any) -> Index:
    rng = np.random.default_rng(seed)
    return Index.build(
        rng.standard_normal((len(ids), 4)).astype(np.float32),
        rng.standard_normal((len(ids), 8)).astype(np.float16),
        ids=ids,
        **given,
    )


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
    assert [opened.ids_at(np.flatnonzero(opened.live))] == [[0, 2, 3, 4, 5]]
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
    live = np.flatnonzero(index.live)
    compact = index.compact()
    assert len(compact.segments) == 1
    assert compact.live is None
    assert_same(compact, Index.open(tmp_path) if saved else compact)
    assert compact.ids_at(np.arange(len(compact))) == index.ids_at(live)
    assert [compact.metadata_at(row) for row in range(len(compact))] == [
        index.metadata_at(row) for row in live
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
    ids = index.ids_at(np.flatnonzero(index.live))
    assert len(set(ids)) == len(ids) == len(index)


def test_strings_of_one_key_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if BLAKE2b had only four digests."""
    from engine.index import index as module
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
    for wrong in ({"n": "one"}, {"n": 1.5}, {"tags": [1]}, {"deep": 1}, {"deep": {"b": 2}}):
        with pytest.raises(engine.InvalidArgument, match=f"column '{next(iter(wrong))}'"):
            index.append(more([7], metadata=[wrong]))


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
    assert index.emptied().append(small()).matching(compute.scalar(True)).all()
    for wrong in (compute.field("month") == 3, compute.field("year") == "x", "year > 2"):
        with pytest.raises(engine.InvalidArgument, match="filter: expected"):
            index.matching(wrong)


# ---------------------------------------------------------------------- one writer


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    index = small().save(tmp_path)
    before = files_of(tmp_path)
    lock = WriterLock.take(tmp_path)
    with pytest.raises(engine.IndexLocked, match=f'"pid": {os.getpid()}'):
        index.without([0]).save()
    with pytest.raises(engine.IndexLocked):
        index.without([0]).compact()
    assert files_of(tmp_path) == before
    assert len(index.without([0]).save(lock=lock)) == 4
    lock.release()
    Index.open(tmp_path).without([1]).save()
    assert len(Index.open(tmp_path)) == 3


def test_who_opened_an_older_state_cannot_publish(tmp_path: Path) -> None:
    first = small().save(tmp_path)
    first.without([0]).save()
    before = files_of(tmp_path)
    with pytest.raises(engine.IndexChanged, match="refresh"):
        first.without([1]).save()
    with pytest.raises(engine.IndexChanged, match="refresh"):
        first.without([1]).compact()
    assert files_of(tmp_path) == before
    fresh = first.refreshed()
    assert fresh.segments[0].fine is first.segments[0].fine  # not mapped again
    assert fresh.without([1]).save().ids_at(np.array([2])) == [2]


def test_a_lock_is_let_go_when_nobody_has_it_any_more(tmp_path: Path) -> None:
    lock = WriterLock.take(tmp_path)
    with pytest.raises(engine.IndexLocked):
        WriterLock.take(tmp_path)
    del lock
    WriterLock.take(tmp_path).release()


def test_what_a_failed_first_save_leaves_does_not_hinder_the_next(tmp_path: Path) -> None:
    (tmp_path / "coarse-0123456789ab.bin").write_bytes(b"half")
    (tmp_path / f"{MANIFEST}.0123456789ab").write_bytes(b"half")
    with pytest.raises(engine.IndexFormatError, match="found none"):
        Index.open(tmp_path)
    small().save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK, *named_by(tmp_path)}


def test_a_reader_whose_files_vanish_while_it_opens_reads_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.index import directory

    first = small().save(tmp_path)
    real, changed = directory.map_file, []

    def mapped(*arguments: Any) -> Any:
        if not changed:
            changed.append(True)
            first.append(more([5])).compact()
        return real(*arguments)

    monkeypatch.setattr(directory, "map_file", mapped)
    assert len(Index.open(tmp_path)) == 6
    (tmp_path / read_manifest(tmp_path)[0].segments[0].files["fine"].file).unlink()
    with pytest.raises(engine.IndexFormatError, match="expected, found none"):
        Index.open(tmp_path)
