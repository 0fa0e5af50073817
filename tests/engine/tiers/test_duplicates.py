"""Near-duplicates left out, against a greedy loop in float64."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine.tiers import duplicates

D = 24


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors of any length in clusters of four that are alike."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((-(-count // 4), D))
    vectors = np.repeat(centres, 4, axis=0)[:count] + 0.15 * random.standard_normal((count, D))
    return (vectors * random.uniform(0.5, 2, (count, 1))).astype(np.float32)


def greedy(items: NDArray[Any], order: list[int], k: int, threshold: float) -> list[int]:
    unit = items.astype(np.float64) / np.linalg.norm(
        items.astype(np.float64), axis=1, keepdims=True
    )
    taken: list[int] = []
    for row in order:
        if len(taken) < k and all(unit[row] @ unit[other] <= threshold for other in taken):
            taken.append(row)
    return taken


@pytest.mark.parametrize("count", [1, 7, 129, 1000])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97, 1.0])
def test_exact_and_two_stage(count: int, threshold: float) -> None:
    """In several segments, some items removed, so that rows and ids differ."""
    items, queries = clustered(count), clustered(5, seed=1)
    cut = count // 3 + 1
    r = engine.Retriever.from_embeddings(items[:cut], coarse_dim=8)
    if count > cut:
        r.add(embeddings=items[cut:])
    if count > 7:
        r.remove([0, 5])
    gone = {0, 5} if count > 7 else set()
    for mode in ("exact", "two_stage"):
        found = r.search(queries, 6, candidates=max(count, 6), mode=mode, duplicates=threshold)
        scores = queries.astype(np.float64) @ items.astype(np.float64).T
        for query in range(len(queries)):
            order = [
                row for row in np.argsort(-scores[query], kind="stable").tolist() if row not in gone
            ]
            expected = greedy(items, order, 6, threshold)
            assert found.ids[query] == expected
            np.testing.assert_allclose(
                found.scores[query, : len(expected)], scores[query, expected], rtol=1e-4
            )
        assert set(found.guarantee) == {None}


def test_only_among_the_candidates() -> None:
    """Eight copies of one vector and eight candidates: one hit, though more items are left."""
    items = np.concatenate([np.repeat(clustered(1), 8, axis=0), 0.1 * clustered(40, 3)])
    r = engine.Retriever.from_embeddings(items, coarse_dim=8)
    found = r.search(items[:1], 8, candidates=8, duplicates=0.98)
    assert found.ids == [[0]]
    assert len(r.search(items[:1], 8, candidates=48, duplicates=0.98).ids[0]) > 1
    assert found.rows[0, 1:].tolist() == [-1] * 7


def test_what_was_left_out_suppresses_nobody() -> None:
    """A chain: b is like a, c like b and not like a."""
    angles = np.array([0.0, 0.4, 0.8])
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    r = engine.Retriever.from_embeddings(items, coarse_dim=2)
    assert r.search(items[:1], 3, duplicates=0.9).ids == [[0, 2]]


@pytest.mark.parametrize("block", [1, 4096])
def test_a_cosine_of_exactly_the_threshold_does_not_exceed_it(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors whose length and cosine are exact in float32: 0.5. Both in one block of hits, and in two."""
    monkeypatch.setattr(duplicates, "BLOCK", block)
    items = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    r = engine.Retriever.from_embeddings(items, coarse_dim=4)
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    for threshold, ids in ((0.5, [0, 1]), (below, [0])):
        assert r.search(items[:1], 2, duplicates=threshold).ids == [ids]


@pytest.mark.parametrize("threshold", [0, -1, 1.5, "0.9", float("nan")])
def test_bad_thresholds(threshold: Any) -> None:
    r = engine.Retriever.from_embeddings(clustered(8))
    with pytest.raises(engine.InvalidArgument, match="duplicates: expected a cosine above 0"):
        r.search(clustered(1), duplicates=threshold)
