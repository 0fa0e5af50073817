"""CONTRIBUTING.md draws the rooms as they are, and every room says what it is for."""

from tests.tree import BLOCK, PACKAGES, PAGE, drawn, filled


def test_contributing_draws_the_rooms_as_they_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert filled(text) == text, "run python -m tests.tree --write"


def test_every_room_says_what_it_is_for() -> None:
    lines = drawn().splitlines()
    assert len(lines) > len(PACKAGES)
    silent = [line.strip() for line in lines if len(line.split()) == 1]
    assert not silent
