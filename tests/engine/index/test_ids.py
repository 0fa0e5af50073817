"""From rows to ids and metadata: many at a time, of several segments, and of damaged files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.index import Index, strings
from engine.index.strings import Strings

WORDS = ["", "a", "é", "日本語", "a\0b", "\0", "x" * 200, "𝕏 and more", "image-0001.jpg"]


def ids_of(kind: str, count: int) -> list[Any]:
    if kind == "integers":
        return [7 * (count - row) - 11 for row in range(count)]
    return [WORDS[row] if row < len(WORDS) else f"{WORDS[row % 9]}{row}" for row in range(count)]


def in_segments(ids: list[Any], metadata: list[Any], lengths: list[int]) -> Index:
    """An index of these items whose segments have these lengths."""
    index, first = None, 0
    for length in lengths:
        here = slice(first, first + length)
        ones = np.ones((length, 3), np.float32)
        part = Index.build(ones, ones, ids=ids[here], metadata=metadata[here])
        index = part if index is None else replace(index, segments=index.segments + part.segments)
        first += length
    assert index is not None
    return index


@pytest.mark.parametrize("lengths", [[311], [1, 97, 2, 211]], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("places", [strings.ROWS_AT_A_TIME, 7], ids=["at once", "in parts"])
def test_ids_and_metadata_of_rows(
    kind: str, lengths: list[int], places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strings, "ROWS_AT_A_TIME", places)
    ids, chance = ids_of(kind, 311), np.random.default_rng(3)
    metadata = [{"n": row, "word": WORDS[row % 9]} if row % 5 else None for row in range(311)]
    index = in_segments(ids, metadata, lengths)
    for held in (index, index.save(tmp_path)):
        for count in (0, 1, 2, 13, 500):
            rows = chance.integers(0, 311, count)
            assert held.ids_at(rows) == [ids[row] for row in rows.tolist()]
            assert held.metadata_of(rows) == [metadata[row] for row in rows.tolist()]
        assert held.ids_at(np.arange(311)[::-1]) == ids[::-1]
        for wrong in ([311], [5, -1], [0, 2**40]):
            with pytest.raises(IndexError):
                held.ids_at(np.array(wrong))


def test_an_index_is_shown_in_one_line() -> None:
    index = in_segments([1, 2, 3], [None] * 3, [1, 2])
    assert repr(index) == "Index(N=3, coarse=3xfloat32, fine=3xfloat32, bytes=72)"


def test_strings_too_long_to_be_decoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strings, "PIECE_BYTES", 150)
    held, rows = Strings.of(WORDS), np.array([6, 8, 0, 6, 3])
    assert held.at(rows) == list(held.take(rows)) == [WORDS[row] for row in rows]


def test_a_result_gives_each_query_its_own_ids() -> None:
    """Fewer hits than asked for, none, and all of them."""
    index = in_segments(ids_of("strings", 31), [{"n": row} for row in range(31)], [9, 22])
    mask = torch.zeros(4, 31, dtype=torch.bool)
    mask[0], mask[1, 4], mask[3, 8:20] = True, True, True
    found = engine.Retriever(index).search(np.ones((4, 3)), 15, mode="exact", filter=mask)
    wanted = [list(range(15)), [4], [], list(range(8, 20))]
    assert found.ids == [[ids_of("strings", 31)[row] for row in rows] for rows in wanted]
    assert [[hit.metadata for hit in hits] for hits in found] == [
        [{"n": row} for row in rows] for rows in wanted
    ]


BAD_STRINGS: dict[
    str, tuple[bytes, list[int], int]
] = {  # the text, the ends, and a row that is damaged
    "no UTF-8": (b"ab\xffcd", [2, 3, 5], 1),
    "a letter in two strings": ("aéb".encode(), [2, 3, 4], 1),
    "ends that fall": (b"abcdef", [4, 2, 6], 1),
    "an end beyond the text": (b"abc", [1, 2, 9], 2),
    "an end below it": (b"abc", [-5, 2, 3], 1),
    "an end that overflows": (b"abc", [1, -(2**63), 3], 2),
}


@pytest.mark.parametrize("fault", BAD_STRINGS)
def test_damaged_strings_are_refused(fault: str) -> None:
    text, ends, row = BAD_STRINGS[fault]
    held = Strings(np.frombuffer(text, np.uint8), np.array(ends))
    index = in_segments(["x", "y", "z"], [None] * 3, [3])
    damaged = replace(index, segments=(replace(index.segments[0], ids=held),))
    for rows in ([row], [0, 1, 2]):
        with pytest.raises(engine.IndexFormatError, match="strings of an index: expected UTF-8"):
            damaged.ids_at(np.array(rows))
        with pytest.raises(engine.IndexFormatError, match="strings of an index: expected UTF-8"):
            list(held.take(np.array(rows)))
