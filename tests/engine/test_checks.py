"""One thing where a list is wanted, or a list where one is, anywhere in the API: refused, nothing changed."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import engine
from engine.building import build_index
from engine.checks import check_list, check_path

X = np.eye(6, 8, dtype=np.float32)
IDS = ["c", "a", "t", "cat", "dog", "ca"]


def named() -> engine.Retriever:
    return engine.Retriever.from_embeddings(X, ids=IDS)


def numbered() -> engine.Retriever:
    return engine.Retriever.from_embeddings(X)


ONE_THING: list[Any] = [
    *("cat", "", b"cat", bytearray(b"c"), memoryview(b"c"), np.str_("cat"), Path("c")),
    *(3, 2.5, True, None, np.int64(3), np.array(3), torch.tensor(3), uuid.uuid4(), object()),
    *({"cat": 1}, np.array([["c", "a"]]), torch.ones(2, 2)),
    (letter for letter in "cat"),
    iter(["cat"]),
    map(str, [1]),
]


@pytest.mark.parametrize("value", ONE_THING, ids=lambda value: f"{type(value).__name__}")
def test_one_thing_is_no_list(value: Any) -> None:
    with pytest.raises(
        engine.InvalidArgument, match=r"names: expected a list of names, got .*Put a single one"
    ):
        check_list("names", value, expected="a list of names", ordered=False)


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (["c", "a"], ["c", "a"]),
        (("c",), ["c"]),
        ([], []),
        (range(3), [0, 1, 2]),
        (np.array(["c", "a"]), ["c", "a"]),
        (np.array([2, 1], dtype=np.int32), [2, 1]),
        (torch.tensor([2, 1]), [2, 1]),
        (pa.array(["c", "a"]), ["c", "a"]),
        (pa.chunked_array([["c"], ["a"]]), ["c", "a"]),
        (named().index.ids, IDS),
    ],
)
def test_lists_in_their_many_kinds(value: Any, entries: list[Any]) -> None:
    assert check_list("names", value, expected="a list") == entries


def test_a_set_has_no_order() -> None:
    for value in ({1}, frozenset({1}), {1: "a"}.keys()):
        assert check_list("ids", value, expected="a list", ordered=False) == [1]
        with pytest.raises(engine.InvalidArgument, match="ids: expected a list, got"):
            check_list("ids", value, expected="a list")


MISTAKES: dict[str, tuple[Callable[[engine.Retriever], Any], str]] = {
    "remove text": (lambda r: r.remove("cat"), "ids: expected a list of ids, got str 'cat'"),
    "remove bytes": (lambda r: r.remove(b"cat"), "ids: expected a list"),
    "remove one": (lambda r: r.remove(5), "ids: expected a list of ids, got int 5"),  # type: ignore[arg-type]
    "remove none": (lambda r: r.remove(None), "ids: expected a list"),  # type: ignore[arg-type]
    "remove mapping": (lambda r: r.remove({"cat": 1}), "ids: expected a list"),  # type: ignore[arg-type]
    "without text": (lambda r: r.index.without("cat"), "ids: expected a list"),
    "rows_of text": (lambda r: r.index.rows_of("cat"), "ids: expected a list"),
    "filter one": (lambda r: r.search(X[0], filter=3), "filter: expected a bool mask"),  # type: ignore[arg-type]
    "filter bytes": (lambda r: r.search(X[0], filter=b"cat"), "filter: expected a bool mask"),
    "filter text among lists": (
        lambda r: r.search(X[:2], filter=[["cat"], "dog"]),
        "filter: expected a list of ids, got str 'dog'",
    ),
    "add ids": (lambda r: r.add(embeddings=X[:3], ids="xyz"), "ids: expected a list of ids"),
    "add a set of ids": (
        lambda r: r.add(embeddings=X[:2], ids={"x", "y"}),  # type: ignore[arg-type]
        "ids: expected a list of ids, got set",
    ),
    "add metadata": (
        lambda r: r.add(embeddings=X[:1], ids=["x"], metadata={"year": 3}),  # type: ignore[arg-type]
        "metadata: expected a list of mappings or None",
    ),
    "add metadata text": (
        lambda r: r.add(embeddings=X[:3], ids=list("xyz"), metadata="abc"),  # type: ignore[arg-type]
        "metadata: expected a list of mappings",
    ),
    "add metadata of other things": (
        lambda r: r.add(embeddings=X[:2], ids=["x", "y"], metadata=[None, 5]),  # type: ignore[list-item]
        r"metadata\[1\]: expected a mapping from names to values, or None, got int 5",
    ),
    "metadata of half a character": (
        lambda r: r.add(embeddings=X[:1], ids=["x"], metadata=[{"\ud83d": 1}]),
        "metadata: expected values of one type .* got a name that UTF-8 cannot hold",
    ),
    "warmup": (lambda r: r.warmup(8), "batch_sizes: expected a list of batch sizes, got int 8"),  # type: ignore[arg-type]
    "warmup text": (lambda r: r.warmup("8"), "batch_sizes: expected a list"),  # type: ignore[arg-type]
    "evaluate": (
        lambda r: r.evaluate(X, 3, candidates=32),  # type: ignore[arg-type]
        "candidates: expected a list of numbers of candidates, got int 32",
    ),
    "evaluate text": (lambda r: r.evaluate(X, 3, candidates=["x"]), "candidates: expected an int"),  # type: ignore[list-item]
    "weights": (lambda r: engine.Query("a", None, 5), "weights: expected two finite numbers"),  # type: ignore[arg-type]  # noqa: ARG005
    "weights text": (lambda r: engine.Query("a", None, "12"), "weights: expected two"),  # type: ignore[arg-type]  # noqa: ARG005
    "weights of text": (lambda r: engine.Query("a", None, ("1", 2)), "weights: expected two"),  # type: ignore[arg-type]  # noqa: ARG005
    "weights too large": (lambda r: engine.Query("a", None, (10**400, 1)), "weights: expected two"),  # noqa: ARG005
    "candidates": (lambda r: r.search(X[0], candidates=[8]), "candidates: expected an integer"),  # type: ignore[arg-type]
    "min_score": (lambda r: r.search(X[0], min_score="a"), "min_score: expected one number"),  # type: ignore[arg-type]
    "min_score of each": (
        lambda r: r.search(X[:2], min_score=[0.1, 0.2]),  # type: ignore[arg-type]
        r"min_score: expected one number, got list. For example: min_score=0.2.",
    ),
    "NaN min_score": (lambda r: r.search(X[0], min_score=float("nan")), "min_score: expected one"),
    "on_error": (lambda r: r.search(X[0], on_error="skip"), 'on_error: expected "raise"'),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused_and_change_nothing(name: str) -> None:
    make, message = MISTAKES[name]
    r = named()
    before = r.index
    with pytest.raises(engine.InvalidArgument, match=message):
        make(r)
    assert r.index is before


@pytest.mark.parametrize("build", ["folder", b"folder", Path("folder"), {"folder"}])
def test_one_source_is_no_list_of_sources(build: Any, tmp_path: Path) -> None:
    with pytest.raises(engine.InvalidArgument, match="paths: expected a list of paths"):
        build_index(build, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def flags() -> Iterator[Any]:
    """Of six items, the first, third and fifth: in all the forms of a mask that is not bool."""
    plain = [1, 0, 1, 0, 1, 0]
    yield plain
    yield from (np.array(plain, kind) for kind in (np.int64, np.int8, np.uint8, np.float32))
    yield from (torch.tensor(plain, dtype=kind) for kind in (torch.int64, torch.uint8))
    yield [True, False] * 3
    yield np.array([3, 5], np.uint8)  # whatever is in it


@pytest.mark.parametrize("mask", list(flags()), ids=lambda mask: f"{type(mask).__name__}")
def test_a_mask_of_numbers_names_no_ids(mask: Any) -> None:
    """Read as ids, it would mean the items 0 and 1."""
    r = numbered()
    with pytest.raises(engine.InvalidArgument, match="filter: expected ids, or a mask of dtype"):
        r.search(X[0], filter=mask)
    with pytest.raises(engine.InvalidArgument, match="ids: expected ids, or a mask of dtype bool"):
        r.remove(mask)
    assert len(r) == 6


def test_masks_and_ids_that_are_right() -> None:
    r = numbered()
    for mask in (np.arange(6) < 2, torch.arange(6) < 2):
        assert set(r.search(X[0], 6, filter=mask).ids[0]) == {0, 1}
    for ids in ([0, 1], np.array([1, 0]), torch.tensor([0, 1]), {0, 1}, range(2)):
        assert set(r.search(X[0], 6, filter=ids).ids[0]) == {0, 1}
    for each in ([[0], {1}], np.array([[0], [1]]), torch.tensor([[0], [1]]), [np.array([0]), (1,)]):
        assert r.search(X[:2], 6, filter=each).ids == [[0], [1]]  # type: ignore[arg-type]
    two = engine.Retriever.from_embeddings(X[:2])
    assert set(two.search(X[0], 2, filter=[1, 0]).ids[0]) == {0, 1}
    r.remove(np.array([1, 0]))  # type: ignore[arg-type]
    assert list(r.index.compact().ids) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("given", "held"),
    [
        (np.array(["x", "y"]), ["x", "y"]),
        ([np.str_("x"), "y"], ["x", "y"]),
        (pa.array(["x", "y"]), ["x", "y"]),
        ([np.int64(7), np.uint8(8)], [7, 8]),
        (torch.tensor([7, 8]), [7, 8]),
        (np.array([7, 8], np.uint16), [7, 8]),
        (range(7, 9), [7, 8]),
    ],
)
def test_ids_in_their_many_kinds(given: Any, held: list[Any]) -> None:
    r = engine.Retriever.from_embeddings(X[:2], ids=given)
    assert sorted(r.search(X[:1], 2).ids[0]) == held
    r.remove(given)
    assert len(r) == 0


@pytest.mark.parametrize(
    "given", [np.array([[7], [8]]), [True, False], [b"x", b"y"], [None, None], [float("nan")] * 2]
)
def test_ids_that_are_none(given: Any) -> None:
    with pytest.raises(engine.InvalidArgument, match="ids: expected"):
        engine.Retriever.from_embeddings(X[:2], ids=given)


def test_what_is_wrong_is_said_before_anything_is_encoded(untrained: Path) -> None:
    """The pictures are not there: nobody has looked."""
    r = engine.Retriever.from_pretrained(untrained)
    for wrong, message in (
        ({"ids": "ab"}, "ids: expected a list"),
        ({"metadata": [5, 5]}, r"metadata\[0\]: expected a mapping"),
        ({"on_conflict": "skp"}, "on_conflict: expected"),
    ):
        with pytest.raises(engine.InvalidArgument, match=message):
            r.add([Path("none.png")] * 2, **wrong)


@pytest.mark.parametrize("wrong", [5, None, b"x", [], object(), "", "a\0b"])
def test_what_is_no_path(wrong: Any) -> None:
    for use in (engine.Retriever, engine.Index.open, lambda path: named().index.save(path or 5)):  # type: ignore[arg-type]
        with pytest.raises(
            engine.InvalidArgument, match=r"expected a path \(str or pathlib.Path\)"
        ):
            use(wrong)


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_path("path", "~/a") == tmp_path / "a"
    assert check_path("path", Path("~")) == tmp_path
    assert check_path("path", "a/~") == Path("a/~")
    named().index.save("~/my.index")
    assert len(engine.Index.open(tmp_path / "my.index")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "bogus"}, 'backend: expected "auto", "torch"'),
        ({"encoder": 5}, r"encoder: expected a path"),
        ({"candidates": "x"}, "candidates: expected an integer"),
    ],
)
def test_arguments_of_a_retriever_are_looked_at_when_it_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(engine.InvalidArgument, match=message):
        engine.Retriever.from_embeddings(X, **arguments)
