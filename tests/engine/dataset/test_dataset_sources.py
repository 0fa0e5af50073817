"""The same real pictures in every form that data sets come in, read to the same examples."""

import csv
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.dataset import Example, Member, read_dataset
from engine.images import read_image
from tests.conftest import PICTURES

COUNT = 9
PARTS = ["train", "train", "val", "test", "restval", "test", "train", "test", "val"]


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Nine bundled pictures, a part each, and captions: with quotes, commas, letters beyond ASCII among them."""
    lines = (PICTURES / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:COUNT]
    kept = [json.loads(line) for line in lines]
    for record, part in zip(kept, PARTS, strict=True):
        record["split"] = part
        del record["splits"]
    kept[0]["captions"] = ['a "grinning" face, äöü', "second\nline", "x", "y", "z"]
    return kept


def lay_out(folder: Path, records: list[dict[str, Any]]) -> Path:
    for record in records:
        (folder / record["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PICTURES / record["image"], folder / record["image"])
    return folder


def write_json_lines(folder: Path, records: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_csv(folder: Path, records: list[dict[str, Any]]) -> Path:
    """One row a caption, as Flickr30k's own file and open_clip's have it."""
    file = folder / "captions.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as lines:
        csv.writer(lines).writerows(caption_rows(records))
    return file


def write_tsv(folder: Path, records: list[dict[str, Any]]) -> Path:
    """Without quoting; a caption of two lines is one of one."""
    file = folder / "captions.tsv"
    rows = ("\t".join(map(str, row)).replace("\n", " ") for row in caption_rows(records))
    file.write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


def caption_rows(records: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    yield ("image", "number", "caption", "concept", "split")
    for number, record in enumerate(records):
        for caption in record["captions"]:
            yield (record["image"], number, caption, record["concept"], record["split"])


def write_parquet(folder: Path, records: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    rows = [{**record, "unread": b"\x00"} for record in records]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "captions.parquet", row_group_size=4
    )
    return folder


TABLES: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "json lines": write_json_lines,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}


def expected(folder: Path, records: list[dict[str, Any]]) -> list[Example]:
    return [
        Example(folder / record["image"], tuple(record["captions"]), record["concept"])
        for record in records
    ]


@pytest.mark.parametrize("form", TABLES)
def test_captions_files(form: str, records: list[dict[str, Any]], tmp_path: Path) -> None:
    source = TABLES[form](lay_out(tmp_path, records), records)
    everything = expected(tmp_path, records)
    if form == "tsv":
        said = tuple(caption.replace("\n", " ") for caption in everything[0].captions)
        everything[0] = replace(everything[0], captions=said)
    assert read_dataset(source) == everything
    assert read_dataset(tmp_path) == everything
    assert read_dataset(source, part="test") == [everything[row] for row in (3, 5, 7)]
    assert read_dataset(source, part="val") == [everything[row] for row in (2, 8)]
    with pytest.raises(engine.DatasetError, match="expected pictures of part 'dev', got none"):
        read_dataset(source, part="dev")


def test_a_captions_file_apart_from_its_pictures(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    source = write_csv(tmp_path / "lists", records)
    with pytest.raises(
        engine.DatasetError, match=r"captions\.csv:2: expected a picture at .*lists"
    ):
        read_dataset(source)
    assert read_dataset(source, images=PICTURES) == expected(PICTURES, records)
    without = read_dataset(source, check_images=False)
    assert [example.captions for example in without] == [tuple(r["captions"]) for r in records]


# ---------------------------------------------------------------- Karpathy's files


def karpathy_json(records: list[dict[str, Any]], coco: bool) -> dict[str, Any]:
    """All the fields of the published files; COCO's have a folder and a sixth or seventh caption now and then."""
    images, sentence = [], 0
    for number, record in enumerate(records):
        folder, name = record["image"].split("/")
        sentences = []
        for raw in [*record["captions"], *(["one more", "and more"] if coco else [])]:
            tokens = raw.lower().split()
            sentences.append({"tokens": tokens, "raw": raw, "imgid": number, "sentid": sentence})
            sentence += 1
        entry = {
            "sentids": [found["sentid"] for found in sentences],
            "imgid": number,
            "sentences": sentences,
            "split": record["split"],
            "filename": name if coco else record["image"],
        }
        images.append(entry | ({"filepath": folder, "cocoid": 1000 + number} if coco else {}))
    return {"images": images, "dataset": "coco" if coco else "flickr30k"}


