"""The index directory: round trips, replacement, and damage that must not go unnoticed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import CheckpointReference, Index
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST
from tests.engine.index.small import (
    assert_same,
    files_of,
    named_by,
    small,
    write_manifest,
)


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
    with pytest.raises(
        engine.InvalidArgument, match=r"path: .*another index of 5 items.*overwrite=True"
    ):
        second.save(tmp_path)
    assert_same(Index.open(tmp_path), first)
    second.save(tmp_path, overwrite=True)
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
        first.without([1]).save(tmp_path, overwrite=True)
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
        ("version", 4),
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
    with pytest.raises(
        engine.IndexFormatError, match=r"expected a directory with a manifest.json, got none"
    ):
        engine.Retriever(tmp_path / "nothing")
    with pytest.raises(engine.InvalidArgument, match=r"verify: .*in memory only"):
        small().verify()


OPENED = """
import sys, numpy
from engine.index import Index
index = Index.open(sys.argv[1])
index.verify()
assert index.rows_of(["b"]).tolist() == [1]
assert len(index.without(["a"])) == 4
assert not {"torch", "pyarrow", "triton", "transformers"} & set(sys.modules), sorted(sys.modules)
"""


def test_opening_finding_and_verifying_need_numpy_only(tmp_path: Path) -> None:
    small(["a", "b", "c", "d", "e"], metadata=[{"n": n} for n in range(5)]).save(tmp_path)
    command = [sys.executable, "-W", "error", "-c", OPENED, str(tmp_path)]
    child = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr


def test_an_index_without_its_checkpoint_is_searched_by_vectors_only(tmp_path: Path) -> None:
    gone = CheckpointReference(str(tmp_path / "gone"), "abc")
    index = Index.empty(4, 8, gone)
    one = Index.build(np.ones((1, 4), np.float32), np.ones((1, 8), np.float32), ids=["a"])
    index.append(one).save(tmp_path / "index")
    before = files_of(tmp_path / "index")
    r = engine.Retriever(tmp_path / "index")
    with pytest.raises(engine.CheckpointError, match="gone"):
        r.search("a dog")
    with pytest.raises(engine.CheckpointError, match="gone"):
        r.add(["a dog"], ids=["b"])
    assert r.search(np.ones((1, 8), np.float32), 1, mode="exact").ids == [["a"]]
    assert files_of(tmp_path / "index") == before
