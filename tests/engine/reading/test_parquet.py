"""Parquet: what is read at once is bounded by bytes, where the file tells them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.reading import parquet as reading
from engine.reading.parquet import Parquet

LARGE = 3_000_000


def write(file: Path, pictures: list[bytes], **options: Any) -> Path:
    """Values that are the same lie in the file once: a dictionary."""
    table = pa.table({"image": pictures, "caption": [f"a {n}" for n in range(len(pictures))]})
    parquet.write_table(table, file, compression="zstd", **options)
    return file


@pytest.mark.parametrize("dictionary", [True, False])
def test_few_large_rows_are_read_at_once(
    dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen pictures of 3 MB that take next to nothing in the file: four are in memory at most. All are read.

    Each has a page of its own, as a page is unpacked whole.
    """
    file = write(
        tmp_path / "a.parquet", [bytes(LARGE)] * 16, use_dictionary=dictionary, write_batch_size=1
    )
    assert file.stat().st_size < LARGE // 10
    monkeypatch.setattr(reading, "AT_ONCE", 4 * LARGE + 1000)
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    own = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        sizes = [len(record.picture) for record in Parquet(file).records()]  # type: ignore[arg-type]
    finally:
        pa.set_memory_pool(own)
    assert sizes == [LARGE] * 16
    peak = pool.max_memory()
    print(f"peak of Arrow: {peak / 1e6:.1f} MB")
    assert peak is not None
    assert LARGE <= peak <= 10 * LARGE  # with what is unpacked, in buffers that grow by doubling


def test_a_row_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group of its own: refused by what the file says. Among others: once it is read. The others are kept."""
    monkeypatch.setattr(reading, "MAX_BYTES", LARGE // 2)
    pictures = [b"a", bytes(LARGE), b"b"]
    for size in (1, 3):
        file = write(tmp_path / f"{size}.parquet", pictures, row_group_size=size)
        first, large, last = Parquet(file).records()
        assert (first.picture, last.picture) == (b"a", b"b")
        assert (large.name, large.place) == (f"{size}:2", f"{file}, row 2")
        assert str(large.fault).startswith("expected a picture of at most 1,500,000 bytes, got 3,")


@pytest.mark.parametrize("start", range(11))
def test_reading_goes_on_from_any_row(start: int, tmp_path: Path) -> None:
    """In groups of four, some of which are not read at all."""
    pictures = [bytes([number]) for number in range(10)]
    file = write(tmp_path / "a.parquet", pictures, row_group_size=4)
    records = list(Parquet(file).records(start))
    assert [record.picture for record in records] == pictures[start:]
    assert [record.name for record in records] == [f"a:{n + 1}" for n in range(start, 10)]
    assert [record.captions for record in records] == [(f"a {n}",) for n in range(start, 10)]
