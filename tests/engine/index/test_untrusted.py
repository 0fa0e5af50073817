"""An index from a stranger: an error or an answer; nothing outside is read, nothing hangs or takes much memory."""

import io
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import Index
from engine.index.columns import Columns, matching
from engine.index.manifest import LONGEST, MANIFEST
from tests.engine.index.outcome import outcome
from tests.engine.index.small import small, write_manifest

parquet = pytest.importorskip("pyarrow.parquet")
import pyarrow as pa  # noqa: E402
from pyarrow import compute  # noqa: E402


def stored(place: Path, name: str) -> Path:
    manifest = json.loads((place / MANIFEST).read_bytes())
    return place / str(manifest["segments"][0]["files"][name]["file"])


def as_link(file: Path) -> None:
    outside = file.parent.parent / "outside"
    shutil.copy(file, outside)
    file.unlink()
    file.symlink_to(outside)


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", ["manifest", "fine", "ids_text", "lookup_keys", "metadata"])
@pytest.mark.parametrize("change", [as_link, as_pipe, as_device, as_folder])
def test_what_is_no_file_is_refused(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    place = tmp_path / "index"
    small(list("abcde"), metadata=[{"n": 1}] * 5).save(place)
    file = place / MANIFEST if name == "manifest" else stored(place, name)
    change(file)
    with pytest.raises(engine.IndexFormatError, match=file.name):
        Index.open(place)


def test_an_empty_file_that_is_a_pipe(tmp_path: Path) -> None:
    vectors = np.ones((1, 4), np.float32)
    Index.build(vectors, vectors, ids=[""]).save(tmp_path / "index")
    as_pipe(stored(tmp_path / "index", "ids_text"))
    with pytest.raises(engine.IndexFormatError, match="something else than a file"):
        Index.open(tmp_path / "index")


def test_a_manifest_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(engine.IndexFormatError, match=f"{LONGEST:,}"):
        Index.open(tmp_path)


@pytest.mark.parametrize("number", [2**31, 2**62, 2**64, 10**400, -1])
def test_huge_numbers(tmp_path: Path, number: int) -> None:
    place = tmp_path / "index"
    small().save(place)
    text = (place / MANIFEST).read_bytes()
    for change in (
        lambda m: m["segments"][0].update(rows=number),
        lambda m: m["segments"][0]["files"]["fine"].update(shape=[number, number]),
        lambda m: m.update(fine_dim=number),
        lambda m: m.update(count=number),
    ):
        manifest = json.loads(text)
        change(manifest)
        write_manifest(place, manifest)
        with pytest.raises(engine.IndexFormatError):
            Index.open(place)


# ---------------------------------------------------------------------- metadata


def written(table: Any, **given: Any) -> Any:
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=4096, compression="zstd", **given)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


BOMBS: dict[str, Any] = {
    "long texts": lambda: {"x": ["a" * 40_000_000] * 2},
    "long bytes": lambda: {"x": [b"\0" * 40_000_000] * 2},
    "long texts in a struct": lambda: {"x": [{"y": "a" * 40_000_000}] * 2},
    "long lists": lambda: {"x": pa.array([np.zeros(5_000_000, np.int64)] * 2)},
    "many columns": lambda: {f"x{n}": ["a" * 1_000_000] * 2 for n in range(40)},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_metadata_that_explode_are_refused_before_they_are_decoded(bomb: str) -> None:
    content = written(pa.table(BOMBS[bomb]()))
    assert len(content) < 40_000
    columns = Columns(content, 2)
    before, held = peak(), pa.total_allocated_bytes()
    for ask in (
        lambda: columns.at(1),
        lambda: matching([(columns, 2)], compute.scalar(True)),
        columns.table,
    ):
        with pytest.raises(engine.IndexFormatError, match="MiB per item"):
            ask()
    assert peak() - before < 30 << 20
    assert pa.total_allocated_bytes() - held < 30 << 20


def test_a_text_that_stands_in_every_row_is_decoded_in_pieces() -> None:
    """4,000 rows of a megabyte: 4 GB in one column, in 2 KB of Parquet that nothing is wrong with."""
    column = pa.DictionaryArray.from_arrays(np.zeros(4000, np.int32), ["caption " * 125_000])
    content = written(pa.table({"caption": column, "year": np.arange(4000)}), store_schema=False)
    assert len(content) < 40_000
    columns = Columns(content, 4000)
    before = peak()
    row = columns.at(3999)
    assert row is not None
    assert (len(row["caption"]), row["year"]) == (1_000_000, 3999)
    assert matching([(columns, 4000)], compute.field("year") >= 3000).sum() == 1000
    assert peak() - before < 400 << 20


def test_metadata_too_deep_to_be_read_are_refused_when_they_are_added() -> None:
    value: Any = 1
    for _ in range(60):
        value = [value]
    with pytest.raises(engine.InvalidArgument, match="metadata"):
        Columns.of([{"x": value}])


def test_a_damaged_end_of_the_metadata_is_an_error() -> None:
    """pyarrow's own description of a damaged file ends the process."""
    columns = Columns.of(
        [{"n": i, "text": f"é{i}", "l": ["a", str(i)], "s": {"y": i, "z": "q"}} for i in range(40)]
    )
    assert columns is not None
    rng = np.random.default_rng(5)
    size, errors = len(columns.parquet), 0
    end = size - 8 - int(columns.parquet[-8:-4].view("<i4")[0])
    for _ in range(600):
        changed = columns.parquet.copy()
        changed[rng.integers(end, size)] ^= 1 << rng.integers(8)
        damaged = Columns(changed, 40)
        try:
            damaged.at(3)
            damaged.table()
            matching([(damaged, 40)], compute.field("n") > 3)
        except (engine.IndexFormatError, engine.InvalidArgument):
            errors += 1
    assert errors > 200


def test_an_index_with_a_bomb_answers_with_an_error(tmp_path: Path) -> None:
    place = tmp_path / "index"
    small(metadata=[{"x": "a"}] * 5).save(place)
    content = written(pa.table({"x": ["a" * 90_000_000] * 5})).tobytes()
    stored(place, "metadata").write_bytes(content)
    manifest = json.loads((place / MANIFEST).read_bytes())
    manifest["segments"][0]["files"]["metadata"].update(shape=[len(content)], bytes=len(content))
    write_manifest(place, manifest)

    def ask(place: Path) -> Any:
        return engine.Retriever(place).search(np.ones((1, 8), np.float32), 1, mode="exact")[0]

    assert outcome(place, ask) == "IndexFormatError"
