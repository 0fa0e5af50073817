"""`build_index`: every kind of source, what is left out, several sources, adding to an index."""

import datetime
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import save_file

import engine
from engine.building import build, build_index, encoding
from engine.building.kinds import BEYOND, Kinds
from engine.images import read_image
from engine.reading.folders import Folder
from tests.conftest import PICTURES
from tests.engine.building.skipped import skipped_of

NAMES = [path.name for path in sorted((PICTURES / "noto").glob("*.webp"))[:9]]


@pytest.fixture(scope="module")
def encoder(untrained: Path) -> engine.Encoder:
    return engine.open_encoder(untrained)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures, some of them in sub-folders that sort between the others."""
    place = tmp_path / "pictures"
    for number, name in enumerate(NAMES):
        target = place / ("1f5" if number % 3 == 1 else "") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PICTURES / "noto" / name, target)
    return place


def content(name: str) -> bytes:
    return (PICTURES / "noto" / name).read_bytes()


def fine_of(index: engine.Index) -> NDArray[np.float32]:
    return np.asarray(index.fine)[index.live if index.live is not None else slice(None)]


def assert_holds(
    index: engine.Index, expected: dict[str | int, str], encoder: engine.Encoder
) -> None:
    """These ids in this order, and of each the vectors of the picture of this name, encoded one by one."""
    assert list(index.ids_at(np.arange(len(index)))) == list(expected)
    for row, name in enumerate(expected.values()):
        own = encoder.encode_images([read_image(content(name))])
        np.testing.assert_allclose(index.fine[row], own.fine[0].numpy(), atol=1e-5)
        assert own.coarse is not None
        np.testing.assert_allclose(index.coarse[row], own.coarse[0].numpy(), atol=1e-5)


def test_a_folder(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("not a picture")
    report = build_index([folder], tmp_path / "new" / "index", encoder)
    ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.webp"))
    assert_holds(report.index, {id: Path(id).name for id in ids}, encoder)
    assert (report.indexed, report.held, report.skipped, report.resumed) == (9, 0, 0, 0)
    assert report.listed is None
    opened = engine.Index.open(tmp_path / "new" / "index")
    assert opened.ids_at(np.arange(9)) == ids
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index"]


def test_folders_nested_deeply(tmp_path: Path) -> None:
    """Deeper than Python's calls; in order of their paths."""
    place, at = tmp_path / "a", os.open(tmp_path, os.O_RDONLY)
    names = ["a", *["d"] * 1200]
    for name in names:
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("x.png", os.O_CREAT, dir_fd=at))
    os.close(at)
    for name in ("a.png", "e.png"):
        (place / name).touch()
    try:
        found = [record.name for record in Folder(place).records()]
    finally:  # shutil, by which pytest would, recurses
        subprocess.run(["rm", "-r", place], check=True)
    assert found == ["a.png", "d/" * 1200 + "x.png", "e.png"]


def test_links_to_folders(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    """Not walked where they lead to what is read: to the folder itself, to one in it. Else followed, once."""
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(PICTURES / "noto" / NAMES[0], outside / "x.webp")
    (outside / "loop").symlink_to(outside)
    for name in ("again", "again.png"):
        (folder / name).symlink_to(folder)
    for name in ("far", "farther"):
        (folder / name).symlink_to(outside)
    report = build_index([folder], tmp_path / "index", encoder)
    assert (report.indexed, report.skipped) == (10, 4)
    names = ["again", "again.png", "far/loop", "farther"]
    assert [line["id"] for line in skipped_of(report)] == names
    assert "far/x.webp" in map(str, report.index.ids)
    assert all("got a link to a folder" in line["why"] for line in skipped_of(report))
    # beside shards such a link is no picture either
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "again").symlink_to(shards)
    shard(shards / "0.tar", {"k": {"webp": content(NAMES[0])}})
    assert build_index([shards], tmp_path / "second", encoder).indexed == 1


def test_what_cannot_be_read_is_listed(
    folder: Path, encoder: engine.Encoder, tmp_path: Path
) -> None:
    (folder / "aaa.png").write_bytes(content(NAMES[0])[:100])
    (folder / "bbb.jpg").write_bytes(b"")
    (folder / "ccc.JXL").write_bytes(b"jxl")
    (folder / "ddd.webp").symlink_to(folder / "nowhere")
    report = build_index([folder], tmp_path / "new" / "index", encoder)
    assert (report.indexed, report.skipped) == (9, 4)
    lines = skipped_of(report)
    assert [line["id"] for line in lines] == ["aaa.png", "bbb.jpg", "ccc.JXL", "ddd.webp"]
    assert all(line["place"] == str(folder / line["id"]) for line in lines)
    whys = ("a whole JPEG", "got something else", "got .jxl. Convert it.", "No such file")
    assert all(why in line["why"] for why, line in zip(whys, lines, strict=True))


