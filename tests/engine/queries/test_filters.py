"""Conditions on metadata, in text and as pyarrow expressions, against plain Python over the same values."""

import datetime as dt
import functools
import itertools
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import engine
from engine.queries.conditions import parse_condition
from engine.queries.filters import as_mask

Item = dict[str, Any]
COUNT = 500


@functools.cache
def items() -> list[Item | None]:
    draw = random.Random(3)
    made: list[Item | None] = []
    for number in range(COUNT):
        item: Item = {
            "year": draw.randrange(1990, 2010),
            "style": draw.choice(("noto", "twemoji", "fluent")),
            "share": draw.random(),
            "drawn": draw.random() < 0.5,
            "captions": [f"caption {number}"],
        }
        for name in list(item):
            if draw.random() < 0.2:
                del item[name]
        made.append(item if draw.random() < 0.95 else None)
    return made


@pytest.fixture(scope="module")
def retriever() -> engine.Retriever:
    """Three segments: with all columns, without metadata, and with a float year; some items removed."""
    vectors = np.random.default_rng(0).standard_normal((COUNT, 16)).astype(np.float32)
    made = items()
    cuts = (0, 200, 260, COUNT)
    r: engine.Retriever | None = None
    for first, last in itertools.pairwise(cuts):
        ids = list(range(first, last))
        metadata = None if first == 200 else made[first:last]
        if r is None:
            r = engine.Retriever.from_embeddings(
                vectors[first:last], ids=ids, metadata=metadata, coarse_dim=8
            )
        else:
            r.add(embeddings=vectors[first:last], ids=ids, metadata=metadata)
    assert r is not None
    r.remove([3, 210, 480])
    return r


def known(number: int) -> Item:
    return {} if 200 <= number < 260 else items()[number] or {}


CONDITIONS: list[tuple[str, Callable[[Item], bool]]] = [
    ("year > 2000", lambda m: "year" in m and m["year"] > 2000),
    ("2000 >= year", lambda m: "year" in m and m["year"] <= 2000),
    ("1995 <= year < 1998", lambda m: "year" in m and 1995 <= m["year"] < 1998),
    ("style == 'noto'", lambda m: m.get("style") == "noto"),
    ("style != 'noto'", lambda m: "style" in m and m["style"] != "noto"),
    ("not style == 'noto'", lambda m: "style" in m and m["style"] != "noto"),
    (
        "year > 2000 and style == 'noto'",
        lambda m: "year" in m and m["year"] > 2000 and m.get("style") == "noto",
    ),
    (
        "year > 2005 or (style == 'fluent' and share < 0.5)",
        lambda m: (
            m.get("year", 0) > 2005 or (m.get("style") == "fluent" and m.get("share", 1) < 0.5)
        ),
    ),
    ("style in ['noto', 'fluent']", lambda m: m.get("style") in ("noto", "fluent")),
    ("style not in ('noto', 'x')", lambda m: "style" in m and m["style"] != "noto"),
    ("year is None", lambda m: "year" not in m),
    ("year is not None", lambda m: "year" in m),
    ("drawn", lambda m: m.get("drawn") is True),
    ("not drawn", lambda m: m.get("drawn") is False),
    ("drawn == True and share > -0.5", lambda m: m.get("drawn") is True and "share" in m),
    ("year == 2000.0", lambda m: m.get("year") == 2000),
    ("year > 3000", lambda m: False),  # noqa: ARG005
    ("'noto' == style", lambda m: m.get("style") == "noto"),
    ("`style` = 'noto' && !drawn", lambda m: m.get("style") == "noto" and m.get("drawn") is False),
    (
        'style == "noto" OR year <> 2000',
        lambda m: m.get("style") == "noto" or m.get("year", 2000) != 2000,
    ),
    ("style contains 'ot'", lambda m: "ot" in m.get("style", "")),
    ("style not contains 'ot'", lambda m: "ot" not in m.get("style", "ot")),
    ("style starts with 't'", lambda m: m.get("style", "").startswith("t")),
    ("'lue' in style", lambda m: "lue" in m.get("style", "")),
    ("style in ['noto', null]", lambda m: m.get("style") in ("noto", None)),
    ("year in [2000, 2001.0, 2002.5]", lambda m: m.get("year") in (2000, 2001)),
    ("year == null", lambda m: "year" not in m),
    (
        "(year is null) or not (year < 2000 or drawn)",
        lambda m: "year" not in m or (m["year"] >= 2000 and m.get("drawn") is False),
    ),
    (
        "not (year > 2000 and style == 'noto')",
        lambda m: ("year" in m and m["year"] <= 2000) or ("style" in m and m["style"] != "noto"),
    ),
    (
        " or ".join(f"year == {year}" for year in range(1990, 2001)) + " or year == 0" * 3000,
        lambda m: m.get("year", 9999) <= 2000,
    ),
]


