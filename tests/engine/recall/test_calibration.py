"""Calibration, guarantees and the curve, against float64 brute force."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import engine
from engine.recall.calibration import binomial_tail, chance, losses
from engine.recall.certificate import bounds_of

N, D, COARSE, K = 3000, 32, 8, 5


def vectors(count: int, seed: int, decay: float = 0.9) -> NDArray[np.float32]:
    """Unit vectors whose dims matter less and less, turned at random (the same way for every seed)."""
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((D, D)))[0]
    values = np.random.default_rng(seed).standard_normal((count, D)) * decay ** np.arange(D)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return (values @ turn).astype(np.float32)


@pytest.fixture
def retriever() -> engine.Retriever:
    """Two segments, some items removed."""
    items = vectors(N, 0)
    r = engine.Retriever.from_embeddings(items[:2000], coarse_dim=COARSE)
    r.add(embeddings=items[2000:])
    r.remove([1, 2500])
    return r


def recalls(r: engine.Retriever, queries: NDArray[Any], candidates: int) -> NDArray[np.float64]:
    """Of the exact K best, each query; everything in float64 but the stored vectors."""
    live = np.ones(N, dtype=bool) if r.index.live is None else r.index.live
    fine, coarse = (np.asarray(a, dtype=np.float64) for a in (r.index.fine, r.index.coarse))
    assert r.index.reduction is not None
    scores = np.where(live, queries.astype(np.float64) @ fine.T, -np.inf)
    rough = np.where(live, (queries.astype(np.float64) @ r.index.reduction) @ coarse.T, -np.inf)
    exact = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    listed = np.argsort(-rough, axis=1, kind="stable")[:, :candidates]
    return np.array(
        [len(set(a) & set(b)) / K for a, b in zip(exact.tolist(), listed.tolist(), strict=True)]
    )


def bentkus(loss: float, count: int, mean: float) -> float:
    """The same bound by exact integers."""
    tail = sum(
        math.comb(count, lost) * mean**lost * (1 - mean) ** (count - lost)
        for lost in range(min(math.ceil(loss - 1e-9), count) + 1)
    )
    return min(1.0, math.e * tail)


@pytest.mark.parametrize("target", [0.8, 0.9, 0.99])
def test_the_smallest_count_that_passes(retriever: engine.Retriever, target: float) -> None:
    queries = vectors(600, 1)
    found = retriever.calibrate(queries, K, target_recall=target)
    tried = {
        count: recalls(retriever, queries, count)
        for count in (found.candidates, found.candidates - 1)
    }
    passes = {c: bentkus((1 - r).sum(), 600, 1 - target) <= 0.05 for c, r in tried.items()}
    assert passes == {found.candidates: True, found.candidates - 1: False}
    assert found.recall == pytest.approx(tried[found.candidates].mean())
    assert target <= found.lower_bound < found.recall
    assert (found.k, found.queries, found.items, found.confidence) == (K, 600, N - 2, 0.95)


def test_held_out_queries_reach_the_target(retriever: engine.Retriever) -> None:
    """Twenty calibrations on 100 queries each: the recall on 1,000 others falls short in none or few of them."""
    others = vectors(1000, 10_000)
    found = [
        retriever.calibrate(vectors(100, 2 + seed), K, target_recall=0.9).candidates
        for seed in range(20)
    ]
    reached = {count: recalls(retriever, others, count).mean() for count in set(found)}
    print({count: round(float(recall), 4) for count, recall in sorted(reached.items())})
    assert sum(reached[count] < 0.9 for count in found) <= 2  # one expected at the most


def test_it_is_kept_with_the_index(retriever: engine.Retriever, tmp_path: Path) -> None:
    found = retriever.calibrate(vectors(400, 1), K, target_recall=0.95)
    retriever.save(tmp_path / "index")
    assert engine.Index.open(tmp_path / "index").header.calibration == found
    opened = engine.Retriever(tmp_path / "index")
    again = opened.calibrate(vectors(500, 2), K, target_recall=0.95)
    opened.save()
    assert engine.Index.open(tmp_path / "index").header.calibration == again != found
    queries = vectors(50, 3)
    own = opened.search(queries, K)
    named = opened.search(queries, K, candidates=again.candidates)
    assert own.ids == named.ids
    assert set(own.guarantee) == set(named.guarantee) == {"calibrated"}


def test_when_it_is_not_calibrated(retriever: engine.Retriever) -> None:
    """Another k, fewer candidates, a filter, the other mode, other items: no promise."""
    queries = vectors(4, 3)
    assert set(retriever.search(queries, K).guarantee) == {None}
    found = retriever.calibrate(vectors(400, 1), K, target_recall=0.95)
    for options in (
        {"k": K - 1},
        {"k": K + 1},
        {"k": K, "candidates": found.candidates - 1},
        {"k": K, "filter": list(range(500, 2000))},
        {"k": K, "mode": "coarse"},
        {"k": K, "duplicates": 0.9},
    ):
        assert set(retriever.search(queries, **options).guarantee) == {None}, options
    assert set(retriever.search(queries, K).guarantee) == {"calibrated"}
    retriever.remove([3])
    assert set(retriever.search(queries, K).guarantee) == {None}


def test_exact(retriever: engine.Retriever) -> None:
    queries = vectors(4, 3)
    assert retriever.search(queries, K, mode="exact").guarantee == ("exact",) * 4
    assert retriever.search(queries, K, candidates=N).guarantee == ("exact",) * 4
    few = retriever.search(queries, K, candidates=20, filter=list(range(10, 25)))
    assert few.guarantee == ("exact",) * 4
    assert few.ids == retriever.search(queries, K, mode="exact", filter=list(range(10, 25))).ids
    many = retriever.search(queries, K, candidates=20, filter=list(range(10, 40)))
    assert many.guarantee == (None,) * 4


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("decay", [0.5, 0.7, 0.9])
def test_certified_is_exact(dtype: Any, decay: float) -> None:
    """Wherever a certificate is given, the answer is that of the exact mode; where dims hardly decay, none is."""
    items, queries = vectors(N, 0, decay).astype(dtype), vectors(300, 1, decay)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE)
    found = r.search(queries, K, candidates=60, certify=True)
    exact = r.search(queries, K, mode="exact")
    proven = np.array([guarantee == "certified" for guarantee in found.guarantee])
    np.testing.assert_array_equal(found.rows[proven], exact.rows[proven])
    print(f"decay {decay}, {np.dtype(dtype)}: {proven.mean():.0%} certified")
    assert proven.mean() > 0.5 if decay == 0.5 else proven.mean() < 1
    assert set(r.search(queries, K, candidates=60).guarantee) == {None}


def test_bounds_hold_for_every_item() -> None:
    items = vectors(N, 0)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE)
    bounds = bounds_of(r._collection.snapshot)
    assert bounds is not None
    projection = bounds.projection.numpy()
    np.testing.assert_allclose(projection.T @ projection, np.eye(COARSE), atol=1e-12)
    part = items.astype(np.float64) @ projection
    rest = np.linalg.norm(items - part @ projection.T, axis=1)
    assert bounds.residual == pytest.approx(rest.max())
    assert bounds.part == pytest.approx(np.linalg.norm(part, axis=1).max())
    assert bounds.error < 1e-6
    assert bounds_of(r._collection.snapshot) is bounds
    r.add(embeddings=3 * items[:1])
    longer = bounds_of(r._collection.snapshot)
    assert longer is not None
    assert longer.fine == pytest.approx(3, rel=1e-6)


def test_an_item_built_to_break_a_looser_bound() -> None:
    """The best item hides from the coarse vectors: without the residual's term the answer would be certified."""
    items = np.zeros((40, 4), dtype=np.float32)
    items[:, 0] = np.linspace(1, 0.9, 40)
    items[39] = (-0.05, 0, 0, 3)  # coarse score -3, fine score 1.45
    r = engine.Retriever.from_embeddings(items, coarse_dim=1, reduction="prefix")
    query = np.array([[1, 0, 0, 0.5]], dtype=np.float32)
    found = r.search(query, 1, candidates=5, certify=True)
    assert (found.ids, found.guarantee) == ([[0]], (None,))
    assert r.search(query, 1, mode="exact").ids == [[39]]


