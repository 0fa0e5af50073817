"""`evaluate` and `train` read a source as `index` does: the same records, the same faults."""

import io
import json
import tarfile
from pathlib import Path

import pytest

import engine
from engine.building import build_index
from engine.dataset import read_dataset
from tests.conftest import PICTURES
from tests.engine.building.test_building import skipped_of

NAMES = [path.name for path in sorted((PICTURES / "noto").glob("*.webp"))[:4]]


@pytest.fixture(scope="module")
def encoder(untrained: Path) -> engine.Encoder:
    return engine.open_encoder(untrained)


def content(name: str) -> bytes:
    return (PICTURES / "noto" / name).read_bytes()


def test_a_tar_cut_between_two_samples(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Two of four samples are there, and no end of the archive: that is said."""
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for number, name in enumerate(NAMES):
            for suffix, held in (("webp", content(name)), ("txt", b"a caption")):
                if (number, suffix) == (2, "webp"):
                    at = archive.offset
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(held)
                archive.addfile(info, io.BytesIO(held))
    file.write_bytes(file.read_bytes()[:at])
    report = build_index([file], tmp_path / "index", encoder)
    assert (report.indexed, report.skipped) == (2, 1)
    assert "a whole, uncompressed tar" in skipped_of(report)[0]["why"]
    with pytest.raises(engine.DatasetError, match="a whole, uncompressed tar"):
        read_dataset(file)
    assert len(read_dataset(file, skipped=[])) == 2


def table(folder: Path, name: str, text: str) -> Path:
    for picture in NAMES:
        (folder / picture).write_bytes(content(picture))
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def assert_all_read(file: Path, encoder: engine.Encoder, tmp_path: Path) -> None:
    report = build_index([file], tmp_path / "index", encoder)
    assert (report.indexed, report.skipped) == (len(NAMES), 0)
    captions = [report.index.metadata_at(row) for row in range(len(NAMES))]
    assert captions == [{"captions": [f"this is {name}"]} for name in NAMES]
    read = read_dataset(file)
    assert [(example.image, example.captions) for example in read] == [
        (file.parent / name, (f"this is {name}",)) for name in NAMES
    ]


def test_a_byte_order_mark_in_json_lines(encoder: engine.Encoder, tmp_path: Path) -> None:
    lines = [json.dumps({"image": name, "caption": f"this is {name}"}) for name in NAMES]
    file = table(tmp_path, "captions.jsonl", "\ufeff" + "\n".join(lines))
    assert_all_read(file, encoder, tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_column_called_captions(suffix: str, encoder: engine.Encoder, tmp_path: Path) -> None:
    mark = "," if suffix == "csv" else "\t"
    rows = [("image", "captions"), *((name, f"this is {name}") for name in NAMES)]
    file = table(tmp_path, f"captions.{suffix}", "\n".join(map(mark.join, rows)))
    assert_all_read(file, encoder, tmp_path)
