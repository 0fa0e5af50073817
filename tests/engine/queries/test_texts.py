"""Text that names a picture instead of saying something: refused with what to do, wherever text is encoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.queries.texts import LONGEST_PATH, named_by
from tests.conftest import PICTURES

PICTURE = sorted((PICTURES / "noto").glob("*.webp"))[0]


@pytest.fixture(scope="module")
def retriever(untrained: Path) -> engine.Retriever:
    r = engine.Retriever.from_pretrained(untrained)
    r.add(sorted((PICTURES / "noto").glob("*.webp"))[:5])
    return r


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file and a folder, where the test runs."""
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "my cat.jpg").write_text("")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "of mine").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *(
            (text, None)
            for text in ("a red car", "a cat/dog", "cat", "", "and/or", "3.5 mm", "U.S.")
        ),
        ("a photo of cat.jpg", None),
        ("what is a .png", None),
        ("see https://example.org for more", None),
        ("one\ntwo.jpg", None),
        ("x" * LONGEST_PATH + ".jpg", None),
        ("\0/a", None),
        ("\ud800/a", None),
        *(
            (f"cat.{suffix}", "a picture")
            for suffix in ("jpg", "JPEG", "png", "webp", "tif", "HEIC")
        ),
        ("pics/my cat.jpg", "a picture"),
        (r"C:\pics\my cat.png", "a picture"),
        ("~/cat.gif", "a picture"),
        (" cat.jpg ", "a picture"),
        ("https://example.org/cat.jpg?w=300", "a URL"),
        ("HTTP://example.org/photo/1", "a URL"),
        ("file:///pics/cat", "a URL"),
        ("s3://bucket/key", "a URL"),
        ("data:image/png;base64,AAAA", "a URL"),
        ("notes.txt", "a file"),
        ("my cat.jpg", "a file"),
        ("./notes.txt", "a file"),
        ("cat/of mine", "a file"),
        ("./cat", "a folder"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_a_text_names(text: str, named: str | None) -> None:
    assert named_by(text) == named


@pytest.mark.usefixtures("here")
def test_sentences_are_not_looked_for_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    monkeypatch.setattr("os.path.exists", looked.append)
    for sentence in ("a red car", "A dog. A cat.", "two cats, one dog", "notes"):
        assert named_by(sentence) is None
    assert not looked


USES: dict[str, Callable[[engine.Retriever, list[Any]], Any]] = {
    "search": lambda r, texts: r.search(texts),
    "search one": lambda r, texts: r.search(texts[0]),
    "search an array": lambda r, texts: r.search(np.array(texts)),
    "add": lambda r, texts: r.add(texts),
    "calibrate": lambda r, texts: r.calibrate(texts),
    "evaluate": lambda r, texts: r.evaluate(texts),
}


@pytest.mark.parametrize("name", USES)
def test_names_of_pictures_are_refused(retriever: engine.Retriever, name: str) -> None:
    """So are those that `glob` gives."""
    before = retriever.index
    with pytest.raises(
        engine.InvalidArgument,
        match=r"batch\[0\]: expected words, got the path of a picture, .*Pass pathlib.Path\(…\)",
    ):
        USES[name](retriever, [str(PICTURE), "a dog"])
    with pytest.raises(engine.InvalidArgument, match=r"got a URL, .*Download it"):
        USES[name](retriever, ["https://example.org/cat.jpg", "a dog"])
    assert retriever.index is before


def test_a_string_of_a_query_is_a_path(retriever: engine.Retriever) -> None:
    by_name = retriever.search(engine.Query(image=str(PICTURE)), 5)
    assert by_name.ids == retriever.search(PICTURE, 5).ids
    assert by_name.ids[0][0] == 0
    with pytest.raises(engine.InvalidArgument, match=r"image: expected a picture.*got a URL"):
        engine.Query(image="https://example.org/cat.jpg")
    with pytest.raises(engine.InvalidArgument, match="text: expected one text"):
        engine.Query(text=PICTURE)  # type: ignore[arg-type]
    with pytest.raises(engine.ImageError, match="a red car"):
        retriever.search(engine.Query(image="a red car"))


def test_text_can_be_forced(retriever: engine.Retriever) -> None:
    """And is the words that it is: those that are no path are encoded alike."""
    forced = retriever.search([engine.Query(text=str(PICTURE)), engine.Query(text="a dog")], 5)
    assert forced.ids[1] == retriever.search("a dog", 5).ids[0]
    assert forced.scores[0, 0] < 0.99  # not the picture


def test_strings_of_numpy_are_text(retriever: engine.Retriever) -> None:
    texts = ["a dog", "a red car"]
    expected = retriever.search(texts, 5)
    for batch in (np.array(texts), np.array(texts, object), [np.str_(text) for text in texts]):
        assert retriever.search(batch, 5).ids == expected.ids


def test_half_a_character(retriever: engine.Retriever) -> None:
    with pytest.raises(engine.InvalidArgument, match=r"batch\[1\]: expected text that UTF-8"):
        retriever.search(["a dog", "\ud83d"])
