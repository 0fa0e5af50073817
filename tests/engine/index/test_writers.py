"""One writer, and readers that meet what it has published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import Index, WriterLock
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest
from tests.engine.index.small import files_of, more, named_by, small

# ---------------------------------------------------------------------- one writer


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    index = small().save(tmp_path)
    before = files_of(tmp_path)
    lock = WriterLock.take(tmp_path)
    with pytest.raises(engine.IndexLocked, match=r"this process itself.*close\(\)"):
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


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """It would be emptied: of an index from a stranger it may name any file of ours."""
    place, ours = tmp_path / "index", tmp_path / "ours"
    index = small().save(place)
    ours.write_text("kept")
    (place / LOCK).unlink()
    (place / LOCK).symlink_to(ours)
    with pytest.raises(engine.IndexFormatError, match="lock: expected a regular file, got a link"):
        index.without([0]).save()
    assert ours.read_text() == "kept"


def test_one_directory_by_several_names_is_one_index(tmp_path: Path) -> None:
    place, link = tmp_path / "index", tmp_path / "link"
    engine.Retriever(small()).save(place)
    link.symlink_to(place)
    with engine.Retriever(link) as r:
        r.remove([0])
        r.save(tmp_path / "index" / ".." / "index")
        r.remove([1])
        r.save(place)
        assert r.index.path == link
        assert not r.index.unsaved
        r.remove([2])
        r.save()
    index = Index.open(place)
    assert index.ids_at(np.flatnonzero(index.live)) == [3, 4]  # type: ignore[arg-type]


def test_what_a_failed_first_save_leaves_does_not_hinder_the_next(tmp_path: Path) -> None:
    (tmp_path / "coarse-0123456789ab.bin").write_bytes(b"half")
    (tmp_path / f"{MANIFEST}.0123456789ab").write_bytes(b"half")
    with pytest.raises(
        engine.IndexFormatError, match=r"expected a directory with a manifest.json, got none"
    ):
        Index.open(tmp_path)
    small().save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK, *named_by(tmp_path)}


def test_a_reader_whose_files_vanish_while_it_opens_reads_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.index import directory

    first = small().save(tmp_path)
    real, changed = directory.map_file, []  # type: ignore[var-annotated]

    def mapped(*arguments: Any) -> Any:
        if not changed:
            changed.append(True)
            first.append(more([5])).compact()
        return real(*arguments)

    monkeypatch.setattr(directory, "map_file", mapped)
    assert len(Index.open(tmp_path)) == 6
    (tmp_path / read_manifest(tmp_path)[0].segments[0].files["fine"].file).unlink()
    with pytest.raises(
        engine.IndexFormatError, match="expected a file that the manifest names, got none"
    ):
        Index.open(tmp_path)
