"""What real folders hold beside plain JPEG, and captions as others write them; indexed and evaluated alike."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine
from engine.building import build_index
from engine.building.sources import Pictures, open_sources
from engine.dataset import read_dataset
from engine.images import open_image, read_image, remark
from engine.reading import sources
from engine.reading.folders import Folder
from engine.reading.records import Record
from tests.engine.building.skipped import skipped_of

WHOLE = Image.effect_noise((61, 47), 90).convert("RGB")


def encoded(form: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    WHOLE.save(stream, form, **options)
    return stream.getvalue()


def records_of(*paths: Path) -> list[Record]:
    """What `index` reads."""
    found: list[Record] = []
    for source in open_sources(paths):
        assert isinstance(source, Pictures)
        found += source.records()
    return found


def said(records: list[Record]) -> dict[str, object]:
    return {record.name: record.values.get("captions") for record in records}


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "AVIF", "PNG"])
def test_formats_of_pictures(form: str) -> None:
    content = encoded(form)
    own = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(content)), own)
    assert remark(open_image(content)) is None


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_picture_of_several(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:])
    red, _, blue = np.asarray(read_image(stream.getvalue()))[4, 4]
    assert red > 200 > 100 > blue
    assert remark(open_image(stream.getvalue())) == "the first picture of several in one file"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_without_the_mark_of_its_end(progressive: bool, subsampling: int) -> None:
    """Nothing else may be missing: what a decoder would fill in is refused."""
    content = encoded("JPEG", progressive=progressive, subsampling=subsampling)
    opened = open_image(content[:-2])
    assert remark(opened) == "a JPEG without the mark of its end"
    np.testing.assert_array_equal(
        np.asarray(read_image(content[:-2])), np.asarray(read_image(content))
    )
    for cut in (3, 4, 5, 10, 100, 400):
        with pytest.raises(engine.ImageError, match="a whole JPEG"):
            read_image(content[:-cut])
    assert remark(open_image(content + b"behind the end")) is None


def test_names_and_folders(untrained: Path, tmp_path: Path) -> None:
    """Every spelling of a picture's suffix; what systems put beside pictures is passed over, and listed."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    kept = ["a.JPG", "b.jfif", "c.jpe", "d.pjpeg", "e.jif", "trip/f.JPEG"]
    for name in kept:
        (folder / name).write_bytes(encoded())
    (folder / "g.gif").write_bytes(encoded("GIF"))
    (folder / "h.apng").write_bytes(encoded("PNG"))
    (folder / "unended.jpg").write_bytes(encoded()[:-2])
    (folder / "._a.JPG").write_bytes(b"resource fork")
    (folder / "a_small.jpg").write_bytes(encoded())
    for hidden in ("@eaDir/a.JPG", ".thumbnails", "__MACOSX", "drafts"):
        (folder / hidden).mkdir(parents=True)
        (folder / hidden / "1.jpg").write_bytes(encoded())
    (folder / "Thumbs.db").write_bytes(b"")
    encoder = engine.open_encoder(untrained)
    report = build_index([folder], tmp_path / "i", encoder, exclude=["*_small.*", "drafts"])
    assert sorted(map(str, report.index.ids)) == sorted([*kept, "g.gif", "h.apng", "unended.jpg"])
    assert report.noted == {"a JPEG without the mark of its end": 1}
    with pytest.raises(engine.InvalidArgument, match="exclude: expected patterns as text, got 3"):
        build_index([folder], tmp_path / "j", encoder, exclude=[3])  # type: ignore[list-item]
    why = {line["id"]: line["why"] for line in skipped_of(report)}
    assert set(why) == {"._a.JPG", ".thumbnails", "@eaDir", "__MACOSX", "a_small.jpg", "drafts"}
    assert "a match of 'drafts'" in why["drafts"]
    assert "a hidden one, or one that a system keeps" in why["@eaDir"]
    assert "1 of those added: a JPEG without the mark of its end" in report.remarks()


