"""Every tier finds what a search by brute force finds."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import engine
from tests.engine.brute_force import COARSE, assert_found, brute_force, vectors


def both(coarse: NDArray[Any], fine: NDArray[Any]) -> engine.Embeddings:
    return engine.Embeddings(torch.from_numpy(coarse), torch.from_numpy(fine))


def assert_finds_what_brute_force_finds(
    r: engine.Retriever, fine: NDArray[Any], coarse: NDArray[Any], gone: list[int], batch: int
) -> None:
    """In every mode, with and without a filter, saved and compacted; `gone`: rows that were removed."""
    count = len(fine)
    queries, coarse_queries = vectors(batch, seed=1), vectors(batch, COARSE, seed=3)
    live = np.ones(count, dtype=bool)
    live[gone] = False
    asked = both(coarse_queries, queries)
    assert_found(r.search(asked, 7, mode="exact"), brute_force(queries, fine, 7, live))
    expected = brute_force(coarse_queries, coarse, 20, live)
    assert_found(r.search(asked, 20, mode="coarse"), expected)
    among = np.zeros((batch, count), dtype=bool)
    for query, rows in enumerate(expected[1]):
        among[query, rows] = True
    assert_found(r.search(asked, 7, candidates=20), brute_force(queries, fine, 7, among))
    allowed = np.random.default_rng(5).random((batch, count)) < 0.2
    found = r.search(asked, 7, mode="exact", filter=allowed)
    assert_found(found, brute_force(queries, fine, 7, allowed & live))
    r.save()
    assert_found(r.search(asked, 7, candidates=20), brute_force(queries, fine, 7, among))
    r.compact()
    kept = np.flatnonzero(live)
    found = r.search(asked, 7, mode="exact")
    assert_found(found, brute_force(queries, fine[kept], 7))
    assert found.ids == kept[found.rows.cpu().numpy()].tolist()