@pytest.mark.parametrize("coco", [False, True], ids=["flickr30k", "coco"])
def test_karpathys_files(coco: bool, records: list[dict[str, Any]], tmp_path: Path) -> None:
    pictures = lay_out(tmp_path / "images", records)
    file = tmp_path / ("dataset_coco.json" if coco else "dataset_flickr30k.json")
    file.write_text(json.dumps(karpathy_json(records, coco)), encoding="utf-8")
    read = read_dataset(file, images=pictures)
    assert [example.image for example in read] == [pictures / r["image"] for r in records]
    assert [example.concept for example in read] == [r["image"] for r in records]
    for example, record in zip(read, records, strict=True):
        more = ["one more", "and more"] if coco else []
        assert list(example.captions) == [*record["captions"], *more][:5]
    assert read_dataset(file, part="test", images=pictures) == [read[row] for row in (3, 5, 7)]
    # the rest of COCO's validation pictures are trained on
    train = read_dataset(file, part="train", images=pictures)
    assert train == [read[row] for row in (0, 1, 4, 6)]
    assert read_dataset(file, part="restval", images=pictures) == [read[4]]
    # who has fetched the test pictures only can test
    (pictures / records[0]["image"]).unlink()
    assert len(read_dataset(file, part="test", images=pictures)) == 3
    with pytest.raises(engine.DatasetError, match=r"images\[0\]: expected a picture at"):
        read_dataset(file, images=pictures)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", 'expected JSON with "images"'),
        ("[]", 'expected JSON with "images"'),
        ('{"images": 3}', 'expected JSON with "images"'),
        ("[" * 100_000, 'expected JSON with "images"'),
        ('{"images": [{"filename": "a.jpg", "split": "test"}]}', r"images\[0\]: .*'sentences'"),
        ('{"images": [{"split": "test", "sentences": []}]}', r"images\[0\]: .*'filename'"),
        ('{"images": [{"filename": "a.jpg", "sentences": []}]}', r"images\[0\]: .*'split'"),
        ('{"images": ["a.jpg"]}', r'images\[0\]: expected "filename", "sentences" with "raw"'),
        (
            '{"images": [{"filename": "a.jpg", "split": "test", "sentences": []}]}',
            "expected captions with words in them",
        ),
        (
            '{"images": [{"filename": "../a.jpg", "split": "test", "sentences": [{"raw": "x"}]}]}',
            "expected a path inside the folder",
        ),
    ],
)
def test_bad_karpathy_files(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "dataset_coco.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(engine.DatasetError, match=message):
        read_dataset(file)


# ---------------------------------------------------------------- WebDataset


def write_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def as_members(number: int, record: dict[str, Any]) -> dict[str, bytes]:
    key = f"./some.folder/{number:05}"
    about = {name: record[name] for name in ("captions", "concept", "split")}
    return {
        f"{key}.WebP": (PICTURES / record["image"]).read_bytes(),
        f"{key}.seg.png": b"not the picture",
        f"{key}.json": json.dumps(about).encode(),
    }


def test_webdataset_shards(records: list[dict[str, Any]], tmp_path: Path) -> None:
    members = [as_members(*numbered) for numbered in enumerate(records)]
    write_tar(tmp_path / "b.tar", {k: v for files in members[4:] for k, v in files.items()})
    write_tar(tmp_path / "a.tar", {k: v for files in members[:4] for k, v in files.items()})
    read = read_dataset(tmp_path)
    assert [example.captions for example in read] == [tuple(r["captions"]) for r in records]
    assert [example.concept for example in read] == [r["concept"] for r in records]
    assert read_dataset(tmp_path / "a.tar") == read[:4]
    assert read_dataset(tmp_path, part="test") == [read[row] for row in (3, 5, 7)]
    for example, record in zip(read, records, strict=True):
        assert isinstance(example.image, Member)
        content = (PICTURES / record["image"]).read_bytes()
        assert example.image.read_bytes() == content
        assert example.file_size == len(content)
        same = read_image(PICTURES / record["image"])
        assert read_image(example.image).tobytes() == same.tobytes()
    assert str(read[0].image) == f"{tmp_path}/a.tar:./some.folder/00000.WebP"


def test_captions_in_text_files(tmp_path: Path) -> None:
    """A line a caption; `.txt` goes before `.json`; a picture is its own concept, whatever shard it is in."""
    picture = next((PICTURES / "noto").iterdir()).read_bytes()
    for name in ("a.tar", "b.tar"):
        members = {
            "readme": b"no key",
            "0.jpg": picture,
            "0.txt": "a dog\n\nzwei Hünde\n".encode(),
            "0.json": b'{"caption": "unused"}',
            "1.png": picture,
            "1.json": b'{"caption": "a cat"}',
        }
        write_tar(tmp_path / name, members)
    read = read_dataset(tmp_path, skipped=[])
    assert [example.captions for example in read] == 2 * [("a dog", "zwei Hünde"), ("a cat",)]
    assert len({example.concept for example in read}) == 4


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"0.txt": b"a dog"},
            r"s\.tar:0: expected a picture \(jpg, jpeg, png, webp, …\) in the sample, got",
        ),
        ({"0.jpg": b"..."}, r"s\.tar:0: expected captions with words in them.*, got none"),
        ({"0.jpg": b"", "0.txt": b" \n"}, "expected captions with words in them"),
        (
            {"0.jpg": b"", "0.txt": b"\xff"},
            "expected words in UTF-8 in .txt and an object in .json",
        ),
        ({"0.jpg": b"", "0.json": b"["}, "expected words in UTF-8 in .txt and an object in .json"),
        ({"0.jpg": b"", "0.json": b"7"}, "expected words in UTF-8 in .txt and an object in .json"),
        ({"0.jpg": b"", "0.json": b'["caption"]'}, "an object in .json, got"),
        ({"0.jpg": b"", "1.jpg": b"", "0.txt": b"x"}, r"s\.tar:0: expected captions"),
        ({}, "expected pictures, got none"),
    ],
)
def test_bad_shards(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(engine.DatasetError, match=message):
        read_dataset(write_tar(tmp_path / "s.tar", members))


def test_shards_that_are_no_whole_tar(records: list[dict[str, Any]], tmp_path: Path) -> None:
    members = as_members(0, records[0]) | as_members(1, records[1])
    whole = write_tar(tmp_path / "whole.tar", members)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:3000])
    text = tmp_path / "text.tar"
    text.write_text("not a tar" * 1000)
    packed = write_tar(tmp_path / "packed.tar", members, "w:gz")
    for file in (cut, text, packed):
        with pytest.raises(engine.DatasetError, match="expected a whole, uncompressed tar"):
            read_dataset(file)
    # a picture cut off after the list was read is an image error, naming the picture
    example = read_dataset(whole)[1]
    assert isinstance(example.image, Member)
    os.truncate(whole, example.image.offset + example.image.size // 2)
    with pytest.raises(engine.ImageError, match=r"whole\.tar:.*00001\.WebP"):
        read_image(example.image)


# ---------------------------------------------------------------- what cannot be used


def test_what_cannot_be_used_is_left_out_and_listed(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A picture missing, one with no captions, one with an empty caption among others."""
    lay_out(tmp_path, records)
    (tmp_path / records[1]["image"]).unlink()
    broken = [dict(record) for record in records]
    broken[2]["captions"] = []
    broken[4]["captions"] = ["kept", " ", 7]
    write_json_lines(tmp_path, broken)
    skipped: list[str] = []
    read = read_dataset(tmp_path, skipped=skipped)
    wanted = expected(tmp_path, broken)
    wanted[4] = Example(wanted[4].image, ("kept",), wanted[4].concept)
    assert read == [wanted[row] for row in (0, 3, 4, 5, 6, 7, 8)]
    assert [line.split(": ")[0] for line in skipped] == [
        f"{tmp_path / 'captions.jsonl'}:{number}" for number in (2, 3, 5)
    ]
    assert "expected a picture at" in skipped[0]
    assert "got none" in skipped[1]
    with pytest.raises(engine.DatasetError, match=r"captions\.jsonl:2: expected a picture"):
        read_dataset(tmp_path)


def test_nothing_is_left(tmp_path: Path) -> None:
    write_json_lines(
        tmp_path, [{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ""}]
    )
    with pytest.raises(engine.DatasetError, match=r"got none that can be used; 2 were left out"):
        read_dataset(tmp_path, skipped=[])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "captions.csv",
            "picture,caption\n",
            r'csv:1: expected a line of column names, "image" among them',
        ),
        (
            "captions.csv",
            "",
            r'csv:1: expected a line of column names, "image" among them, got \[\]',
        ),
        ("captions.csv", "image,caption\na.png,a dog, running\n", "csv:2: expected 2 fields"),
        ("captions.csv", "image,caption\na.png\n", "csv:2: expected 2 fields"),
        (
            "captions.csv",
            "image,caption\n,a dog\n",
            'csv:2: expected a path inside the folder as "image"',
        ),
        ("captions.csv", 'image,caption\na.png,"a\n', "csv:2: expected a row in CSV, got unexp"),
        (
            "captions.csv",
            b"image,caption\na.png,\xff\n",
            "csv:2: expected text in UTF-8, got other bytes",
        ),
        ("captions.csv", "image,caption\n/etc/passwd,x\n", "expected a path inside the folder"),
        ("captions.parquet", "PAR1 and no more", "expected a file in Parquet"),
        ("captions.jsonl", "[" * 100_000, "jsonl:1: expected a JSON object"),
        (
            "captions.jsonl",
            '{"image": ["a"], "caption": "x"}',
            'expected a path inside the folder as "image"',
        ),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "x", "concept": "1"}\n{"image": "a.png", "caption": "x"}',
            "captions.jsonl:2: expected one concept for .*, got 'a.png' after '1'",
        ),
    ],
)
def test_bad_captions_files(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(engine.DatasetError, match=message):
        read_dataset(tmp_path)


def test_parquet_with_the_pictures_inside_and_with_nulls(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.png").write_bytes(b"")
    file = tmp_path / "captions.parquet"
    rows: list[dict[str, Any]] = [
        {"image": "a.png", "captions": ["x"], "splits": {"style": "test", "tux": None}},
        {"image": "a.png", "captions": ["y"], "splits": {"style": "train", "tux": "test"}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert [e.captions for e in read_dataset(file)] == [("x", "y")]
    assert [e.captions for e in read_dataset(file, "tux", "test")] == [("y",)]
    inside = [{"image": {"bytes": b"...", "path": "a.png"}, "caption": "x"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(inside), file)
    with pytest.raises(engine.DatasetError, match=r'parquet, row 1: expected a path as "image"'):
        read_dataset(file)


def test_no_data_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(engine.DatasetError, match=r"expected a captions file \(captions.jsonl"):
        read_dataset(tmp_path)
    with pytest.raises(
        engine.DatasetError, match=r"expected a folder or a file of kind .* got '.xlsx'"
    ):
        read_dataset(tmp_path / "captions.xlsx")
    with pytest.raises(engine.DatasetError, match="expected a captions file, got nothing"):
        read_dataset(tmp_path / "captions.csv")


def test_pyarrow_is_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "captions.parquet").write_bytes(b"")
    with pytest.raises(engine.MissingPackage, match=r"pip install 'hivlp-engine\[evaluate\]'"):
        read_dataset(tmp_path)


def test_half_a_surrogate_pair_is_mended(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """In a caption or a concept, as JSON can say it; in a path, nothing can be there."""
    lay_out(tmp_path, records)
    odd = [dict(record) for record in records[:3]]
    odd[0] |= {"captions": ["fun \ud83d"], "concept": "x\ud83d"}
    odd[1]["image"] = "p\ud83d.webp"
    write_json_lines(tmp_path, odd)
    skipped: list[str] = []
    read = read_dataset(tmp_path, skipped=skipped)
    assert (read[0].captions, read[0].concept) == (("fun ?",), "x?")
    assert len(read) == 2
    assert len(skipped) == 1
