"""Saving again and again: few segments, few deleted rows, no descriptors, the same answers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import Index, changes, merging
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST
from engine.index.mapping import mapping_of
from engine.index.merging import FAN, LEVELS, SMALLEST, Group, grouped
from tests.engine.index.small import assert_same, more, named_by, small


class Sized:
    """A segment of so many bytes, of which `grouped` asks no more."""

    live_count = 1
    saved = True

    def __init__(self, weight: int) -> None:
        self.weight, self.deleted = weight, np.empty(0, np.int64)

    def __len__(self) -> int:
        return 1


@pytest.fixture
def by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_weight", lambda segment: segment.weight)


def saved(weights: list[int], added: int) -> tuple[list[int], int]:
    """The weights of the segments after one more was added and saved, and the bytes written."""
    groups = grouped([Sized(weight) for weight in [*weights, added]])  # type: ignore[misc]
    written = sum(group.weight for group in groups if group.rewritten)
    return [group.weight for group in groups], written


@pytest.mark.parametrize("each", [SMALLEST // 50, SMALLEST // 3, 3 * SMALLEST, 300 * SMALLEST])
@pytest.mark.usefixtures("by_weight")
def test_an_index_that_grows_has_few_segments_and_writes_each_item_once_a_level(
    each: int,
) -> None:
    weights: list[int] = []
    written = most = 0
    for _ in range(800):
        weights, rewritten = saved(weights, each)
        written += rewritten
        most = max(most, len(weights))
    total = sum(weights)
    assert total == 800 * each
    large = SMALLEST * FAN ** (LEVELS - 1)
    assert most <= (FAN - 1) * LEVELS + total / large
    assert written <= LEVELS * total + 800 * SMALLEST


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.usefixtures("by_weight")
def test_segments_of_any_sizes_stay_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights: list[int] = []
    for _ in range(400):
        weights, _ = saved(weights, int(2 ** rng.uniform(4, 30)))
        large = sum(weight >= SMALLEST * FAN ** (LEVELS - 1) for weight in weights)
        assert len(weights) <= 2 * (FAN - 1) * LEVELS + 2 * large


@pytest.mark.usefixtures("by_weight")
def test_what_nothing_is_gained_by_stays_as_it_is() -> None:
    assert saved([5 * SMALLEST, SMALLEST], 100) == ([5 * SMALLEST, SMALLEST, 100], 0)
    assert saved([100 * SMALLEST, *[9] * 6], 9) == ([100 * SMALLEST, *[9] * 7], 0)
    assert saved([100 * SMALLEST, *[9] * 7], 9) == ([100 * SMALLEST, 72], 72)
    assert saved([9, 9], 2 * SMALLEST) == ([18, 2 * SMALLEST], 18)


def grown(place: Path, saves: int, strings: bool = False) -> tuple[Index, Index]:
    """An index of five items that was saved after each of many changes, and the same kept in memory only."""

    def named(ids: list[int]) -> Any:
        return [f"é{id}" for id in ids] if strings else ids

    on_disk = small(named([0, 1, 2, 3, 4])).save(place)
    in_memory = small(named([0, 1, 2, 3, 4]))
    for n in range(1, saves + 1):
        ids = named([-2 * n, 1000 - n])
        new = more(ids, n, metadata=[{"n": n}, None])
        on_disk = on_disk.append(new).without(ids[n % 2 :][:1]).save()
        in_memory = in_memory.append(new).without(ids[n % 2 :][:1])
    return on_disk, in_memory


def items(index: Index) -> list[Any]:
    live = np.arange(index.row_count) if index.live is None else np.flatnonzero(index.live)
    vectors = zip(index.coarse[live].tolist(), index.fine[live].tolist(), strict=True)
    metadata = [index.metadata_at(int(row)) for row in live]
    assert index.rows_of(index.ids_at(live)).tolist() == live.tolist()
    assert index.rank_of(live).tolist() == list(range(len(index)))
    return list(zip(index.ids_at(live), vectors, metadata, strict=True))


@pytest.mark.parametrize("strings", [False, True])
def test_many_small_saves_keep_every_item_in_its_place(
    tmp_path: Path, strings: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "FEWEST_DROPPED", 4)
    on_disk, in_memory = grown(tmp_path / "index", 25, strings)
    assert items(on_disk) == items(in_memory)
    assert len(on_disk.segments) <= FAN
    assert on_disk.row_count < 1.7 * len(on_disk)  # 25 of 55 were removed
    opened = Index.open(tmp_path / "index")
    opened.verify()
    assert_same(opened, on_disk)
    files = {file.name for file in (tmp_path / "index").iterdir()}
    assert files == {MANIFEST, LOCK, *named_by(tmp_path / "index")}


def test_a_copy_is_merged_too_and_the_original_stays(tmp_path: Path) -> None:
    index = small().save(tmp_path / "index")
    for n in range(1, 7):
        index = index.append(more([-n], n)).save()
    before = named_by(tmp_path / "index")
    longer = index.append(more([100], 100)).append(more([101, 102], 101))
    copy = longer.save(tmp_path / "copy")
    assert named_by(tmp_path / "index") == before
    assert len(copy.segments) == 1
    assert items(copy) == items(longer)


def test_replacing_the_same_items_again_and_again_leaves_few_rows(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    for place in (None, tmp_path / "index"):
        r = engine.Retriever.from_embeddings(vectors, ids=list(range(100)))
        if place:
            r.save(place)
        for n in range(12):
            r.add(embeddings=vectors + n, ids=list(range(100)), on_conflict="replace")
            if place:
                r.save()
        assert len(r) == 100
        assert r.index.row_count <= 200
        found = r.search(vectors[:3], 5, mode="exact")
        expected = np.argsort(-(vectors[:3] @ (vectors + 11).T), axis=1, kind="stable")[:, :5]
        assert found.ids == expected.tolist()
        r.close()


def test_few_deleted_rows_of_a_large_index_move_nothing(tmp_path: Path) -> None:
    ones = np.ones((4000, 2), np.float32)
    index = Index.build(ones, ones).save(tmp_path)
    for n in range(12):
        index = index.append(Index.build(ones[:2], ones[:2], ids=[-2 * n - 1, -2 * n - 2])).save()
        index = index.without([-2 * n - 1]).save()
    assert len(index.segments) <= FAN
    assert index.row_count == 4024  # 12 rows are gone, of which 62 would be worth it
    assert len(index) == 4012
    index = index.without(range(40)).save()
    assert index.row_count == 4024  # one segment of which 1 % is deleted


def test_what_is_damaged_is_not_hidden_by_a_new_checksum(tmp_path: Path) -> None:
    index = small().save(tmp_path)
    for n in range(1, 7):
        index = index.append(more([-n], n)).save()
    file = tmp_path / index.segments[2].files["fine"].file
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    index = Index.open(tmp_path)
    for n in range(7, 12):
        index = index.append(more([-n], n)).save()
    assert len(index) == 16
    with pytest.raises(engine.IndexFormatError, match=file.name):
        Index.open(tmp_path).verify()


def test_a_save_that_cannot_open_what_it_wrote_has_published_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.index import directory

    index = small().save(tmp_path)
    before = (tmp_path / MANIFEST).read_bytes()

    def full(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(directory, "map_file", full)
    with pytest.raises(OSError, match="Too many open files"):
        index.append(more([9])).save()
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {MANIFEST, LOCK, *named_by(tmp_path)}


def test_mapped_files_keep_no_descriptor_and_are_unmapped_when_nobody_reads(tmp_path: Path) -> None:
    ones = np.ones((20_000, 8), np.float32)
    Index.build(ones, ones).save(tmp_path)

    def mapped() -> int:
        return sum(
            str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines()
        )

    if not Path("/proc/self/maps").exists():
        pytest.skip("what is mapped is listed on Linux only")
    before = len(os.listdir("/proc/self/fd"))
    opened = [Index.open(tmp_path) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert mapped() == 150  # coarse, fine, ids
    assert mapping_of(opened[0].segments[0].fine) is not None
    view = opened[7].fine[5:]
    del opened
    assert mapped() == 1
    assert view.sum() == 8 * 19_995


@pytest.mark.usefixtures("by_weight")
def test_groups_are_planned_the_same_however_often() -> None:
    weights = [3 * SMALLEST, 7, 8, 9 * SMALLEST, 1, 1]
    groups = grouped([Sized(weight) for weight in weights])  # type: ignore[misc]
    again = grouped([Sized(group.weight) for group in groups])  # type: ignore[misc]
    assert [g.weight for g in groups] == [g.weight for g in again]
    assert all(isinstance(group, Group) for group in groups)
    assert changes.are_many(32, []) and not changes.are_many(31, [])  # noqa: PT018


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_a_file_cut_short_under_a_reader_is_an_error(tmp_path: Path, name: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((5000, 32)).astype(np.float32)
    engine.Retriever.from_embeddings(vectors, coarse_dim=16).save(tmp_path / "index")
    r = engine.Retriever(tmp_path / "index")
    r.search(vectors[:2], 3)
    file = tmp_path / "index" / r.index.segments[0].files[name].file
    os.truncate(file, 4096)
    with pytest.raises(engine.IndexFormatError, match=file.name):
        r.search(vectors[:2], 3)
    file.unlink()  # published away: what is mapped is nobody's but ours
    if name == "coarse":
        assert len(r.search(vectors[:2], 3, mode="exact").ids[0]) == 3
