"""What others named, as people are shown it."""

import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import engine
from engine.__main__ import main
from engine.cli.commands import app
from engine.cli.search import listed
from engine.progress import progress
from engine.result import Hit
from engine.system.terminal import as_json, brief, visible
from tests.conftest import PICTURES

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\n\x9b31m\x7f\u202e\u2028\ud83d b"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\n\\x9b31m\\x7f\\u202e\\u2028\\ud83d b"


def test_what_cannot_be_seen_is_escaped() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    for kept in ("gâteau é", "日本", "👩\u200d👧", "a\\x1b"):
        assert visible(kept) == kept
    assert visible(7) == "7"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_json_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdout:
        pass

    stdout: Any = Stdout()
    stdout.encoding = encoding
    monkeypatch.setattr(sys, "stdout", stdout)
    text = as_json({"é": HOSTILE, "emoji": "👍\U000e0001", "none": float("nan")})
    assert json.loads(text) == {"é": HOSTILE, "emoji": "👍\U000e0001", "none": None}
    assert ("é" in text) == (encoding == "utf-8")
    assert text.isprintable()
    assert text.isascii() == (encoding == "ascii")
    assert ("👍" in text) == (encoding == "utf-8")


def test_brief_values() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(deep) == "[[[[...]]]]"
    assert len(brief(["x" * 10_000] * 1000)) < 500
    assert brief("7") == "'7'"


def test_progress_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("index [red]2026[bold] \x1b[2J", 1) as advance:
        advance(1)
    shown = capsys.readouterr().err
    assert "index [red]2026[bold] \\x1b[2J" in shown.replace("\n", "")


@pytest.fixture(scope="module")
def hostile_index(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = sorted((PICTURES / "noto").glob("*.webp"))[:3]
    place = tmp_path_factory.mktemp("hostile") / "index"
    retriever = engine.Retriever.from_pretrained(untrained)
    metadata = [{"captions": ["\x1b[2J gâteau é"]}] * 3
    retriever.add(pictures, ids=["a\n  1.0000  fake.png", "\x1b]0;x\x07", "c"], metadata=metadata)
    retriever.save(place)
    return place


def test_search_shows_names_as_they_are(hostile_index: Path) -> None:
    """A hit a line, nothing raw; the JSON says the same."""
    command = ["search", str(hostile_index), "a cake \x1b[2J"]
    text, answer = (CliRunner().invoke(app, [*command, *more]).stdout for more in ([], ["--json"]))
    assert len(text.splitlines()) == 4
    assert text.replace("\n", "").isprintable()
    assert "a\\n  1.0000  fake.png  \\x1b[2J g" in text
    assert answer.strip().isprintable()
    ids = {hit["id"] for hit in json.loads(answer)["answers"][0]["hits"]}
    assert ids == {"a\n  1.0000  fake.png", "\x1b]0;x\x07", "c"}


def test_an_output_that_cannot_say_it(hostile_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout is Latin-1: no traceback."""
    stdout = TextIOWrapper(BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["engine", "search", str(hostile_index), "日本", "-k", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    stdout.seek(0)
    said = stdout.read()
    assert said.startswith("\\u65e5\\u672c\n")
    assert "gâteau é" in said


@pytest.mark.parametrize(
    ("captions", "shown"),
    [(5, "  5"), ("a cake", "  a cake"), ({"en": "x"}, "  {'en': 'x'}"), ([], ""), (["a"], "  a")],
)
def test_captions_of_any_kind(captions: Any, shown: str) -> None:
    assert listed(Hit("a", 0.5, {"captions": captions})) == f"   0.5000  a{shown}"
    assert listed(Hit("a", 0.5)) == "   0.5000  a"


def test_errors_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine", "info", str(tmp_path / "no\x1b[2J\nerror: fake")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "\\x1b[2J" in said
    assert len(said.splitlines()) == 1
