"""What an index learned stays right as it grows, or it says so; learning anew needs no encoder."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import engine
from engine.coarse.reduction import learn_reduction, lost_share
from engine.coarse.rounding import restored, round_coarse, stored
from engine.index import Index

D, K = 64, 10
Vectors = NDArray[np.float32]


def axes(seed: int) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]


def kind(count: int, basis: NDArray[np.float64], seed: int = 0, size: float = 1.0) -> Vectors:
    """Vectors that vary most in the first axes of `basis`, as those of pictures do."""
    spread = np.random.default_rng(seed).standard_normal((count, D)) * (1 + np.arange(D)) ** -1.0
    vectors = spread @ basis
    return (size * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall(r: engine.Retriever, queries: Vectors, candidates: int = 20) -> float:
    """Of the exact ten, by NumPy in float64."""
    items = r.index.fine.astype(np.float64)
    live = np.ones(len(items), bool) if r.index.live is None else r.index.live
    scores = np.where(live, queries.astype(np.float64) @ items.T, -np.inf)
    true = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    found = r.search(queries, K, candidates=candidates).rows.numpy()
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(true, found, strict=True)]))


A, B = axes(1), axes(2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_from_a_first_few(dtype: Any) -> None:
    """A reduction of three items, or of another kind of item, is learned anew with those that follow."""
    items, queries = kind(3000, A), kind(50, A, seed=9)
    options: dict[str, Any] = {"coarse_dim": 16, "coarse_dtype": dtype}
    whole = recall(engine.Retriever.from_embeddings(items, **options), queries)
    for first in (items[:3], kind(500, B)):
        r = engine.Retriever.from_embeddings(first, **options)
        r.add(embeddings=items)
        assert recall(r, queries) > whole - 0.02
    assert r.index.header.misfits == {}


def test_outgrown_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An index that is too large to be learned anew by itself warns once, says so, and `relearn` mends it."""
    monkeypatch.setattr("engine.coarse.relearning.SETTLED", 500)
    monkeypatch.setattr("engine.index.manifest.MANY", 500)
    monkeypatch.setattr("engine.coarse.relearning.OUTGROWN", 1000)
    r = engine.Retriever.from_embeddings(kind(600, B), coarse_dim=16)
    items, queries = kind(3000, A), kind(50, A, seed=9)
    with pytest.warns(engine.MisfitWarning, match="reduction: cuts off"):
        r.add(embeddings=items[:1500])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r.add(embeddings=items[1500:])
    learned = r.index.header.learned
    assert learned is not None
    assert (learned.items, learned.later) == (600, 3000)
    cut = lost_share(torch.from_numpy(items), torch.from_numpy(np.asarray(r.index.reduction)))
    assert learned.later_lost == pytest.approx(cut, abs=1e-5)
    r.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert opened.header == r.index.header
    assert "reduction" in opened.header.misfits
    before = recall(r, queries)
    r.relearn()
    assert recall(r, queries) > before + 0.1
    assert r.index.header.misfits == {}
    r.save()
    again = engine.Retriever(tmp_path / "index")
    assert recall(again, queries) == recall(r, queries)
    again.index.verify()


def test_outgrown_and_not_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.coarse.relearning.SETTLED", 500)
    monkeypatch.setattr("engine.index.manifest.MANY", 500)
    r = engine.Retriever.from_embeddings(kind(600, B), coarse_dim=16)
    r.add(embeddings=kind(3000, A))
    learned = r.index.header.learned
    assert learned is not None
    assert (learned.items, learned.later) == (3600, 3000)
    assert r.index.header.misfits == {}


def test_a_prefix_and_given_vectors_stay() -> None:
    r = engine.Retriever.from_embeddings(kind(5, A), coarse_dim=16, reduction="prefix")
    r.add(embeddings=kind(900, A))
    np.testing.assert_array_equal(np.asarray(r.index.reduction), np.eye(D, 16))
    given = engine.Retriever.from_embeddings(kind(50, A), kind(50, A)[:, :8].copy())
    with pytest.raises(engine.InvalidArgument, match="relearn: expected an index that learned"):
        given.relearn()


@pytest.mark.parametrize("factor", [1, 2, 10, 100, 0.1])
def test_int8_of_later_items_of_another_size(factor: float, tmp_path: Path) -> None:
    """The scale is widened; the stored integers stand for the same vectors as before, within the wider step."""
    coarse = np.ascontiguousarray
    first, later = kind(800, A)[:, :16], kind(800, A, seed=5, size=factor)[:, :16]
    fine = np.concatenate([kind(800, A), kind(800, A, seed=5, size=factor)])
    r = engine.Retriever.from_embeddings(fine[:800], coarse(first), coarse_dtype="int8")
    r.save(tmp_path / "index")
    r.add(
        embeddings=engine.Embeddings(torch.from_numpy(coarse(later)), torch.from_numpy(fine[800:]))
    )
    r.save()
    how = r.index.header.quantization
    assert how is not None
    index = Index.open(tmp_path / "index")
    index.verify()
    made = restored(torch.from_numpy(np.array(index.coarse)), how).numpy()
    expected = np.concatenate([first, later])
    off = np.abs(made - expected)
    assert np.mean(off <= 1.01 * how.scale) > 0.999
    plain = engine.Retriever.from_embeddings(fine, coarse(expected))
    queries = engine.Embeddings(torch.from_numpy(coarse(first[:50])), torch.from_numpy(fine[:50]))
    ids = [
        {id for found in one.search(queries, K, candidates=40).ids for id in found}
        for one in (plain, r)
    ]
    assert len(ids[0] & ids[1]) >= 0.95 * len(ids[0])


