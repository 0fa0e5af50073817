"""Numbers in CSV and TSV are numbers: a column decides, all of its values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.reading.column_types import typed_columns
from engine.reading.separated import Separated


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-20", "+3", "0"], [1, -20, 3, 0]),
        (["1", "2.5", "1e3", "-.5", "7."], [1.0, 2.5, 1000.0, -0.5, 7.0]),
        (["1", "", "3"], [1, None, 3]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["007", "12"], ["007", "12"]),
        (["1", "x"], ["1", "x"]),
        (["1", "true"], ["1", "true"]),
        (["9" * 18], [int("9" * 18)]),
        (["9" * 19], [float("9" * 19)]),
        (["1e999"], ["1e999"]),
        (["nan", "inf"], ["nan", "inf"]),
        (["1_000", "٣"], ["1_000", "٣"]),
        (["2024-01-31"], ["2024-01-31"]),
        ([".", "-", "e5"], [".", "-", "e5"]),
        (["", ""], ["", ""]),
    ],
)
def test_a_column(texts: list[str], expected: list[Any], tmp_path: Path) -> None:
    lines = [f"{number}.jpg\t{text}" for number, text in enumerate(texts)]
    (tmp_path / "captions.tsv").write_text("\n".join(["image\tvalue", *lines]))
    values = [
        record.values.get("value") for record in Separated(tmp_path / "captions.tsv").records()
    ]
    assert values == expected
    assert list(map(type, values)) == list(map(type, expected))


def test_names_stay_text() -> None:
    rows = [{"concept": "1", "split": "2", "id": "3", "year": "4"}]
    assert set(typed_columns(rows)) == {"year"}


def test_any_float_that_python_writes() -> None:
    numbers = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-100, 100)
    (convert,) = typed_columns({"x": repr(float(number))} for number in numbers).values()
    assert [convert(repr(float(number))) for number in numbers] == numbers.tolist()
