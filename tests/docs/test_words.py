"""Pages, results and reports speak of the project, not of how the work on it is organised."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
    *sorted(ROOT.glob("benchmarks/results/*.md")),
    ROOT / "benchmarks" / "report.py",  # writes REPORT.md
)
ORGANISATION = re.compile(
    r"\blent\b|\b(?:\w+th|first|second|third|this|last) stretch\b|\bsessions?\b|\bmoods?\b|\bhelpers?\b"
    r"|\b(?:slow|quick|busy|quiet|bad|good)(?:er|est)? hour\b|\bhour of\b|\ban hour (?:ago|before)\b"
    r"|\bshared (?:machine|cores?)\b|\btaken back\b|\bthe issue\b|\bwas wanted\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_speaks_of_the_project_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [
        f"{page.relative_to(ROOT)}:{number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := ORGANISATION.search(line))
    ]
    assert not found


@pytest.mark.parametrize("said", [
    "in the fourth stretch", "on a lent GPU", "the session's machine", "with the hour of this machine",
    "two shared cores", "the machine was taken back", "in a slower hour", "the machine's two moods",
])  # fmt: skip
def test_such_words_are_found(said: str) -> None:
    assert ORGANISATION.search(said)


@pytest.mark.parametrize("said", ["excellent", "items are stretched", "an hour", "words shared"])
def test_others_are_not(said: str) -> None:
    assert not ORGANISATION.search(said)


def test_a_superseded_decision_says_so() -> None:
    for page in sorted(ROOT.glob("docs/decisions/*.md")):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"does neither yet|not built yet", text), page.name
