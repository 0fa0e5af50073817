"""Ids over several sources and several runs: no picture lost under another's name, none indexed twice."""

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import engine
from engine.building import Built, build_index, naming
from engine.images import read_image
from tests.conftest import PICTURES
from tests.engine.building.skipped import skipped_of

FILES = [path.read_bytes() for path in sorted((PICTURES / "noto").glob("*.webp"))[:6]]


@pytest.fixture(scope="module")
def encoder(untrained: Path) -> engine.Encoder:
    return engine.open_encoder(untrained)


def folder(place: Path, **pictures: bytes) -> Path:
    """A folder with `name`.webp for each."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (place / f"{name}.webp").write_bytes(content)
    return place


def tar(file: Path, *samples: tuple[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for key, content in samples:
            info = tarfile.TarInfo(f"{key}.webp")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def table(file: Path, *rows: tuple[str, bytes], **columns: Any) -> Path:
    """As `datasets` writes it: bytes, and the picture's file name without its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    held = [{"bytes": content, "path": name} for name, content in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"image": pa.array(held, kind), **columns}), file)
    return file


def assert_holds(index: engine.Index, expected: dict[str, int], encoder: engine.Encoder) -> None:
    """These ids in this order, each with the vector of its picture of `FILES`."""
    rows = np.arange(len(index))
    assert index.ids_at(rows) == list(expected)
    for row, number in enumerate(expected.values()):
        own = encoder.encode_images([read_image(FILES[number])])
        np.testing.assert_allclose(index.fine[row], own.fine[0].numpy(), atol=1e-5)


def counts(report: Built) -> tuple[int, int, int]:
    return report.indexed, report.held, report.skipped


def test_a_second_folder_with_the_same_names(encoder: engine.Encoder, tmp_path: Path) -> None:
    first = folder(tmp_path / "a", cat=FILES[0], dog=FILES[1])
    second = folder(tmp_path / "b", cat=FILES[2], cow=FILES[3])
    output = tmp_path / "index"
    assert counts(build_index([first], output, encoder)) == (2, 0, 0)
    assert counts(build_index([second], output, encoder)) == (2, 0, 0)
    expected = {"cat.webp": 0, "dog.webp": 1, "b/cat.webp": 2, "cow.webp": 3}
    assert_holds(engine.Index.open(output), expected, encoder)
    # every source finds its own again, in any order, also by another path
    for again in ([second], [first], [tmp_path / "a" / ".." / "b"], [first, second]):
        assert counts(build_index(again, output, encoder))[::2] == (0, 0)
    # a name that one source has only now, and another has had all along
    folder(first, cow=FILES[4])
    folder(second, dog=FILES[5])
    assert counts(build_index([first], output, encoder)) == (1, 2, 0)
    assert counts(build_index([second], output, encoder)) == (1, 2, 0)
    expected |= {"a/cow.webp": 4, "b/dog.webp": 5}
    assert_holds(engine.Index.open(output), expected, encoder)


def test_folders_of_one_name(encoder: engine.Encoder, tmp_path: Path) -> None:
    """As much of the path as it takes."""
    output = tmp_path / "index"
    for number in range(3):
        place = folder(tmp_path / f"camera{number}" / "day", cat=FILES[number])
        assert counts(build_index([place], output, encoder)) == (1, 0, 0)
    expected = {"cat.webp": 0, "day/cat.webp": 1, "camera2/day/cat.webp": 2}
    assert_holds(engine.Index.open(output), expected, encoder)
    for number in range(3):
        place = tmp_path / f"camera{number}" / "day"
        assert counts(build_index([place], output, encoder)) == (0, 1, 0)


