"""The index directory: round trips, replacement, and damage that must not go unnoticed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import CheckpointReference, Index
from engine.index_files import MANIFEST


def small(ids: Any = None, **given: Any) -> Index:
    rng = np.random.default_rng(0)
    return Index.build(
        rng.standard_normal((5, 4)).astype(np.float32),
        rng.standard_normal((5, 8)).astype(np.float16),
        ids=ids,
        **given,
    )


def assert_same(one: Index, other: Index) -> None:
    np.testing.assert_array_equal(one.coarse, other.coarse)
    np.testing.assert_array_equal(one.fine, other.fine)
    assert one.coarse.dtype == other.coarse.dtype
    assert one.fine.dtype == other.fine.dtype
    rows = np.arange(len(one))
    assert one.ids_at(rows) == other.ids_at(rows)
    assert [one.metadata_at(row) for row in rows] == [other.metadata_at(row) for row in rows]
    assert (one.normalize, one.checkpoint) == (other.normalize, other.checkpoint)
    assert (one.reduction is None) == (other.reduction is None)
    if one.reduction is not None:
        np.testing.assert_array_equal(one.reduction, other.reduction)


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
    named = {
        entry["file"] for entry in json.loads((tmp_path / MANIFEST).read_text())["files"].values()
    }
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, *named}


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
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
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
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
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
    for file in sorted(tmp_path.glob("*.bin")):
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
    small().save(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for damaged in (content[:-1], content + b"x", b"", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(engine.IndexFormatError):
                Index.open(tmp_path)
            file.write_bytes(content)
    Index.open(tmp_path).verify()


def _change(manifest: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for parent in parents:
        manifest = manifest[parent]
    if value is None:
        del manifest[last]
    else:
        manifest[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("format", "faiss"),
        ("count", 6),
        ("count", None),
        ("fine_dim", 9),
        ("files", None),
        ("files/fine", None),
        ("files/ids", None),
        ("files/fine/shape", [5, 9]),
        ("files/fine/dtype", "float32"),
        ("files/fine/bytes", None),
        ("files/fine/file", "../fine.npy"),
        ("files/fine/file", "/etc/passwd"),
        ("files/fine/file", 3),
        ("checkpoint", {"path": "x"}),
        ("normalize", None),
    ],
)
def test_a_lying_manifest_is_refused(tmp_path: Path, path: str, value: Any) -> None:
    small().save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    _change(manifest, path, value)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(engine.IndexFormatError):
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
