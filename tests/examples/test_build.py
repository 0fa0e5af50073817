"""The folder and the command: the same to the byte, safe to interrupt, failures named."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from examples.build import __main__ as command
from examples.build import dataset
from examples.build.render import Look
from examples.build.sources import Package, Picture, Source, SourceError
from tests.examples.making import LOOK, build, fake, tree


def test_two_builds_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for out in (tmp_path / "one", tmp_path / "two"):
        dataset.assemble({"a": build(fake("a"), out), "b": build(fake("b"), out)}, out)
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert one == two
    lines = [json.loads(line) for line in one["captions.jsonl"].splitlines()]
    assert [line["image"] for line in lines] == [f"{s}/{i}.webp" for s in "ab" for i in range(5)]
    assert lines[0]["captions"] == ["square 0"]
    assert one["skipped.txt"] == b"a/blank\tit is blank\nb/blank\tit is blank\n"


def test_a_finished_source_is_known_until_something_changes(tmp_path: Path) -> None:
    built = build(fake("a"), tmp_path)
    assert dataset.finished(fake("a"), LOOK, tmp_path) == built
    assert dataset.finished(fake("a"), Look(33, 90), tmp_path) is None
    assert dataset.finished(fake("b"), LOOK, tmp_path) is None
    (tmp_path / "a" / "3.webp").unlink()
    assert dataset.finished(fake("a"), LOOK, tmp_path) is None
    drawn: list[str] = []
    assert build(fake("a", drawn=drawn), tmp_path) == built
    assert drawn == ["3"]


def test_another_look_draws_all_of_it_again(tmp_path: Path) -> None:
    build(fake("a"), tmp_path)
    drawn: list[str] = []
    build(fake("a", drawn=drawn), tmp_path, Look(16, 90))
    assert drawn == ["0", "1", "2", "3", "4"]
    with Image.open(tmp_path / "a" / "4.webp") as image:
        assert image.size == (16, 16)


def test_an_interrupted_build_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    source = fake("a")
    halfway = list(source.read({}))

    def stop() -> Image.Image:
        raise KeyboardInterrupt

    halfway[3] = Picture("3", ("square 3",), "square-3", stop)
    with pytest.raises(KeyboardInterrupt):
        dataset.build(source, halfway, LOOK, tmp_path, lambda: None)
    (tmp_path / "a" / ".4.webp.99.tmp").write_bytes(b"what a killed run leaves")
    assert dataset.finished(source, LOOK, tmp_path) is None
    drawn: list[str] = []
    build(fake("a", drawn=drawn), tmp_path)
    assert drawn == ["3", "4"]
    assert sorted(os.listdir(tmp_path / "a")) == [f"{i}.webp" for i in range(5)]


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    dataset.write_whole(target, b"old")

    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset.write_whole(target, b"new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


def test_the_same_picture_twice_is_kept_for_one_family_only(tmp_path: Path) -> None:
    draw = partial(Image.new, "RGBA", (9, 9), "red")
    concepts = ["1f3c3", "1f3c3-200d-2642", "1f438", "1f3c3"]
    offer = [Picture(f"p{i}", ("x",), concept, draw) for i, concept in enumerate(concepts)]
    built = dataset.build(fake("a"), offer, LOOK, tmp_path, lambda: None)
    assert [record["concept"] for record in built.records] == ["1f3c3", "1f3c3-200d-2642"]
    assert [s.id for s in built.skipped] == ["p2", "p3"]
    assert sorted(os.listdir(tmp_path / "a")) == ["p0.webp", "p1.webp"]


def run(tmp_path: Path, *more: str) -> int:
    folders = ["--out", str(tmp_path / "out"), "--sources", str(tmp_path / "cache")]
    return command.main([*folders, *more])


def test_a_failing_source_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> list[Picture]:
        raise SourceError("the registry [is] shut")

    sources = (fake("a"), Source("b", "MIT", (), refuse), fake("c"))
    monkeypatch.setattr(command, "SOURCES", sources)
    assert run(tmp_path, "--only", "a", "b", "c") == 1
    printed = capsys.readouterr()
    assert "b FAILED: the registry [is] shut" in printed.err
    assert "10 pictures" in printed.out
    lines = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a"] * 5 + ["c"] * 5

    drawn: list[str] = []
    monkeypatch.setattr(command, "SOURCES", (fake("a", drawn=drawn), fake("b"), fake("c")))
    assert run(tmp_path, "--only", "b") == 0
    assert drawn == []
    lines = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a"] * 5 + ["b"] * 5 + ["c"] * 5


def test_a_rerun_neither_fetches_nor_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SOURCES", (fake("a"),))
    assert run(tmp_path, "--only", "a") == 0
    before = tree(tmp_path)
    package = Package("npm", "x", "1")

    def refuse(*_: object) -> list[Picture]:
        raise AssertionError("fetched or read again")

    monkeypatch.setattr(command, "fetch", refuse)
    monkeypatch.setattr(command, "SOURCES", (Source("a", "CC0-1.0", (), refuse),))
    assert run(tmp_path, "--only", "a") == 0
    assert tree(tmp_path) == before
    monkeypatch.setattr(command, "SOURCES", (Source("a", "CC0-1.0", (package,), refuse),))
    with pytest.raises(AssertionError, match="again"):  # another version is another source
        run(tmp_path, "--only", "a")


def test_an_unknown_source_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "apple"])
    assert stopped.value.code == 2
    assert "apple" in capsys.readouterr().err


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(command, "SOURCES", (fake("a"),))
    monkeypatch.setattr(dataset, "write_whole", full)
    assert run(tmp_path, "--only", "a") == 1
    assert "a FAILED: disk full" in capsys.readouterr().err
