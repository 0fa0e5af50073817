"""A figure in docs/facts.md is a figure of the file that its line names."""

import json
import re
from functools import cache
from typing import Any

import pytest

from benchmarks import report
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "facts.md"
FACTS = [
    " ".join(fact.split())
    for fact in re.findall(r"^- (.*?)(?=^- |^#|\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]  # fmt: skip
MEASURED = [fact for fact in FACTS if "json`" in fact]
# Numbers with decimals, and whole ones with a unit.
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+|(?<![\w.,])\d+(?= (?:ms|µs|%|s|bytes)\b)")


@cache
def numbers(name: str) -> tuple[float, ...]:
    """Every number in a file of results, however deep."""

    def walk(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [number for each in value.values() for number in walk(each)]
        if isinstance(value, list):
            return [number for each in value for number in walk(each)]
        return [float(value)] if isinstance(value, (int, float)) else []

    return tuple(walk(json.loads((RESULTS / name).read_text(encoding="utf-8"))))


@cache
def written() -> frozenset[str]:
    """Every number in the tables that `benchmarks.report` writes: means and shares stand only there."""
    tables = "\n".join(table() for table in report.TABLES.values())
    return frozenset(re.findall(r"\d[\d,]*(?:\.\d+)?", tables))


def is_figure_of(said: str, name: str) -> bool:
    """Is `said` a number of the file, as it is, in hundredths or thousandths, or of its table?"""
    places = len(said.partition(".")[2])
    wanted = said.replace(",", "")
    return said in written() or any(
        f"{factor * number:.{places}f}" == wanted for number in numbers(name) for factor in (1, 100)
    )


@pytest.mark.parametrize("fact", MEASURED)
def test_a_fact_is_what_its_file_says(fact: str) -> None:
    files = re.findall(r"`([\w.-]+\.json)`", fact)
    said = NUMBER.findall(re.sub(r"`[^`]*`|recall@10 of 0.99", "", fact))
    assert files
    for figure in said:
        assert any(is_figure_of(figure, name) for name in files), figure


def test_facts_are_found_and_a_wrong_one_is_refused() -> None:
    assert len(MEASURED) > 20
    assert not is_figure_of("0.3821", "NVIDIA_H200-2026-11-27-9733880.json")
    assert is_figure_of("0.382", "NVIDIA_H200-2026-11-27-9733880.json")


def test_a_line_with_a_time_or_a_share_names_a_file() -> None:
    bare = [fact for fact in FACTS if fact not in MEASURED and re.search(r"\d (?:ms|µs|%)", fact)]
    assert not bare
