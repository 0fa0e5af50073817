"""Conditions on metadata, in text and as pyarrow expressions, against plain Python over the same values."""

import functools
import itertools
import random
from collections.abc import Callable
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
]


@pytest.mark.parametrize(("text", "holds"), CONDITIONS, ids=[text for text, _ in CONDITIONS])
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
    by_expression = retriever.search(queries, COUNT, mode="exact", filter=parse_condition(text))
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
        ("", "a condition, got ''"),
        ("year >", "a condition"),
        ("year + 1 > 3", "got 'year \\+ 1'"),
        ("year.real > 3", "got 'year.real'"),
        ("__import__('os').system('true') == 0", 'got "__import__'),
        ("(lambda: 1)() == 1", "got '\\(lambda: 1\\)\\(\\)'"),
        ("year if drawn else style", "a comparison, got 'year if drawn else style'"),
        ("year in 3", "a list of values after `in`, got '3'"),
        ("year in []", "at least one value"),
        ("year is 3", "None after `is`, got '3'"),
        ("year == None", "got 'None'"),
        ("-style == -'a'", "got '-style'"),
        ("f'{year}' == 'a'", "got \"f'{year}'\""),
        ("[y for y in year] == 1", "got '\\[y for y in year\\]'"),
        ("(" * 3000 + "year > 1" + ")" * 3000, "a condition"),
        ("year > 1" + " and year > 1" * 1000, "at most 10,000"),
        ("yaer > 2000", "the columns .*year.*got .*yaer"),
        ("year > 'x'", "over the columns"),
        ("cat.jpg", "got 'cat.jpg'"),
        ("year > 99999999999999999999999", "values of one kind, integers in 64 bits, got '9"),
        ("year > -9223372036854775809", "integers in 64 bits, got '-9"),
        ("year in [99999999999999999999]", "integers in 64 bits"),
        ("year in [1, True]", r"values of one kind, .*got '\[1, True\]'"),
        ("year in [1, 'x']", "values of one kind"),
    ],
)
def test_conditions_that_are_refused(retriever: engine.Retriever, text: str, message: str) -> None:
    with pytest.raises(engine.InvalidArgument, match=f"filter: expected .*{message}"):
        retriever.search(np.ones(16, np.float32), filter=text)


def test_an_index_without_metadata() -> None:
    r = engine.Retriever.from_embeddings(np.eye(4, dtype=np.float32))
    with pytest.raises(engine.InvalidArgument, match=r"the columns \[\]"):
        r.search(np.ones(4, np.float32), filter="year > 1")
