"""Captions files: read in order and by split, refused with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.dataset import Example, read_dataset


def write(folder: Path, *records: Any) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(b"")
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_order_concepts_and_splits(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"image": "b.png", "captions": ["x", "ü"], "concept": 7, "splits": {"style": "test"}},
        "",
        {"image": "a.png", "captions": ["z"], "splits": {"style": "train"}, "more": 1},
    )
    first = Example(tmp_path / "b.png", ("x", "ü"), "7")
    second = Example(tmp_path / "a.png", ("z",), "a.png")
    assert read_dataset(folder) == [first, second]
    assert read_dataset(str(folder), "style", "test") == [first]
    assert read_dataset(folder, "style", "train") == [second]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "captions.jsonl:2: expected a JSON object"),
        ("[]", "expected a JSON object, got "),
        ({"captions": ["x"]}, 'expected a path inside the folder as "image", got None'),
        ({"image": "a.png"}, "expected captions with words in them.*, got none"),
        ({"image": "a.png", "captions": []}, "expected captions with words in them.*, got none"),
        ({"image": "a.png", "captions": [" "]}, "expected captions with words in them, got"),
        ({"image": "a.png", "captions": [3]}, "expected captions with words in them, got"),
        ({"image": "a.png", "captions": {"en": "a dog"}}, "expected captions with words in them"),
        ({"image": "z.png", "captions": ["x"]}, "expected a picture at .*z.png, got none"),
        ({"image": "../a.png", "captions": ["x"]}, "expected a path inside the folder"),
        (
            {"image": "a.png", "captions": ["x"], "splits": 3},
            'expected a mapping as "splits", got 3',
        ),
    ],
)
def test_bad_lines(tmp_path: Path, record: Any, message: str) -> None:
    folder = write(tmp_path, {"image": "a.png", "captions": ["x"]}, record)
    with pytest.raises(engine.DatasetError, match=message):
        read_dataset(folder)


def test_no_captions_and_no_such_part(tmp_path: Path) -> None:
    with pytest.raises(engine.DatasetError, match="expected a captions file"):
        read_dataset(tmp_path)
    folder = write(tmp_path, {"image": "a.png", "captions": ["x"]})
    with pytest.raises(
        engine.DatasetError, match="expected pictures of part 'test' in split 'style', got none"
    ):
        read_dataset(folder, "style", "test")
