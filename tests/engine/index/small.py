"""A small index, more items for it, and what to compare of two."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index import Index
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest


def small(ids: Any = None, **given: Any) -> Index:
    rng = np.random.default_rng(0)
    return Index.build(
        rng.standard_normal((5, 4)).astype(np.float32),
        rng.standard_normal((5, 8)).astype(np.float16),
        ids=ids,
        **given,
    )


def more(ids: Any, seed: int = 1, **given: Any) -> Index:
    rng = np.random.default_rng(seed)
    return Index.build(
        rng.standard_normal((len(ids), 4)).astype(np.float32),
        rng.standard_normal((len(ids), 8)).astype(np.float16),
        ids=ids,
        **given,
    )


def assert_same(one: Index, other: Index) -> None:
    """The same items, live and deleted, in the same rows."""
    assert one.header == other.header
    np.testing.assert_array_equal(one.coarse, other.coarse)
    np.testing.assert_array_equal(one.fine, other.fine)
    assert one.coarse.dtype == other.coarse.dtype
    assert one.fine.dtype == other.fine.dtype
    rows = np.arange(one.row_count)
    assert one.ids_at(rows) == other.ids_at(rows)
    assert [one.metadata_at(int(row)) for row in rows] == [
        other.metadata_at(int(row)) for row in rows
    ]
    np.testing.assert_array_equal(_live(one), _live(other))
    assert (one.reduction is None) == (other.reduction is None)
    if one.reduction is not None and other.reduction is not None:
        np.testing.assert_array_equal(one.reduction, other.reduction)


def _live(index: Index) -> NDArray[np.bool_]:
    return np.ones(index.row_count, bool) if index.live is None else index.live


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != LOCK}


def named_by(directory: Path) -> set[str]:
    return {stored.file for stored in read_manifest(directory)[0].files}


def write_manifest(directory: Path, manifest: Any) -> None:
    """Write a manifest with the checksum that belongs to it."""
    text = json.dumps({**manifest, "checksum": "0" * 64})
    digest = sha256(text.encode()).hexdigest()
    (directory / MANIFEST).write_text(text.replace("0" * 64, digest, 1))