def test_int8_in_a_cone() -> None:
    """A long mean that all items share is taken off; coarse scores count it."""
    vectors = kind(2000, A)[:, :16] + np.float32(3.0)
    rounded, how = round_coarse(torch.from_numpy(vectors), "int8")
    assert how is not None
    np.testing.assert_allclose(how.offset, vectors.mean(axis=0), atol=0.2)
    assert how.scale < 1.2 * np.abs(vectors - vectors.mean(axis=0)).max() / 127
    off = np.abs(restored(rounded, how).numpy() - vectors)
    assert np.mean(off <= 0.51 * how.scale) > 0.999
    assert torch.equal(stored(torch.from_numpy(vectors), how), rounded)
    fine = np.ascontiguousarray(vectors)
    r = engine.Retriever.from_embeddings(fine, fine, coarse_dtype="int8")
    queries = engine.Embeddings(torch.from_numpy(fine[:20]), torch.from_numpy(fine[:20]))
    found = r.search(queries, 5, mode="coarse")
    scores = np.take_along_axis(fine[:20].astype(float) @ fine.T, found.rows.numpy(), axis=1)
    np.testing.assert_allclose(found.scores.numpy(), scores, rtol=0.01)


def test_a_stale_calibration_is_not_used(tmp_path: Path) -> None:
    r = engine.Retriever.from_embeddings(kind(400, A), coarse_dim=16)
    queries = kind(200, A, seed=3)
    found = r.calibrate(queries, 5, target_recall=0.9)
    assert set(r.search(queries[:3], 5).guarantee) == {"calibrated"}
    r.add(embeddings=kind(20, A, seed=4), ids=range(400, 420))
    r.remove(range(400, 420))  # as many as before, and all of them the same; nobody has compared
    assert set(r.search(queries[:3], 5).guarantee) == {None}
    assert r.index.header.calibration == engine.Calibration(**{**vars(found), "changed": 40})
    with pytest.warns(engine.MisfitWarning, match="calibration: was made over 400 items, 65 were"):
        r.remove(range(25))
    r.save(tmp_path / "index")
    reopened = engine.Retriever(tmp_path / "index")
    assert set(reopened.index.header.misfits) == {"calibration"}
    exhausted = reopened.search(queries[:3], 5)
    wide = reopened.search(queries[:3], 5, candidates=128)
    assert torch.equal(exhausted.rows, wide.rows)


def asked_and_pictures() -> tuple[Vectors, Vectors]:
    """Queries of one kind, items that vary most in what no query speaks of."""
    chance = np.random.default_rng(0)
    meaning, style = A[:, :20].T, A[:, 20:50].T
    meant = chance.standard_normal((2000, 20))
    cones = 6 * A[:, 60], 6 * A[:, 61]
    items = cones[0] + 0.6 * meant @ meaning + 1.2 * chance.standard_normal((2000, 30)) @ style
    queries = cones[1] + (meant[:300] + 0.5 * chance.standard_normal((300, 20))) @ meaning
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, items)]
    return unit[0].astype(np.float32), unit[1].astype(np.float32)


def test_axes_chosen_for_queries() -> None:
    queries, items = asked_and_pictures()
    seen, new = queries[:200], queries[200:]
    plain = engine.Retriever.from_embeddings(items, coarse_dim=20)
    chosen = engine.Retriever.from_embeddings(items, coarse_dim=20, queries=seen)
    assert recall(plain, new, 60) < 0.3
    assert recall(chosen, new, 60) > 0.9
    plain.relearn(queries=seen)
    assert recall(plain, new) == recall(chosen, new)
    assert plain.index.header.learned.queries == 200  # type: ignore[union-attr]
    # Orthonormal, so that bounds hold and answers can be certified.
    matrix = np.asarray(plain.index.reduction, np.float64)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(20), atol=1e-5)
    assert set(plain.search(new, 1, candidates=1000, certify=True).guarantee) <= {"certified", None}


def test_axes_of_commuting_moments_are_the_best() -> None:
    """Where both moments have one set of axes, those of the largest products are chosen."""
    of_items, of_queries = np.arange(8, 0, -1.0), np.array([1, 1, 1, 9, 9, 1, 1, 1.0])
    items = torch.from_numpy(np.diag(np.sqrt(of_items)).astype(np.float32))
    half = np.diag(np.sqrt(of_queries))
    queries = torch.from_numpy(np.concatenate([half, -half]).astype(np.float32))
    matrix = learn_reduction(items, 3, queries=queries).abs()
    best = np.argsort(-of_items * of_queries)[:3]
    np.testing.assert_allclose(matrix.sum(dim=1)[best.tolist()].numpy(), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("queries", "options"),
    [
        (np.ones((5, D + 1), np.float32), {}),
        (np.full((5, D), np.nan, np.float32), {}),
        (np.ones((5, D), np.float32), {"reduction": "prefix"}),
        (np.ones((5, D), np.float32), {"coarse": np.ones((40, 4), np.float32)}),
    ],
)
def test_queries_that_cannot_be_used(queries: Vectors, options: dict[str, Any]) -> None:
    with pytest.raises(engine.InvalidArgument, match="queries"):
        engine.Retriever.from_embeddings(kind(40, A), queries=queries, **options)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_few_items(rows: int) -> None:
    r = engine.Retriever.from_embeddings(kind(rows, A), coarse_dim=16, coarse_dtype="int8")
    r.relearn()
    r.add(embeddings=kind(63, A, seed=2))
    r.relearn(queries=kind(3, A))
    assert recall(r, kind(5, A, seed=4)) > 0.8
    r.compact(relearn=True)
    assert len(r) == rows + 63