@pytest.mark.parametrize(("text", "holds"), CONDITIONS, ids=[text[:60] for text, _ in CONDITIONS])
def test_conditions(retriever: engine.Retriever, text: str, holds: Callable[[Item], bool]) -> None:
    """Search finds the same as a mask of the same rows, and of the items that it holds only these."""
    expected = np.array([holds(known(number)) for number in range(COUNT)])
    mask = as_mask(text, retriever.index, 1)
    assert mask is not None
    np.testing.assert_array_equal(mask.numpy(), expected)
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    found = retriever.search(queries, COUNT, mode="exact", filter=text)
    live = {number for number in np.flatnonzero(expected).tolist() if number not in (3, 210, 480)}
    assert all(set(ids) == live for ids in found.ids)
    by_expression = retriever.search(
        queries, COUNT, mode="exact", filter=parse_condition(text, retriever.index.metadata_schema)
    )
    assert by_expression.ids == found.ids
    two_stage = retriever.search(queries, 10, candidates=COUNT, filter=text)
    assert two_stage.ids == [ids[:10] for ids in found.ids]


def test_an_expression_of_pyarrow(retriever: engine.Retriever) -> None:
    expression = pc.list_value_length(pc.field("captions")) == 1
    mask = as_mask(expression, retriever.index, 1)
    assert mask is not None
    expected = ["captions" in known(number) for number in range(COUNT)]
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a column, text, a number, true or false, got the end of ''"),
        ("year >", "a column, text, a number, true or false, got the end of 'year >'"),
        ("year + 1 > 3", "a comparison, got year"),
        ("year.real > 3", "a comparison, got year"),
        ("__import__('os').system('true') == 0", "one of the columns .*, got '__import__'"),
        ("(lambda: 1)() == 1", "one of the columns .*, got 'lambda'"),
        ("year if drawn else style", "a comparison, got year"),
        ("year in 3", "a list of values after `in`, got 3"),
        ("year in []", "at least one value"),
        ("year is 3", "a comparison, got year"),
        ("-style == -'a'", "got \"-style == -'a'\""),
        ("f'{year}' == 'a'", "got 'f'"),
        ("[y for y in year] == 1", "got '\\[y for y in year\\] == 1'"),
        ("(" * 3000 + "year > 1" + ")" * 3000, "at most 50 parentheses"),
        ("year > 1" + " and year > 1" * 100_000, "at most 1,000,000"),
        ("(year > 1", "a closing parenthesis, got the end"),
        ("year > 1)", "and, or, or the end, got '\\)'"),
        ("yaer > 2000", r"one of the columns .*, got 'yaer'. Did you mean 'year'\?"),
        ("Year > 2000", "Did you mean 'year'"),
        ("`sytle` == 'a'", "Did you mean 'style'"),
        ("year > 'x'", "a value for a column of type int64, got 'x'"),
        ("style > 1", "a value for a column of type string, got 1"),
        ("drawn == 1", "a value for a column of type bool, got 1"),
        ("'a' == 'b'c", "and, or, or the end, got 'c'"),
        ("style", "a comparison, got style"),
        ("captions contains 'x'", "a column of text, got captions of type list"),
        ("style contains 3", "text to look for, got 3"),
        ("cat.jpg", "one of the columns .*, got 'cat'"),
        ("year > 99999999999999999999999", "values of one kind, integers in 64 bits, .*got 9"),
        ("year > -9223372036854775809", "integers in 64 bits, .*got -9"),
        ("year in [99999999999999999999]", "integers in 64 bits"),
        ("year in [1, True]", "a value for a column of type int64, got True"),
        ("year in [1, 'x']", "a value for a column of type int64, got 'x'"),
        ("year in [1 2]", "a comma or the end of the list"),
    ],
)
def test_conditions_that_are_refused(retriever: engine.Retriever, text: str, message: str) -> None:
    with pytest.raises(engine.InvalidArgument, match=f"filter: expected .*{message}"):
        retriever.search(np.ones(16, np.float32), filter=text)


