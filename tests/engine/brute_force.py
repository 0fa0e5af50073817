"""Vectors with ties, and the exact answer to compare a search with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine

D, COARSE = 48, 16


def vectors(count: int, dim: int = D, seed: int = 0) -> NDArray[np.float32]:
    """Integers in -4…4: every inner product is exact in float32, and there are ties to get right."""
    return np.random.default_rng(seed).integers(-4, 5, (count, dim)).astype(np.float32)


def brute_force(
    queries: NDArray[Any], items: NDArray[Any], k: int, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Best first, equal scores by the lower row, padded with -inf and -1."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, rows, axis=1)
    rows = np.where(np.isneginf(best), -1, rows)
    short = ((0, 0), (0, k - rows.shape[1]))
    return (
        np.pad(best, short, constant_values=-np.inf),
        np.pad(rows, short, constant_values=-1),
    )


def assert_found(
    found: engine.SearchResult, expected: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    arrays = found.to_numpy()
    np.testing.assert_array_equal(arrays["rows"], expected[1])
    np.testing.assert_array_equal(arrays["scores"], expected[0])
    np.testing.assert_array_equal(arrays["counts"], (expected[1] >= 0).sum(axis=1))