def test_nothing_held_is_encoded_again(
    encoder: engine.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the record of what came from where; it moves with the index. Ids that are numbers, too."""
    sources = [folder(tmp_path / name, cat=FILES[n]) for n, name in enumerate("ab")]
    numbered = table(tmp_path / "c.parquet", ("a", FILES[2]), id=[7])
    build_index([numbered], tmp_path / "numbered", encoder)
    for source in sources:
        build_index([source], tmp_path / "index", encoder)
    (tmp_path / "index").rename(tmp_path / "moved")
    opened: list[Any] = []
    own = engine.images.open_image
    monkeypatch.setattr("engine.images.open_image", lambda s: opened.append(s) or own(s))  # type: ignore[func-returns-value]
    for source in sources:
        assert counts(build_index([source], tmp_path / "moved", encoder)) == (0, 1, 0)
    assert counts(build_index([numbered], tmp_path / "numbered", encoder)) == (0, 1, 0)
    assert opened == []


@pytest.mark.parametrize("record", ["gone", "torn", "of another index", "a pipe"])
def test_a_record_that_lacks_costs_time_alone(
    record: str, encoder: engine.Encoder, tmp_path: Path
) -> None:
    sources = [folder(tmp_path / name, cat=FILES[n], dog=FILES[3]) for n, name in enumerate("ab")]
    output, other = tmp_path / "index", tmp_path / "other"
    for source in sources:
        build_index([source], output, encoder)
    third = folder(tmp_path / "c", cat=FILES[2])
    file = output / naming.FILE
    if record == "torn":
        file.write_bytes(file.read_bytes()[:-7])
    elif record == "of another index":
        changed = folder(tmp_path / "changed" / "a", cat=FILES[4], dog=FILES[5])
        build_index([changed], other, encoder)
        shutil.rmtree(tmp_path / "a")
        shutil.copytree(changed, tmp_path / "a")
        shutil.copy(other / naming.FILE, file)
    else:
        file.unlink()
        if record == "a pipe":  # opening it must not wait
            os.mkfifo(file)
    expected = {"cat.webp": 0, "dog.webp": 3, "b/cat.webp": 1}
    if record == "of another index":
        assert counts(build_index([sources[0]], output, encoder)) == (2, 0, 0)
        expected |= {"a/cat.webp": 4, "a/dog.webp": 5}
    else:
        assert counts(build_index([sources[0]], output, encoder)) == (0, 2, 0)
    assert counts(build_index([sources[1]], output, encoder)) == (0, 2, 0)
    assert counts(build_index([third], output, encoder)) == (1, 0, 0)
    assert_holds(engine.Index.open(output), expected | {"c/cat.webp": 2}, encoder)


def test_a_folder_that_was_moved(encoder: engine.Encoder, tmp_path: Path) -> None:
    """The same names with the same pictures are what the index holds."""
    source = folder(tmp_path / "a", cat=FILES[0], dog=FILES[1])
    build_index([source], tmp_path / "index", encoder)
    source.rename(tmp_path / "elsewhere")
    for _ in range(2):
        report = build_index([tmp_path / "elsewhere"], tmp_path / "index", encoder)
        assert counts(report) == (0, 2, 0)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_one_of_several_folders_and_alone(
    together: bool, moved: bool, encoder: engine.Encoder, tmp_path: Path
) -> None:
    """Two folders are indexed with their names before the ids, one is without: no item comes twice."""
    place, output = tmp_path / "here", tmp_path / "index"
    folder(place / "a", cat=FILES[0], dog=FILES[1])
    folder(place / "b", cat=FILES[2], cow=FILES[1])
    several = ["a", "b"]
    first, then = (several, ["a"]) if together else (["a"], several)
    build_index([place / name for name in first], output, encoder)
    if moved:
        place = place.rename(tmp_path / "there")
    else:
        (output / naming.FILE).unlink()
    for segment in (1, 100):
        report = build_index([place / name for name in then], output, encoder, segment=segment)
    own = {"a/cat.webp": 0, "a/dog.webp": 1} if together else {"cat.webp": 0, "dog.webp": 1}
    assert_holds(report.index, own | {"b/cat.webp": 2, "b/cow.webp": 1}, encoder)
    assert counts(report) == (0, 2 * len(then), 0)


def test_a_folder_that_got_a_longer_name(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Its ids stay, though shorter ones have become free and the record is lost."""
    places = [
        folder(tmp_path / f"camera{number}" / "day", cat=FILES[number]) for number in range(3)
    ]
    for place in places:
        build_index([place], tmp_path / "index", encoder)
    with engine.Retriever(tmp_path / "index", encoder) as retriever:
        retriever.remove(["cat.webp", "day/cat.webp"])
        retriever.save()
    (tmp_path / "index" / naming.FILE).unlink()
    report = build_index(places[2:], tmp_path / "index", encoder)
    assert counts(report) == (0, 1, 0)
    assert len(report.index) == 1


def test_a_key_twice_without_a_record(encoder: engine.Encoder, tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", ("k", FILES[0]), ("l", FILES[1]), ("k", FILES[2]))
    build_index([shard], tmp_path / "index", encoder)
    for segment in (1, 100):
        (tmp_path / "index" / naming.FILE).unlink()
        report = build_index([shard], tmp_path / "index", encoder, segment=segment)
        assert counts(report) == (0, 3, 0)


@pytest.mark.parametrize("together", [False, True])
def test_shards_whose_keys_begin_again(
    together: bool, encoder: engine.Encoder, tmp_path: Path
) -> None:
    shards = [
        tar(tmp_path / "x" / "0.tar", ("000", FILES[0]), ("001", FILES[1])),
        tar(tmp_path / "x" / "1.tar", ("000", FILES[2]), ("001", FILES[3])),
        tar(tmp_path / "y" / "1.tar", ("000", FILES[4]), ("002", FILES[5])),
    ]
    expected = {"000": 0, "001": 1, "1/000": 2, "1/001": 3, "y/1/000": 4, "002": 5}
    for runs in range(2):
        for paths in [shards] if together else [[shard] for shard in shards]:
            report = build_index(paths, tmp_path / "index", encoder, segment=2)
            added = 0 if runs else 2 * len(paths)
            assert counts(report) == (added, 2 * len(paths) - added, 0)
    assert_holds(engine.Index.open(tmp_path / "index"), expected, encoder)


def test_parquet_that_keeps_base_names(encoder: engine.Encoder, tmp_path: Path) -> None:
    """cat/000.jpg and dog/000.jpg are both 000.jpg; so in the next file."""
    files = [
        table(tmp_path / f"{n}.parquet", *(("000.jpg", FILES[2 * n + row]) for row in range(2)))
        for n in range(3)
    ]
    report = build_index(files[:2], tmp_path / "index", encoder, segment=1)
    assert counts(report) == (4, 0, 0)
    assert counts(build_index(files[2:], tmp_path / "index", encoder)) == (2, 0, 0)
    assert counts(build_index(files, tmp_path / "index", encoder)) == (0, 6, 0)
    names = ["000.jpg", "000.jpg:2", "1/000.jpg", "1/000.jpg:2", "2/000.jpg", "2/000.jpg:2"]
    assert_holds(
        engine.Index.open(tmp_path / "index"), {name: n for n, name in enumerate(names)}, encoder
    )


def test_captions_files(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Two in one folder that name the same picture, and one in another."""
    first = folder(tmp_path / "a", cat=FILES[0])
    second = folder(tmp_path / "b", cat=FILES[1])
    for place, name in ((first, "x"), (first, "y"), (second, "x")):
        (place / f"{name}.jsonl").write_text('{"image": "cat.webp", "caption": "a cat"}\n')
    paths = [first / "x.jsonl", first / "y.jsonl", second / "x.jsonl"]
    report = build_index(paths, tmp_path / "index", encoder)
    assert_holds(report.index, {"cat.webp": 0, "b/cat.webp": 1}, encoder)
    (line,) = skipped_of(report)
    assert line["place"] == f"{paths[1]}:1"
    assert line["why"] == (
        f"expected an id of its own, got that of {paths[0]}:1. Rename one of them, or leave this one out."
    )
    for path in (*paths, first, second / "cat.webp"):
        assert counts(build_index([path], tmp_path / "index", encoder)) == (0, 1, 0)


def test_duplicates_are_listed_with_both_places(encoder: engine.Encoder, tmp_path: Path) -> None:
    """One key twice in a tar, also in segments apart; one source twice; a copy of it."""
    shard = tar(tmp_path / "a.tar", ("k", FILES[0]), ("l", FILES[1]), ("k", FILES[2]))
    for segment in (1, 100):
        report = build_index([shard], tmp_path / f"{segment}", encoder, segment=segment)
        assert_holds(report.index, {"k": 0, "l": 1}, encoder)
        (line,) = skipped_of(report)
        assert (line["id"], line["place"]) == ("k", f"{shard}:k")
        assert "expected an id of its own, got that of " in line["why"]
        assert str(shard) in line["why"]
    copy = tmp_path / "b.tar"
    shutil.copy(tar(shard, ("k", FILES[0])), copy)
    report = build_index([shard, shard, copy], tmp_path / "twice", encoder)
    assert counts(report) == (1, 0, 2)
    assert [line["place"] for line in skipped_of(report)] == [f"{shard}:k", f"{copy}:k"]
    assert all(f"got that of {shard}:k" in line["why"] for line in skipped_of(report))


def test_numbers_have_no_other_spelling(encoder: engine.Encoder, tmp_path: Path) -> None:
    """An id column of integers in two files: what collides is listed, never said to be there already."""
    first = table(tmp_path / "a.parquet", ("a", FILES[0]), ("b", FILES[1]), id=[1, 2])
    second = table(tmp_path / "b.parquet", ("a", FILES[2]), ("b", FILES[3]), id=[2, 3])
    assert counts(build_index([first], tmp_path / "index", encoder)) == (2, 0, 0)
    report = build_index([second], tmp_path / "index", encoder)
    assert counts(report) == (1, 0, 1)
    (line,) = skipped_of(report)
    assert line["place"] == f"{second}, row 1"
    assert "expected an id of its own, got that of another picture" in line["why"]
    assert report.index.ids_at(np.arange(3)) == [1, 2, 3]
    assert counts(build_index([first], tmp_path / "index", encoder)) == (0, 2, 0)


def test_vectors_made_elsewhere(tmp_path: Path) -> None:
    """clip-retrieval's folders with the same paths in them."""
    given = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
    for number, vectors in enumerate(given):
        place = tmp_path / f"made{number}"
        (place / "img_emb").mkdir(parents=True)
        (place / "metadata").mkdir()
        np.save(place / "img_emb" / "img_emb_0.npy", vectors)
        names = {"image_path": [f"{row}.jpg" for row in range(5)]}
        parquet.write_table(pa.table(names), place / "metadata" / "metadata_0.parquet")
    for expected in ((5, 0, 0), (0, 5, 0)):
        for number in range(2):
            report = build_index([tmp_path / f"made{number}"], tmp_path / "index")
            assert counts(report) == expected
    np.testing.assert_array_equal(report.index.fine, given.reshape(10, 12))
    assert report.index.ids_at(np.array([0, 4, 5, 9])) == [
        "0.jpg",
        "4.jpg",
        "made1/0.jpg",
        "made1/4.jpg",
    ]


def test_items_that_python_added(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Under a name of their own: a picture of that name is another one."""
    with engine.Retriever.from_pretrained(encoder) as retriever:
        retriever.add([read_image(FILES[5])], ids=["cat.webp"])
        retriever.save(tmp_path / "index")
    source = folder(tmp_path / "a", cat=FILES[0])
    assert counts(build_index([source], tmp_path / "index", encoder)) == (1, 0, 0)
    assert counts(build_index([source], tmp_path / "index", encoder)) == (0, 1, 0)
    expected = {"cat.webp": 5, "a/cat.webp": 0}
    assert_holds(engine.Index.open(tmp_path / "index"), expected, encoder)


def test_a_killed_run_gives_the_same_ids(
    encoder: engine.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the save of the index and the record of it; before the next source."""
    shards = [
        tar(tmp_path / f"{n}.tar", *((f"{key}", FILES[2 * n + key]) for key in range(2)))
        for n in range(3)
    ]

    class Stop(Exception):
        pass

    own, calls = naming.Names.note, 0

    def stopping(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stop
        own(*arguments)

    monkeypatch.setattr(naming.Names, "note", stopping)
    with pytest.raises(Stop):
        build_index(shards, tmp_path / "index", encoder, segment=1)
    report = build_index(shards, tmp_path / "index", encoder, segment=1)
    assert report.resumed == 3
    expected = {"0": 0, "1": 1, "1/0": 2, "1/1": 3, "2/0": 4, "2/1": 5}
    assert_holds(report.index, expected, encoder)
    assert counts(build_index(shards, tmp_path / "index", encoder)) == (0, 6, 0)


def test_names_that_nothing_can_store(encoder: engine.Encoder, tmp_path: Path) -> None:
    """In a folder, a tar, a captions file; the others are indexed."""
    source = folder(tmp_path / "a", cat=FILES[0])
    os.close(os.open(os.fsencode(source) + b"/caf\xe9.webp", os.O_CREAT))
    report = build_index([source], tmp_path / "folder", encoder)
    assert counts(report) == (1, 0, 1)
    assert "expected a name in UTF-8" in skipped_of(report)[0]["why"]
    shard = tar(tmp_path / "a.tar", ("caf\udce9", FILES[0]), ("k", FILES[1]))
    assert counts(build_index([shard], tmp_path / "tar", encoder)) == (1, 0, 1)
    (source / "captions.jsonl").write_text(
        '{"image": "\\ud83d.webp"}\n{"image": "a\\u0000b.webp"}\n'
        '{"image": "cat.webp", "caption": "fun \\ud83d", "\\ud83dkey": "x\\ud83d"}\n'
    )
    report = build_index([source], tmp_path / "captions", encoder)
    assert counts(report) == (1, 0, 2)
    assert report.index.metadata_at(0) == {"captions": ["fun ?"], "?key": "x?"}


def test_what_looks_alike_is_not_the_same(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Two cameras' frames of one scene, a few grey values apart."""
    noise = np.random.default_rng(0).integers(0, 200, (64, 64, 3), dtype=np.uint8)
    for number in range(2):
        place = tmp_path / f"{number}"
        place.mkdir()
        Image.fromarray(noise + np.uint8(3 * number)).save(place / "frame.png")
        assert counts(build_index([place], tmp_path / "index", encoder)) == (1, 0, 0)
