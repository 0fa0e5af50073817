"""Data sets as they lie on disks when unpacked, and the guide's table of formats: each row is read by each reader.

`records_of` is what `index` reads, `read_dataset` what `evaluate` and `train` read.
"""

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.dataset import read_dataset
from engine.errors import DatasetError
from engine.reading.sources import TABLES
from tests.engine.reading.test_what_people_have import encoded, records_of, said

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "pictures.md"
PICTURE = encoded()
NAMES = ("a.jpg", "b.jpg")
SAID = {"a.jpg": ["a dog"], "b.jpg": ["a cat"]}


def pictures(folder: Path, names: Sequence[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(PICTURE)


def separated(head: str, between: str) -> str:
    return "\n".join([head, f"a.jpg{between}a dog", f"b.jpg{between}a cat", ""])


def coco(*about: tuple[str, str]) -> str:
    """The file that says of each picture one caption; its boxes are passed over."""
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(about)]
    said = [{"image_id": number, "caption": text} for number, (_, text) in enumerate(about)]
    return json.dumps({"images": images, "annotations": [*said, {"image_id": 0, "bbox": [1]}]})


def karpathy() -> str:
    entries = [
        {"filename": name, "split": "test", "sentences": [{"raw": text}]}
        for name, (text,) in SAID.items()
    ]
    return json.dumps({"images": entries})


def written(name: str, content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pictures(folder)
        (folder / name).write_text(content)

    return write


def beside(folder: Path) -> None:
    pictures(folder)
    for name, (text,) in SAID.items():
        (folder / name).with_suffix(".txt").write_text(text)
        (folder / name).with_suffix(".json").write_text(json.dumps({"width": 61}))


def as_table(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pictures(folder)
        rows = [{"image": picture, "caption": text} for picture, (text,) in SAID.items()]
        parquet.write_table(pa.Table.from_pylist(rows), folder / name)

    return write


def nested(folder: Path) -> None:
    written("captions.csv", separated("image,caption", ","))(folder / "part")


def shard(folder: Path) -> None:
    beside(folder)
    with tarfile.open(folder / "0.TAR", "w") as tar:
        for file in sorted(folder.glob("[ab].*")):
            tar.add(file, file.name)
            file.unlink()


def holding(folder: Path) -> None:
    rows = [
        {"image": {"bytes": PICTURE, "path": name}, "caption": text}
        for name, (text,) in SAID.items()
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "0.PARQUET")


LINES = "".join(f'{{"%s": "{name}", "text": "{text}"}}\n' for name, (text,) in SAID.items())
# The rows of the guide's table, by the first words of each: how such a source is written, once for each file named.
FORMATS: dict[str, list[Callable[[Path], None]]] = {
    "a folder of pictures": [pictures],
    "pictures with `000.txt`": [beside],
    "`captions.jsonl`": [
        written("captions.jsonl", LINES.replace("%s", "image")),
        written("captions.csv", separated("image,caption", ",")),
        written("captions.tsv", separated("image\tcaption", "\t")),
        as_table("captions.parquet"),
    ],
    "`metadata.csv`": [
        written("metadata.csv", separated("file_name,text", ",")),
        written("metadata.jsonl", LINES.replace("%s", "file_name")),
    ],
    "`captions.txt`": [
        written("captions.txt", separated("image,caption", ",")),
        written("results.csv", separated("image_name| comment_number| comment", "| 0| ")),
    ],
    "`captions_val2017.json`": [
        written("captions_val2017.json", coco(("a.jpg", "a dog"), ("b.jpg", "a cat")))
    ],
    "`dataset_coco.json`": [
        written("dataset_coco.json", karpathy()),
        written("dataset_flickr30k.json", karpathy()),
    ],
    "folders that hold": [nested],
    "`.tar`": [shard],
    "`.parquet` that holds": [holding],
}


def rows_of_the_guide() -> list[list[str]]:
    table = GUIDE.read_text("utf-8").split("<!-- formats -->")[1].split("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_guide_lists_every_format() -> None:
    rows = [row[0] for row in rows_of_the_guide()]
    for row in rows:
        assert sum(row.startswith(first) for first in FORMATS) == 1, row
    assert len(rows) == len(FORMATS)
    assert all(suffix in "".join(rows) for suffix in TABLES)


@pytest.mark.parametrize("row", rows_of_the_guide(), ids=lambda row: row[0])
def test_each_format_is_read_as_the_guide_says(row: list[str], tmp_path: Path) -> None:
    (writes,) = (writes for first, writes in FORMATS.items() if row[0].startswith(first))
    for number, write in enumerate(writes):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder)
        records = records_of(folder)
        assert row[1] == "yes"
        assert all(record.picture is not None and record.fault is None for record in records)
        if row[0] == "a folder of pictures":
            assert said(records) == dict.fromkeys(NAMES)
        else:
            assert list(said(records).values()) == list(SAID.values())
        if row[2] == "yes":
            examples = read_dataset(folder)
            assert [list(example.captions) for example in examples] == list(SAID.values())
        else:
            with pytest.raises(DatasetError, match="expected"):
                read_dataset(folder)


def test_coco_as_it_is_unpacked_whole(tmp_path: Path) -> None:
    """Every part's captions, each picture once, however the folder is named; boxes are no captions."""
    for part in ("train2017", "val2017"):
        pictures(tmp_path / part, ["1.jpg"])
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for kind in ("captions", "instances"):
            file = tmp_path / "annotations" / f"{kind}_{part}.json"
            file.write_text(coco(("1.jpg", f"a {part}")))
    expected = {"train2017/1.jpg": ["a train2017"], "val2017/1.jpg": ["a val2017"]}
    assert said(records_of(tmp_path)) == expected
    found = {example.concept: list(example.captions) for example in read_dataset(tmp_path)}
    assert found == expected
    examples = read_dataset(tmp_path / "annotations")
    assert [example.image for example in examples] == [tmp_path / name for name in expected]


@pytest.mark.parametrize(
    ("folder", "name", "content"),
    [
        ("Images", "captions.txt", separated("image,caption", ",")),
        ("flickr30k_images", "results.csv", separated("image_name| comment_number| comment", "| 0| ")),
        ("flickr30k-images", "dataset_flickr30k.json", karpathy()),
        ("data", "captions.jsonl", LINES.replace("%s", "image")),
    ],
)  # fmt: skip
def test_pictures_in_a_folder_beside_the_captions(
    folder: str, name: str, content: str, tmp_path: Path
) -> None:
    """As Kaggle packs Flickr8k and Flickr30k; a folder without them is passed by, `--images` counts first."""
    pictures(tmp_path / folder)
    (tmp_path / "A").mkdir()
    (tmp_path / name).write_text(content)
    for source in (tmp_path, tmp_path / name):
        assert said(records_of(source)) == SAID
        assert [example.image for example in read_dataset(source)] == [
            tmp_path / folder / picture for picture in NAMES
        ]
    with pytest.raises(DatasetError, match="a picture at"):
        read_dataset(tmp_path, images=tmp_path / "A")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", "notes on my captions, no more\n"),
        ("results.csv", "profile,score\nx,1\n"),
        ("metadata.json", '{"filename": 1}'),
        ("metadata.csv", "station,rain\nx,1\n"),
    ],
)
def test_files_of_others_that_name_no_pictures(name: str, content: str, tmp_path: Path) -> None:
    written(name, content)(tmp_path)
    assert said(records_of(tmp_path)) == dict.fromkeys(NAMES)


def test_capitals_beside_a_picture(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.JPG"])
    (tmp_path / "a.TXT").write_text("a dog")
    assert said(records_of(tmp_path)) == {"a.JPG": ["a dog"]}
    assert read_dataset(tmp_path)[0].captions == ("a dog",)