def test_vectors_without_a_projection_are_never_certified() -> None:
    items, queries = vectors(100, 0), vectors(3, 1)
    coarse = np.random.default_rng(2).standard_normal((100, 4)).astype(np.float32)
    r = engine.Retriever.from_embeddings(items, coarse)
    both = engine.Embeddings(torch.from_numpy(coarse[:3]), torch.from_numpy(queries))
    assert r.search(both, 2, candidates=9, certify=True).guarantee == (None,) * 3


def test_the_curve(retriever: engine.Retriever, tmp_path: Path) -> None:
    queries = vectors(70, 1)
    curve = retriever.evaluate(queries, K, candidates=(1, 10, 100, 10, N))
    rows = list(curve)
    assert [row[0] for row in rows] == [10, 100, N, None]
    for candidates, recall, ms in rows:
        expected = 1.0 if candidates is None else recalls(retriever, queries, candidates).mean()
        assert recall == pytest.approx(expected)
        assert ms > 0
    table = curve.to_markdown()
    assert table.startswith(
        f"| candidates | recall@{K} | ms for 70 queries |\n|---|---|---|\n| 10 | 0."
    )
    assert "\n| exact | 1.0000 | " in table
    curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(engine.InvalidArgument, match="some number of at least k"):
        retriever.evaluate(queries, K, candidates=(1, 2))


def test_the_bound_against_exact_arithmetic() -> None:
    for count, mean in ((1, 0.5), (7, 0.1), (129, 0.01), (1000, 0.05)):
        for loss in (0, 0.3, 1, 5.5, count):
            lost = torch.full((count,), loss / count, dtype=torch.float64)
            assert chance(lost, mean) == pytest.approx(bentkus(loss, count, mean), rel=1e-9)
    assert binomial_tail(3, 3, 0.2) == 1
    assert binomial_tail(0, 9, 1.0) == 0


def test_losses_of_few_items() -> None:
    """Fewer items than k: recall is of what there is; nothing there, nothing lost."""
    ranks = torch.tensor([[0, 9, -1], [-1, -1, -1]])
    assert losses(ranks, 5).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected an integer"),
        ({"target_recall": 1.0}, "target_recall: expected a share"),
        ({"confidence": 0}, "confidence: expected a share"),
        ({"target_recall": 0.999}, "at least 3994 queries"),
    ],
)
def test_bad_calibrations(
    retriever: engine.Retriever, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(engine.InvalidArgument, match=message):
        retriever.calibrate(vectors(400, 1), **arguments)
    assert retriever.index.header.calibration is None
