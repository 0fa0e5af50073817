"""Metadata: read by column and in pieces, kept up to so many bytes, written a group at a time."""

from typing import Any

import numpy as np
import pytest

from engine.index import columns as module
from engine.index.columns import GROUP_ROWS, Columns, joined, matching
from engine.index.recent import Recent
from engine.index.strings import Strings

pa = pytest.importorskip("pyarrow")
from pyarrow import compute  # noqa: E402

ODD = compute.bit_wise_and(compute.field("n"), 1) == 1


def described(count: int, first: int = 0) -> list[Any]:
    return [
        {"n": n, "text": f"é{n}" * (n % 7), "tags": ["a", str(n)], "deep": {"x": n / 2, "y": "z"}}
        if n % 5
        else None
        for n in range(first, first + count)
    ]


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups larger than a piece, and several that make one: rows, tables, masks and joins are the same."""
    count = 2 * GROUP_ROWS + 100
    items = described(count)
    columns = Columns.of(items)
    assert columns is not None
    whole = columns.table()
    kept = np.arange(count) % 3 > 0
    for size in (20_000, 400_000):
        monkeypatch.setattr(module, "PIECE_BYTES", size)
        again = Columns(columns.parquet, count)
        assert again.table().equals(whole)
        assert len(list(again.tables())) > 1
        assert [again.at(row) for row in (0, 1, 4095, 4096, count - 1)] == [
            items[row] for row in (0, 1, 4095, 4096, count - 1)
        ]
        mask = matching([(again, count), (None, 10), (again, count)], ODD)
        odd = np.array([bool(item) and item["n"] % 2 == 1 for item in items])
        np.testing.assert_array_equal(mask, np.concatenate([odd, np.zeros(10, bool), odd]))
        both = joined([(again, kept), (None, np.ones(10, bool)), (again, ~kept)])
        assert both is not None
        expected = [items[row] for row in np.flatnonzero(kept)]
        expected += [None] * 10 + [items[row] for row in np.flatnonzero(~kept)]
        assert both.rows == len(expected)
        found = [both.at(row) for row in range(0, both.rows, 97)]
        assert found == expected[::97]
        assert again.take(np.array([3, 4097])).at(1) == items[4097]


def test_a_condition_reads_the_columns_that_it_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = Columns.of(described(50))
    read: list[Any] = []
    real = Columns._read

    def noted(self: Columns, groups: Any, names: Any) -> Any:
        read.append(names)
        return real(self, groups, names)

    monkeypatch.setattr(Columns, "_read", noted)
    field = compute.field
    for expression, names in (
        (field("n") > 3, ["n"]),
        ((field("n") > 3) & (field("text") == "é7"), ["n", "text"]),
        (field("deep", "x") > 1, ["deep"]),
        (field("tags").is_null(), ["tags"]),
        (compute.scalar(True), ["n"]),  # one of them, to know how many rows there are
    ):
        read.clear()
        assert len(matching([(columns, 50)], expression)) == 50
        assert read == [names]


def test_a_column_whose_name_has_dots_is_found() -> None:
    columns = Columns.of([{"a.b": 1, "a": {"b": 2}, "": 3}, {"a.b": 5}])
    assert columns is not None
    assert columns.at(0) == {"a.b": 1, "a": {"b": 2}, "": 3}
    for name, least, expected in (("a.b", 4, [False, True]), ("", 2, [True, False])):
        assert matching([(columns, 2)], compute.field(name) > least).tolist() == expected


def test_groups_read_last_are_kept_up_to_a_number_of_bytes() -> None:
    recent = Recent(1000)
    owners = [Columns.of([{"n": 1}]) for _ in range(3)]
    tables = [pa.table({"x": np.zeros(50)}) for _ in range(3)]  # 400 bytes each
    for owner, table in zip(owners, tables, strict=True):
        recent.put(owner, 0, table)
        assert recent.get(owners[0], 0) is tables[0]
    assert recent.get(owners[1], 0) is None  # nobody asked for it since
    assert recent.get(owners[2], 0) is tables[2]
    recent.put(owners[1], 1, pa.table({"x": np.zeros(500)}))  # larger than all room
    assert recent.bytes == 800
    owners.clear()
    other = Columns.of([{"n": 1}])
    recent.put(other, 0, tables[0])
    assert recent.get(other, 0) is tables[0]
    assert recent.bytes <= 1000


def test_what_was_shown_is_not_kept_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent(200_000)
    monkeypatch.setattr(module, "RECENT", recent)
    parts = [Columns.of([{"t": f"{n}" * 100} for n in range(300)]) for _ in range(6)]
    for _ in range(3):
        for part in parts:
            assert part is not None
            assert part.at(7) == {"t": "7" * 100}
            assert 0 < recent.bytes <= 200_000


def test_strings_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.index import strings

    monkeypatch.setattr(strings, "PIECE_BYTES", 50)
    texts = ["é" * (n % 60) for n in range(300)]
    held = Strings.of(texts)
    for rows in ([], [0], [59, 59, 3], list(range(300)), list(range(299, 0, -7))):
        taken = held.take(np.array(rows, dtype=np.int64))
        assert list(taken) == [texts[row] for row in rows]
