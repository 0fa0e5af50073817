"""What results and figures are as JSON: read back by a parser that takes no NaN."""

import datetime as dt
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.system.json_values import json_value
from engine.system.terminal import as_json

ZONE = dt.timezone(dt.timedelta(hours=2))
NAME = uuid.UUID(int=7)


def parsed(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (3, 3),
    (1.5, 1.5),
    ("ä", "ä"),
    (float("nan"), None),
    (float("inf"), None),
    (float("-inf"), None),
    (dt.date(2024, 1, 2), "2024-01-02"),
    (dt.datetime(2024, 1, 2, 3, 4, 5, 6), "2024-01-02T03:04:05.000006"),
    (dt.datetime(2024, 1, 2, tzinfo=ZONE), "2024-01-02T00:00:00+02:00"),
    (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(days=1, milliseconds=500), 86400.5),
    (NAME, "00000000-0000-0000-0000-000000000007"),
    (decimal.Decimal("1.50"), "1.50"),
    (b"\0\xff", "AP8="),
    (np.float32(1.5), 1.5),
    (np.float64("nan"), None),
    (np.int64(2**53 + 1), 2**53 + 1),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.datetime64("2024-01-02"), "2024-01-02"),
    (np.array([[1.0, np.inf]]), [[1.0, None]]),
    (torch.tensor([1, 2]), [1, 2]),
    ([dt.date(2024, 1, 2), [b"a"]], ["2024-01-02", ["YQ=="]]),
    ((1, 2), [1, 2]),
    ({"d": {"e": dt.date(2024, 1, 2)}, 3: float("nan")}, {"d": {"e": "2024-01-02"}, "3": None}),
    (Path("a/b"), "a/b"),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[repr(v)[:30] for v, _ in VALUES])
def test_values(value: Any, expected: Any) -> None:
    assert json_value(value) == expected
    assert type(json_value(value)) is type(expected)
    assert parsed(as_json({"v": [value]})) == {"v": [expected]}


METADATA = [value for value, _ in VALUES if isinstance(value, dt.date | bytes | decimal.Decimal)]


@pytest.mark.parametrize("value", [*METADATA, dt.time(1), float("nan"), [dt.date.max], {"d": b"x"}])
def test_results(value: Any) -> None:
    """`to_list` is plain; hits keep what Python has for it."""
    r = engine.Retriever.from_embeddings(np.eye(2, dtype=np.float32), metadata=[{"v": value}, None])
    found = r.search(np.eye(2, dtype=np.float32)[0], 2)
    assert parsed(json.dumps(found.to_list()))[0][0]["metadata"] == {"v": json_value(value)}
    assert found.to_list()[0][1] == {"id": 1, "score": 0.0, "metadata": None}
    kept = found[0][0].metadata
    assert kept is not None
    assert kept["v"] == value or value != value