def test_files_beside_a_picture(tmp_path: Path) -> None:
    """As img2dataset writes them; a `.json` of another kind costs no picture."""
    folder = tmp_path / "00000"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded())
    (folder / "0.txt").write_text("a dog\n")
    (folder / "0.json").write_text(json.dumps({"caption": "not this", "url": "u", "width": 3}))
    (folder / "1.json").write_text(json.dumps({"caption": "a cat"}))
    (folder / "2.json").write_text("[1, 2]")
    records = records_of(tmp_path)
    assert said(records) == {
        "00000/0.jpg": ["a dog"],
        "00000/1.jpg": ["a cat"],
        "00000/2.jpg": None,
    }
    assert records[0].values == {"captions": ["a dog"], "url": "u", "width": 3}
    assert records[2].flaw is not None
    examples = read_dataset(tmp_path, skipped=[])
    assert [example.captions for example in examples] == [("a dog",), ("a cat",)]


TABLES = {
    "METADATA.CSV": "file_name,text\nsub/a.jpg,a dog\nb.jpg,a cat\n",
    "metadata.jsonl": '{"file_name": "sub/a.jpg", "text": "a dog"}\n{"file_name": "b.jpg", "text": "a cat"}\n',
    "captions.TSV": "image\tcaption\nsub/a.jpg\ta dog\nb.jpg\ta cat\n",
    "captions.txt": "image,caption\nsub/a.jpg,a dog\nb.jpg,a cat\n",
    "results.csv": "image_name| comment_number| comment\nsub/a.jpg| 0| a dog\nb.jpg| 0| a cat\n",
    "captions_val2017.json": json.dumps(
        {
            "images": [{"id": 7, "file_name": "sub/a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
            "annotations": [
                {"image_id": 3, "caption": "a cat"},
                {"image_id": 7, "caption": "a dog"},
            ],
        }
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("nested", [False, True])
def test_captions_files_of_others(name: str, nested: bool, tmp_path: Path) -> None:
    """Beside their pictures, or one folder down, where another folder has pictures of its own."""
    folder = tmp_path / "part" if nested else tmp_path
    (folder / "sub").mkdir(parents=True)
    for picture in ("sub/a.jpg", "b.jpg"):
        (folder / picture).write_bytes(encoded())
    (folder / name).write_text(TABLES[name])
    prefix = "part/" if nested else ""
    expected: dict[str, object] = {f"{prefix}sub/a.jpg": ["a dog"], f"{prefix}b.jpg": ["a cat"]}
    examples = read_dataset(tmp_path)
    assert [example.captions for example in examples] == [("a dog",), ("a cat",)]
    assert [example.concept for example in examples] == list(expected)
    if nested:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "c.jpg").write_bytes(encoded())
        expected["other/c.jpg"] = None
    assert said(records_of(tmp_path)) == expected


def test_coco_as_it_is_unpacked(tmp_path: Path) -> None:
    """The captions lie in `annotations`, the pictures in `val2017` beside it."""
    for folder in ("annotations", "val2017/sub"):
        (tmp_path / folder).mkdir(parents=True)
    for picture in ("sub/a.jpg", "b.jpg"):
        (tmp_path / "val2017" / picture).write_bytes(encoded())
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_text(TABLES[file.name])
    assert [example.captions for example in read_dataset(file)] == [("a dog",), ("a cat",)]
    assert said(records_of(file)) == {"sub/a.jpg": ["a dog"], "b.jpg": ["a cat"]}


@pytest.mark.parametrize(
    ("picture", "text"),
    [("jpeg", "caption"), ("input.jpg", "outputs.txt"), ("img", "cap"), ("JFIF", "TXT")],
)
def test_suffixes_within_tars(picture: str, text: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.TAR", "w") as tar:
        for name, content in ((picture, encoded()), (text, b"a dog")):
            about = tarfile.TarInfo(f"0.{name}")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    assert said(records_of(tmp_path)) == {"0": ["a dog"]}
    assert read_dataset(tmp_path / "0.TAR")[0].captions == ("a dog",)


def test_a_folder_is_listed_alike_twice(tmp_path: Path) -> None:
    for name in ("b/x.jpg", "a/y.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    names = [record.name for record in Folder(tmp_path).records()]
    assert names == ["a/y.jpg", "b/x.jpg", "c.jpg"]


def test_the_guide_lists_the_formats() -> None:
    """Every file that is tried above, and no format that one of the commands does not read."""
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "pictures.md").read_text("utf-8")
    table = guide.split("<!-- formats -->")[1].split("<!-- end -->")[0]
    for name in (
        "metadata.csv",
        "metadata.jsonl",
        "captions.txt",
        "results.csv",
        "captions_val2017.json",
    ):
        assert name in {known.lower() for known in TABLES}
        assert f"`{name}`" in table
    for suffix in sources.TABLES:
        assert suffix in table