def test_an_index_without_metadata() -> None:
    r = engine.Retriever.from_embeddings(np.eye(4, dtype=np.float32))
    with pytest.raises(engine.InvalidArgument, match=r"one of the columns \[\]"):
        r.search(np.ones(4, np.float32), filter="year > 1")


ODD: dict[str, list[Any]] = {
    "file name": ["a.jpg", "b.jpg", None],
    "photo-id": [1, 2, 3],
    "exif": [{"iso": 100, "lens": "x"}, {"iso": 200, "lens": None}, None],
    "class": ["cat", "dog", "cat"],
    "taken": [dt.datetime(2024, 1, day, 12) for day in (1, 2, 3)],
    "zoned": [dt.datetime(2024, 1, day, 12, tzinfo=dt.UTC) for day in (1, 2, 3)],
    "day": [dt.date(2023, 12, 31), dt.date(2024, 1, 2), None],
    "price": [Decimal("1.50"), Decimal("2.25"), Decimal("3.00")],
    "or": [1, 2, 3],
    "": [1, 2, 3],
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("file name == 'a.jpg'", [0]),
        ('"file name" == "b.jpg"', [1]),
        ("`file name` is null", [2]),
        ("photo-id >= 2 and class == 'cat'", [2]),
        ("exif.iso > 100", [1]),
        ("exif.lens == 'x' or exif is null", [0, 2]),
        ("taken > '2024-01-02'", [1, 2]),
        ("taken == '2024-01-02T12:00'", [1]),
        ("'2024-01-02T00:00:00+02:00' < zoned", [1, 2]),
        ("day >= '2024'", [1]),
        ("day < '2024-01'", [0]),
        ("day in ['2023-12-31', '2024-01-01']", [0]),
        ("price > 1.5", [1, 2]),
        ("price == 3", [2]),
        ("or == 1 or or == 3", [0, 2]),
        ("class == 'c\\'at'", []),
        ("true", [0, 1, 2]),
        ("1 > 2", []),
    ],
)
def test_names_and_kinds_of_columns(text: str, rows: list[int]) -> None:
    said = [{name: values[row] for name, values in ODD.items()} for row in range(3)]
    r = engine.Retriever.from_embeddings(np.eye(3, dtype=np.float32), metadata=said)
    mask = as_mask(text, r.index, 1)
    assert mask is not None
    assert np.flatnonzero(mask.numpy()).tolist() == rows


def test_any_text_is_a_condition_or_refused(retriever: engine.Retriever) -> None:
    """Nothing else is raised, whatever it is."""
    draw = random.Random(5)
    parts = [
        "year",
        "style",
        "drawn",
        "captions",
        " ",
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        ",",
        "==",
        "<",
        "in",
        "is",
        "null",
        "contains",
        "starts with",
        "1",
        "-2.5",
        "'a'",
        '"',
        "`",
        "\\",
        ".",
        "é",
        "\x00",
        "1e999",
    ]
    held = 0
    for _ in range(400):
        text = "".join(
            draw.choice(parts) + draw.choice(["", " "]) for _ in range(draw.randrange(1, 9))
        )
        try:
            mask = as_mask(text, retriever.index, 1)
        except engine.InvalidArgument:
            continue
        held += mask is not None
    assert held > 0