def test_nothing_can_be_read(encoder: engine.Encoder, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"no")
    with pytest.raises(
        engine.DatasetError,
        match=r"something can be indexed, got none; left out: 1, .*a\.png: expected a JPEG",
    ):
        build_index([tmp_path / "pictures"], tmp_path / "index", encoder)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_captions_files(kind: str, folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    """A row a caption; one picture is missing, one path leaves the folder."""
    rows: list[dict[str, Any]] = [
        {"image": NAMES[0], "caption": "one", "year": "2001"},
        {"image": NAMES[0], "caption": "two, too", "year": "2001"},
        {"image": "gone.webp", "caption": "gone", "year": "2002"},
        {"image": "../" + NAMES[0], "caption": "out", "year": "2003"},
        {"image": f"1f5/{NAMES[1]}", "caption": "", "year": "2004"},
    ]
    file = folder / f"captions.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    else:
        mark, quote = ("\t", "") if kind == "tsv" else (",", '"')
        quoted = ([f"{quote}{value}{quote}" for value in row.values()] for row in rows)
        lines = [mark.join(rows[0]), *map(mark.join, quoted)]
        file.write_text("﻿" + "\n".join(lines) + "\n")
    expected = {NAMES[0]: NAMES[0], f"1f5/{NAMES[1]}": NAMES[1]}
    for source in (folder, file):
        output = tmp_path / f"{source.name}.index"
        report = build_index([source], output, encoder)
        assert_holds(report.index, dict(expected), encoder)  # type: ignore[arg-type]
        typed = int if kind in ("csv", "tsv") else str  # where all there is is text
        said = {"captions": ["one", "two, too"], "year": typed("2001")}
        assert report.index.metadata_at(0) == said
        assert report.index.metadata_at(1) == {"year": typed("2004")}
        gone, out = skipped_of(report)
        assert gone["id"] == "gone.webp"
        assert "No such file" in gone["why"]
        assert "expected a path inside the folder" in out["why"]


def test_rows_that_cannot_be_used(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    whole = json.dumps({"image": NAMES[0], "licence": "MIT", "splits": {"a": "b"}, "n": 1 << 70})
    (folder / "captions.jsonl").write_text(
        f'{whole}\n{{"image": \n[1]\n{{"caption": "no picture"}}\n\n'
    )
    report = build_index([folder], tmp_path / "index", encoder)
    assert_holds(report.index, {NAMES[0]: NAMES[0]}, encoder)
    assert report.index.metadata_at(0) == {"licence": "MIT"}
    places = [line["place"].rpartition(":")[2] for line in skipped_of(report)]
    assert places == ["2", "3", "4"]


@pytest.mark.parametrize("form", ["struct", "bytes", "path"])
@pytest.mark.parametrize("named", [False, True])
def test_parquet(
    form: str, named: bool, folder: Path, encoder: engine.Encoder, tmp_path: Path
) -> None:
    """As Hugging Face `datasets` writes it, as plain bytes, and as paths; in row groups of four."""
    rows = []
    for number, name in enumerate(NAMES):
        shutil.copy(PICTURES / "noto" / name, folder)
        held: Any = {"bytes": content(name), "path": name}
        image = {"struct": held, "bytes": content(name), "path": name}[form]
        rows.append({"image": image, "caption": f"number {number}", "width": number, "share": 0.5})
        if named:
            rows[-1]["id"] = 100 + number
    if form != "path":
        rows[4]["image"] = {"bytes": None, "path": None} if form == "struct" else b"no picture"
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=4)
    report = build_index([folder / "train.parquet"], tmp_path / "index", encoder, segment=5)
    kept = [number for number in range(9) if form == "path" or number != 4]
    ids: list[str | int] = [NAMES[number] for number in kept]
    if form == "bytes":
        ids = [f"train:{number + 1}" for number in kept]
    if named and form != "path":
        ids = [100 + number for number in kept]
    assert_holds(report.index, dict(zip(ids, [NAMES[n] for n in kept], strict=True)), encoder)
    first = report.index.metadata_at(0)
    assert first is not None
    assert (first["captions"], first["width"], first["share"]) == (["number 0"], 0, 0.5)
    assert report.skipped == 9 - len(kept)


def test_parquet_ids_that_no_index_holds(encoder: engine.Encoder, tmp_path: Path) -> None:
    """A null, and more than int64, in a column of integers: those rows are listed. Beside text, they have names."""
    pictures = [content(name) for name in NAMES[:3]]
    file, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    ids = pa.array([3, None, (1 << 63) + 5], pa.uint64())
    parquet.write_table(pa.table({"image": pictures, "id": ids}), file)
    report = build_index([file], tmp_path / "index", encoder, segment=1)
    assert_holds(report.index, {3: NAMES[0]}, encoder)
    assert [(line["place"], line["why"]) for line in skipped_of(report)] == [
        (f"{file}, row 2", "expected an integer of 64 bits as id, got none. Change it."),
        (
            f"{file}, row 3",
            f"expected an integer of 64 bits as id, got {(1 << 63) + 5}. Change it.",
        ),
    ]
    # ids of other kinds become text, those of rows that are left out too
    pictures[2] = b"no picture"
    parquet.write_table(pa.table({"image": pictures, "id": [b"a", None, b"c"]}), other)
    report = build_index([file, other], tmp_path / "text", encoder)
    found = report.index.ids_at(np.arange(len(report.index)))
    assert found == ["3", "a:2", str((1 << 63) + 5), "b'a'", "b:2"]
    assert [line["id"] for line in skipped_of(report)] == ["b'c'"]


def shard(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as archive:
        for key, files in samples.items():
            for suffix, held in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(held)
                archive.addfile(info, io.BytesIO(held))
    return file


def test_shards(encoder: engine.Encoder, tmp_path: Path) -> None:
    about = json.dumps({"caption": "from json", "year": 2001, "nested": {"a": 1}}).encode()
    samples = {
        "000": {"webp": content(NAMES[0]), "txt": b"first\nsecond", "json": about},
        "001": {"json": about, "WEBP": content(NAMES[1])},
        "002": {"txt": b"no picture"},
        "003": {"webp": content(NAMES[3]), "json": b"{"},
        "sub/004": {"webp": content(NAMES[4])},
    }
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "a.tar", samples)
    shard(tmp_path / "shards" / "b.tar", {"005": {"webp": content(NAMES[5])}})
    cut = shard(
        tmp_path / "shards" / "c.tar", {f"{n:03}": {"webp": content(NAMES[n])} for n in (6, 7)}
    )
    cut.write_bytes(cut.read_bytes()[: 512 + len(content(NAMES[6])) + 700])
    report = build_index([tmp_path / "shards"], tmp_path / "index", encoder)
    numbers = {"000": 0, "001": 1, "sub/004": 4, "005": 5, "006": 6}
    assert_holds(report.index, {key: NAMES[n] for key, n in numbers.items()}, encoder)
    assert report.index.metadata_at(0) == {"captions": ["first", "second"], "year": 2001}
    assert report.index.metadata_at(1) == {"captions": ["from json"], "year": 2001}
    lost = [(line["id"], line["why"]) for line in skipped_of(report)]
    assert [id for id, _ in lost[:2]] == ["002", "003"]
    assert "expected a picture (jpg, jpeg, png, webp, …) in the sample, got ['txt']" in lost[0][1]
    assert "an object in .json, got" in lost[1][1]
    rest = (
        "expected a whole, uncompressed tar, got neither a file nor the end of the archive. "
        "Copy it again, or pack it anew."
    )
    assert lost[2:] == [("c.tar, the rest", rest)]


def vectors(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def test_clip_retrieval(tmp_path: Path) -> None:
    """Files of 3 to 9,000 rows, in the order of their numbers; float16; the second has a row of NaN."""
    parts = [vectors(count, 12, count).astype(np.float16) for count in (3, 9000, 7)]
    parts[1][8500, 3] = np.nan
    for number, part in enumerate(parts):
        at = number + 9  # so that "10" sorts before "9"
        (tmp_path / "made" / "img_emb").mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / "metadata").mkdir(exist_ok=True)
        np.save(tmp_path / "made" / "img_emb" / f"img_emb_{at}.npy", part)
        table = {
            "image_path": [f"{at}/{row}.jpg" for row in range(len(part))],
            "caption": [f"caption {row}" for row in range(len(part))],
            "width": list(range(len(part))),
        }
        parquet.write_table(
            pa.table(table),
            tmp_path / "made" / "metadata" / f"metadata_{at}.parquet",
            row_group_size=1000,
        )
    report = build_index([tmp_path / "made"], tmp_path / "index", segment=4000)
    whole = np.concatenate(parts)
    kept = np.delete(np.arange(len(whole)), 3 + 8500)
    np.testing.assert_array_equal(report.index.fine, whole[kept])
    assert report.index.ids_at(np.array([0, 3, 9001, 9002])) == [
        "9/0.jpg",
        "10/0.jpg",
        "10/8999.jpg",
        "11/0.jpg",
    ]
    assert report.index.metadata_at(9000) == {"captions": ["caption 8998"], "width": 8998}
    (line,) = skipped_of(report)
    assert line["id"] == "10/8500.jpg"
    assert line["why"].startswith("expected finite values, got NaN or inf.")


@pytest.mark.parametrize("form", ["npy", "fine", "image", "one", "folder"])
def test_bare_vectors(form: str, tmp_path: Path) -> None:
    fine, coarse = vectors(700, 12), vectors(700, 4, 1)
    place = tmp_path / "given.safetensors"
    if form == "npy":
        place = tmp_path / "given.npy"
        np.save(place, fine.astype(np.float64))
    elif form == "folder":
        place = tmp_path / "given"
        place.mkdir()
        np.save(place / "image.npy", fine)
        np.save(place / "text.npy", vectors(3, 12))
    else:
        tensors = {
            "fine": {"fine": fine, "coarse": coarse, "x": coarse},
            "image": {"image": fine, "image_coarse": coarse, "text": fine[:3]},
            "one": {"anything": fine},
        }
        save_file(tensors[form], place)
    report = build_index([place], tmp_path / "index")
    np.testing.assert_array_equal(report.index.fine, fine)
    assert report.index.ids_at(np.array([0, 699])) == [0, 699]
    if form in ("fine", "image"):
        np.testing.assert_array_equal(report.index.coarse, coarse)
    else:
        assert report.index.reduction is not None
    found = engine.Retriever(tmp_path / "index").search(fine[41:42], 1, mode="exact")
    assert found.ids == [[41]]


def test_vectors_in_several_files_and_scaled(tmp_path: Path) -> None:
    first, second = vectors(30, 8), vectors(20, 8, 1)
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", second)
    report = build_index(
        [tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "index", normalize=True
    )
    whole = np.concatenate([first, second]).astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(report.index.fine, whole, atol=1e-6)
    assert report.index.ids_at(np.array([0, 30, 49])) == [0, 30, 49]
    assert report.index.normalize
    with pytest.raises(engine.InvalidArgument, match=r"vectors with ids.*a\.npy, which has none"):
        build_index([tmp_path / "a.npy"], tmp_path / "index")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_coarse_vectors_in_fewer_bits(tmp_path: Path, dtype: Any) -> None:
    given = vectors(300, 80)
    np.save(tmp_path / "a.npy", given)
    report = build_index([tmp_path / "a.npy"], tmp_path / "index", coarse_dtype=dtype)
    expected = engine.Retriever.from_embeddings(given, coarse_dtype=dtype).index
    assert report.index.header.coarse_dtype == dtype
    np.testing.assert_array_equal(report.index.coarse, expected.coarse)
    assert report.index.header.quantization == expected.header.quantization
    with pytest.raises(engine.InvalidArgument, match=f"coarse_dtype: expected {dtype}, as the"):
        build_index([tmp_path / "a.npy"], tmp_path / "index", coarse_dtype="bfloat16")
    with pytest.raises(engine.InvalidArgument, match=r"coarse_dtype: expected .*int8"):
        build_index([tmp_path / "a.npy"], tmp_path / "other", coarse_dtype="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_vectors_of_other_dims_are_refused_at_once(tmp_path: Path, encoder: engine.Encoder) -> None:
    np.save(tmp_path / "a.npy", vectors(3, 8))
    np.save(tmp_path / "b.npy", vectors(3, 9))
    np.save(tmp_path / "c.npy", vectors(3, 8)[0])
    with pytest.raises(
        engine.DatasetError, match=r"b\.npy: expected fine and coarse vectors of \(8, None\)"
    ):
        build_index([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "index")
    with pytest.raises(
        engine.DatasetError, match=r"of \(24, 8\) dims, as those of the encoder, got"
    ):
        build_index([tmp_path / "a.npy"], tmp_path / "index", encoder)
    with pytest.raises(engine.DatasetError, match=r"shape \[N, D\], got \[8\]"):
        build_index([tmp_path / "c.npy"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_several_sources(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    """Two folders, a shard with a key of another, a picture, and a Parquet file that is none."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(PICTURES / "noto" / NAMES[8], other)
    tar = shard(tmp_path / "x.tar", {"k": {"webp": content(NAMES[7])}})
    again = shard(tmp_path / "y.tar", {"k": {"webp": content(NAMES[6])}})
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    single = PICTURES / "noto" / NAMES[5]
    sources = [other, tar, again, tmp_path / "bad.parquet", single, folder]
    report = build_index(sources, tmp_path / "index", encoder)
    expected = {f"other/{NAMES[8]}": NAMES[8], "k": NAMES[7], "y/k": NAMES[6], NAMES[5]: NAMES[5]}
    ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.webp"))
    expected |= {f"pictures/{id}": Path(id).name for id in ids}
    assert_holds(report.index, dict(expected), encoder)  # type: ignore[arg-type]
    why = {line["id"]: line["why"] for line in skipped_of(report)}
    assert "expected a file in Parquet" in why[str(tmp_path / "bad.parquet")]
    (tmp_path / "deep" / "other").mkdir(parents=True)
    with pytest.raises(engine.DatasetError, match="expected folders of different names"):
        build_index([other, tmp_path / "deep" / "other"], tmp_path / "index", encoder)


def test_adding_to_an_index(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    """What is there stays as it is, is not encoded again, and is counted."""
    output = tmp_path / "index"
    build_index([folder], output, encoder)
    shutil.copy(PICTURES / "noto" / NAMES[0], folder / "0.webp")
    shutil.copy(PICTURES / "noto" / NAMES[1], folder / NAMES[0])
    (folder / "z.png").write_bytes(b"")
    report = build_index([folder], output)  # the index remembers its checkpoint
    ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.webp"))
    ids.remove("0.webp")
    assert_holds(report.index, {id: Path(id).name for id in ids} | {"0.webp": NAMES[0]}, encoder)  # type: ignore[arg-type]
    assert (report.indexed, report.held, report.skipped) == (1, 9, 1)
    assert [line["id"] for line in skipped_of(report)] == ["z.png"]
    nothing_new = build_index([folder], output)
    assert (nothing_new.indexed, nothing_new.held) == (0, 10)


def test_metadata_of_changing_kinds(encoder: engine.Encoder, tmp_path: Path) -> None:
    """One row a segment, so that the index sees each kind on its own."""
    values: list[dict[str, Any]] = [
        {"n": 1, "x": 0.5, "s": "7", "l": ["a"]},
        {"n": 2.0, "x": 2, "s": 7, "l": "b"},
        {"n": 2.5, "x": "no", "s": ["no"], "l": 3},
        {"n": True, "x": None, "s": None, "l": None},
    ]
    rows = [{"image": name} | entry for name, entry in zip(NAMES, values, strict=False)]
    for name in NAMES[:4]:
        shutil.copy(PICTURES / "noto" / name, tmp_path)
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = build_index([tmp_path], tmp_path.with_suffix(".index"), encoder, segment=1)
    assert report.index.metadata_at(0) == values[0]
    assert report.index.metadata_at(1) == {"n": 2, "x": 2.0, "s": "7", "l": ["b"]}
    assert report.index.metadata_at(2) is None
    assert report.lost == {"n": 2, "x": 1, "s": 1, "l": 1}
    assert any("2 values of the metadata column 'n' left out" in line for line in report.remarks())


def test_metadata_of_other_kinds_than_the_index_has(
    encoder: engine.Encoder, tmp_path: Path
) -> None:
    """Left out and counted as within one run; columns that Python made, too."""
    made: dict[str, Any] = {"n": 1, "x": 0.5, "s": "a", "l": ["a"], "b": True, "none": None}
    made |= {"day": datetime.date(2026, 1, 2), "nested": {"a": 1}, "numbers": [1], "empty": []}
    output = tmp_path / "index"
    with engine.Retriever.from_pretrained(encoder) as retriever:
        retriever.add([read_image(content(NAMES[0]))], ids=["first"], metadata=[made])
        retriever.save(output)
    rows: list[dict[str, Any]] = [
        {"n": "no", "x": 1 << 53, "s": ["a"], "l": 3, "b": 1, "none": "now", "new": 1.5},
        {"n": 2.0, "x": 2, "s": 7, "l": "b", "b": False, "none": 3, "new": 2},
        {"day": "2026-01-02", "nested": "a", "numbers": 1, "empty": "c"},
    ]
    for number, row in enumerate(rows, start=1):
        place = tmp_path / f"{number}"
        place.mkdir()
        shutil.copy(PICTURES / "noto" / NAMES[number], place)
        line = json.dumps({"image": NAMES[number]} | row)
        (place / "captions.jsonl").write_text(line)
    report = build_index([tmp_path / "1"], output, encoder)
    assert report.index.metadata_at(1) == {"none": "now", "new": 1.5}
    assert report.lost == {"n": 1, "x": 1, "s": 1, "l": 1, "b": 1}
    report = build_index([tmp_path / "2"], output, encoder)
    expected = {"n": 2, "x": 2.0, "s": "7", "l": ["b"], "b": False, "none": "3", "new": 2.0}
    assert report.index.metadata_at(2) == expected
    report = build_index([tmp_path / "3"], output, encoder)
    assert report.index.metadata_at(3) == {"empty": ["c"]}
    assert report.lost == {"day": 1, "nested": 1, "numbers": 1}


def test_a_table_whose_rows_have_columns_of_their_own() -> None:
    """As many as an index can hold at once; the rest is counted."""
    kinds = Kinds({}, {})
    settled = [kinds.settle({f"k{row}": row, "same": row}) for row in range(1500)]
    assert settled[998] == {"k998": 998, "same": 998}
    assert settled[999:] == [{"same": row} for row in range(999, 1500)]
    assert kinds.settle({"x" * 1001: 1}) is None
    assert kinds.lost == {BEYOND: 502}


def test_batches_are_bounded(
    monkeypatch: pytest.MonkeyPatch, folder: Path, encoder: engine.Encoder, tmp_path: Path
) -> None:
    """By count, by bytes, and, once opened, by pixels; what comes out is the same."""
    shapes: list[list[int]] = []
    own = encoder.encode_images

    class Watching:
        coarse_dim, fine_dim, reference = encoder.coarse_dim, encoder.fine_dim, encoder.reference

        def encode_texts(self, _: Any) -> Any:
            raise AssertionError

        def encode_images(self, images: list[Image.Image]) -> Any:
            shapes.append([image.width * image.height for image in images])
            return own(images)

    ids = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.webp"))
    expected = {id: Path(id).name for id in ids}
    for module, name, value, largest in (
        (build, "CHUNK", 64, 9),
        (build, "CHUNK", 4, 4),
        (encoding, "BATCH_BYTES", 1, 1),
        (encoding.images, "MAX_PIXELS", 2 * 112 * 112, 2),  # type: ignore[attr-defined]
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            shapes.clear()
            report = build_index([folder], tmp_path / f"{name}{value}", Watching())  # type: ignore[arg-type]
            assert_holds(report.index, dict(expected), encoder)  # type: ignore[arg-type]
            assert max(map(len, shapes)) == largest
            assert sum(map(len, shapes)) == 9


def test_a_place_that_is_taken(folder: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(engine.IndexFormatError, match="got something else"):
        build_index([folder], tmp_path / "thesis", encoder)
    with pytest.raises(
        engine.DatasetError, match="expected a folder or file to index, got nothing"
    ):
        build_index([tmp_path / "nowhere"], tmp_path / "index", encoder)
    (tmp_path / "what.xyz").write_bytes(b"")
    with pytest.raises(engine.DatasetError, match=r"expected a folder, .*, got '.xyz'"):
        build_index([tmp_path / "what.xyz"], tmp_path / "index", encoder)


def test_pictures_need_an_encoder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(engine.InvalidArgument, match="what encodes the pictures"):
        build_index([folder], tmp_path / "index")


def test_another_checkpoint_is_refused(
    folder: Path, encoder: engine.Encoder, damaged: Callable[..., Path], tmp_path: Path
) -> None:
    build_index([folder], tmp_path / "index", encoder)
    other = damaged()
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text() + "\n"
    )
    with pytest.raises(engine.CheckpointMismatch):
        build_index([folder], tmp_path / "index", other)
