"""`Retriever.search` against a float64 brute force, and what it refuses."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.embeddings import unit
from tests.engine.brute_force import COARSE, D, assert_found, brute_force, vectors
from tests.kernels.oracle import assert_ordinary


@pytest.mark.parametrize("count", [0, 1, 7, 63, 129, 1000])
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_exact_equals_brute_force(count: int, batch: int) -> None:
    items, queries = vectors(count), vectors(batch, seed=1)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE)
    assert_found(r.search(queries, k=10, mode="exact"), brute_force(queries, items, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("count", "dim"), [(0, 5), (1, 768), (7, 1), (33, 300), (1000, 64)])
def test_unit_vectors_have_the_bits_of_torchs_own(count: int, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    given = (10 * torch.randn(count, 2 * dim, generator=generator)).to(dtype)[:, ::2]
    if count > 1 and dtype == torch.float32:
        given[1], given[-1] = 0, 1e-20
    assert torch.equal(unit(given), torch.nn.functional.normalize(given, dim=1))


@pytest.mark.parametrize("count", [1, 7, 129, 1000])
def test_two_stage_reranks_the_coarse_candidates(count: int) -> None:
    """The oracle does both stages in float64: candidates by coarse vectors, order by fine ones."""
    fine, queries = vectors(count), vectors(9, seed=1)
    coarse, coarse_queries = vectors(count, COARSE, seed=2), vectors(9, COARSE, seed=3)
    r = engine.Retriever.from_embeddings(fine, coarse)
    found = r.search(
        engine.Embeddings(torch.from_numpy(coarse_queries), torch.from_numpy(queries)),
        5,
        candidates=20,
    )
    _, candidates = brute_force(coarse_queries, coarse, 20)
    mask = np.zeros((9, count), dtype=bool)
    for query, rows in enumerate(candidates):
        mask[query, rows[rows >= 0]] = True
    assert_found(found, brute_force(queries, fine, 5, mask))
    coarse_only = r.search(
        engine.Embeddings(torch.from_numpy(coarse_queries), torch.from_numpy(queries)),
        5,
        mode="coarse",
    )
    assert_found(coarse_only, brute_force(coarse_queries, coarse, 5))


def test_two_stage_with_every_item_a_candidate_is_exact() -> None:
    items, queries = vectors(129), vectors(8, seed=1)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE, candidates=129)
    assert_found(r.search(queries, k=7), brute_force(queries, items, 7))


def test_pca_keeps_the_inner_products_of_data_that_has_so_few_dims() -> None:
    """Items in a 16-dimensional subspace: 16 coarse dims lose nothing, so coarse and exact agree."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((D, COARSE)))[0]
    items = (rng.standard_normal((500, COARSE)) @ basis.T).astype(np.float32)
    queries = rng.standard_normal((6, D)).astype(np.float32)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE)
    assert r.search(queries, 10, mode="coarse").ids == r.search(queries, 10, mode="exact").ids
    reduction = r.index.reduction
    assert reduction is not None
    np.testing.assert_allclose(reduction.T @ reduction, np.eye(COARSE), atol=1e-6)


def test_items_are_stretched_to_their_length_and_queries_are_not() -> None:
    """What a reduction cuts off an item must not push it behind its neighbours; a zero vector stays one."""
    rng = np.random.default_rng(0)
    spread = (1 + np.arange(D)) ** -0.3
    items = np.repeat(rng.standard_normal((60, D)) * spread, 50, axis=0)  # sixty clusters
    items += rng.standard_normal((3000, D)) * spread / 2
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[7] = 0
    queries = items[100:164] + 0.02 * rng.standard_normal((64, D))
    r = engine.Retriever.from_embeddings(items.astype(np.float32), coarse_dim=COARSE)
    assert r.index.reduction is not None
    left = items @ r.index.reduction.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    stretched = np.divide(left, lengths, out=np.zeros_like(left), where=lengths > 0)
    np.testing.assert_allclose(r.index.coarse, stretched, atol=1e-6)
    scores = r.search(queries.astype(np.float32), 5, mode="coarse").scores.numpy()
    expected = -np.sort(-(queries @ r.index.reduction) @ stretched.T, axis=1)[:, :5]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    best = np.argsort(-queries @ items.T, axis=1)[:, :10]

    def held(coarse: np.ndarray) -> float:  # of the best ten, by 20 candidates
        listed = np.argsort(-(queries @ r.index.reduction) @ coarse.T, axis=1)[:, :20]  # type: ignore[operator]
        return float(
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, listed, strict=True)])
        )

    assert held(stretched) > held(left) + 0.05


def test_prefix_reduction_takes_the_first_coordinates() -> None:
    items = vectors(50)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE, reduction="prefix")
    cut = items[:, :COARSE].astype(np.float64)
    lengths = np.linalg.norm(items.astype(np.float64), axis=1) / np.linalg.norm(cut, axis=1)
    np.testing.assert_allclose(r.index.coarse, cut * lengths[:, None], rtol=1e-6)


def test_normalize_makes_the_score_the_cosine() -> None:
    items, queries = vectors(40) * 3, vectors(5, seed=1) * 7
    r = engine.Retriever.from_embeddings(items, normalize=True)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)
    cosines = queries @ items.T / lengths
    found = r.search(queries, k=40, mode="exact")
    np.testing.assert_allclose(
        found.scores.numpy(), -np.sort(-cosines, axis=1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["exact", "two_stage", "coarse"])
def test_filters(mode: Any) -> None:
    items, queries = vectors(129), vectors(3, seed=1)
    ids = [f"item {row}" for row in range(129)]
    r = engine.Retriever.from_embeddings(items, items, ids=ids, candidates=129)
    both = engine.Embeddings(torch.from_numpy(queries), torch.from_numpy(queries))
    shared = np.random.default_rng(0).random(129) < 0.3
    each = np.random.default_rng(1).random((3, 129)) < 0.05
    each[2] = False
    by_id = [np.array(ids)[row].tolist() for row in each]
    for given, mask in (
        (shared, shared),
        (torch.from_numpy(shared), shared),
        ([id for id, kept in zip(ids, shared, strict=True) if kept], shared),
        (each, each),
        (by_id, each),
    ):
        found = r.search(both, 10, mode=mode, filter=given)
        assert_found(found, brute_force(queries, items, 10, mask))
    assert found.ids[2] == []


def test_min_score_leaves_out_what_scores_lower() -> None:
    items, queries = vectors(129), vectors(4, seed=1)
    r = engine.Retriever.from_embeddings(items)
    scores, rows = brute_force(queries, items, 20)
    floor = float(np.median(scores))
    low = scores < floor
    expected = np.where(low, -np.inf, scores), np.where(low, -1, rows)
    assert_found(r.search(queries, 20, mode="exact", min_score=floor), expected)


@pytest.mark.parametrize("asked", [{}, {"min_score": -9.0}, {"duplicates": 0.99}], ids=str)
@pytest.mark.parametrize("mode", ["two_stage", "exact", "coarse"])
def test_results_are_ordinary_tensors(mode: Any, asked: dict[str, Any]) -> None:
    """Though the search runs in inference mode."""
    retriever = engine.Retriever.from_embeddings(vectors(60))
    found = retriever.search(vectors(3, seed=1), 4, mode=mode, **asked)
    assert_ordinary(found.scores, found.rows)


def test_one_query_is_a_batch_of_one_and_finds_the_same_in_any_batch() -> None:
    items = np.random.default_rng(0).standard_normal((1000, D)).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((257, D)).astype(np.float32)
    r = engine.Retriever.from_embeddings(items, coarse_dim=COARSE)
    together = r.search(queries, k=10)
    for row in (0, 100, 256):
        alone = r.search(queries[row], k=10)
        assert alone.scores.shape == (1, 10)
        assert torch.equal(alone.rows[0], together.rows[row])
        assert torch.equal(alone.scores[0], together.scores[row])


def test_results_iterate_as_hits_and_convert() -> None:
    items = np.eye(4, 8, dtype=np.float32)
    metadata = [{"name": "a"}, None, {"name": "ç"}, {"name": "d", "n": [1, 2]}]
    r = engine.Retriever.from_embeddings(items, ids=[10, 20, 30, 2**62], metadata=metadata)
    found = r.search(items[[2, 3]], k=1, mode="exact")
    assert list(found) == [
        [engine.Hit(30, 1.0, {"name": "ç"})],
        [engine.Hit(2**62, 1.0, {"name": "d", "n": [1, 2]})],
    ]
    assert found.to_list()[0] == [{"id": 30, "score": 1.0, "metadata": {"name": "ç"}}]
    assert found.ids == [[30], [2**62]]
    assert len(found) == 2
    assert found.timings.rerank > 0


def test_add_and_remove_leave_ids_alone_and_equal_a_fresh_index() -> None:
    items = vectors(100)
    r = engine.Retriever.from_embeddings(items[:60], candidates=100, coarse_dim=D)
    r.add(embeddings=items[60:])
    assert r.index.ids_at(np.arange(100)) == list(range(100))
    r.remove([3, 97, 50])
    assert len(r) == 97
    left = np.delete(np.arange(100), [3, 50, 97])
    queries = vectors(5, seed=1)
    _, rows = brute_force(queries, items[left], 10)
    assert r.search(queries, 10, mode="exact").ids == left[rows].tolist()
    r.add(embeddings=items[:1])
    assert r.index.ids_at(np.array([100])) == [100]  # rows count deleted items too
    r.add(embeddings=items[:1], ids=[3])
    assert r.index.rows_of([3]).tolist() == [101]


def test_searching_while_adding_sees_whole_indexes_only() -> None:
    """Every answer is that of some moment: the best item found is never older than the search's start."""
    r = engine.Retriever.from_embeddings(np.ones((1, 8), dtype=np.float32), coarse_dim=8)
    query, wrong = np.ones(8, dtype=np.float32), []

    def ask() -> None:
        for _ in range(60):
            before = len(r)
            found = r.search(query, k=1)
            if not found.scores[0, 0] >= 8 * before or found.ids[0][0] < before - 1:  # type: ignore[operator]
                wrong.append((before, found.ids))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(2, 60):  # each new item scores higher than all before
        r.add(embeddings=np.full((1, 8), step, dtype=np.float32))
    for thread in threads:
        thread.join()
    assert not wrong


def test_repr_and_length_and_context() -> None:
    with engine.Retriever.from_embeddings(vectors(7), coarse_dim=COARSE) as r:
        assert len(r) == 7
        assert repr(r) == (
            "Retriever(N=7, coarse=16xfloat32 (448 B), fine=48xfloat32 (1,344 B, host), "
            "device='cpu', backend='auto')"
        )
    assert repr(r) == "Retriever(closed, device='cpu', backend='auto')"


CLOSED: dict[str, Callable[[engine.Retriever, Path], object]] = {
    "search": lambda r, _: r.search(vectors(2)),
    "add": lambda r, _: r.add(embeddings=vectors(2)),
    "remove": lambda r, _: r.remove([1]),
    "compact": lambda r, _: r.compact(),
    "calibrate": lambda r, _: r.calibrate(vectors(400)),
    "evaluate": lambda r, _: r.evaluate(vectors(2)),
    "warmup": lambda r, _: r.warmup(),
    "save": lambda r, place: r.save(place),
    "refresh": lambda r, _: r.refresh(),
    "index": lambda r, _: r.index,
    "len": lambda r, _: len(r),
    "pickle": lambda r, _: pickle.dumps(r),
}


@pytest.mark.parametrize("act", CLOSED.values(), ids=CLOSED)
def test_a_closed_retriever_says_that_it_is_closed(
    act: Callable[[engine.Retriever, Path], object], tmp_path: Path
) -> None:
    r = engine.Retriever.from_embeddings(vectors(7), coarse_dim=COARSE)
    held = r.search(vectors(2), 3)
    r.close()
    r.close()
    with pytest.raises(
        engine.InvalidArgument, match=r"retriever: .* open, got one that was closed"
    ):
        act(r, tmp_path / "index")
    assert not list(tmp_path.iterdir())
    assert [len(hits) for hits in held] == [3, 3]  # an answer keeps what it found


BAD_OPENINGS: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"backend": "bogus"}, 'backend: expected "auto", .*, got .bogus.'),
    "backend none": ({"backend": None}, "backend: expected"),
    "device": ({"device": "bogus"}, 'device: expected "auto", "cpu".*, got .bogus.'),
    "device none": ({"device": None}, "device: expected"),
    "device without memory": ({"device": "meta"}, "device: expected"),
    "candidates": ({"candidates": 0}, "candidates: expected"),
    "tier": ({"fine_tier": "bogus"}, "fine_tier: expected"),
    "encoder": ({"encoder": 5}, "encoder: expected a path"),
}


@pytest.mark.parametrize("how", BAD_OPENINGS)
def test_what_it_cannot_be_opened_with_is_refused_at_once(how: str) -> None:
    arguments, message = BAD_OPENINGS[how]
    with pytest.raises(engine.InvalidArgument, match=message):
        engine.Retriever.from_embeddings(vectors(3), **arguments)


BAD_SEARCHES: dict[str, tuple[dict[str, Any], str]] = {
    "k zero": ({"k": 0}, "k: expected an integer of at least 1, got 0"),
    "k not whole": ({"k": 2.5}, "k: expected an integer"),
    "k true": ({"k": True}, "k: expected an integer"),
    "min_score": ({"min_score": "a"}, "min_score: expected one number, got str 'a'"),
    "mode": ({"mode": "fast"}, 'mode: expected "two_stage"'),
    "candidates below k": (
        {"k": 9, "candidates": 8},
        r"candidates: expected at least k \(9\), got 8",
    ),
    "dims": (
        {"batch": vectors(2, 47)},
        "batch: expected vectors of 48 dims, as the index has, got 47",
    ),
    "rank": ({"batch": vectors(8).reshape(2, 4, D)}, r"batch: expected shape \[B, D\]"),
    "kind": ({"batch": 3}, "batch: expected text"),
    "kind in a list": ({"batch": [vectors(1)[0], 3]}, r"batch\[1\]: expected str, PIL.Image"),
    "list of lists": ({"batch": [[0.0] * D]}, r"batch\[0\]: expected str"),
    "dtype": ({"batch": np.array([["a"] * D])}, "batch: expected real numbers"),
    "NaN": ({"batch": np.full((2, D), np.nan, np.float32)}, "NaN or inf in row 0"),
    "inf": ({"batch": np.vstack([vectors(1), np.full((1, D), np.inf)])}, "NaN or inf in row 1"),
    "empty text": ({"batch": ["  "]}, r"batch\[0\]: expected words"),
    "no encoder": ({"batch": "a red car"}, "encoder: expected an encoder"),
    "mask shape": (
        {"filter": np.ones(3, dtype=bool)},
        r"filter: expected a bool mask of shape \[7\]",
    ),
    "filter kind": ({"filter": 0}, "filter: expected a bool mask"),
    "unknown id": ({"filter": [0, 99]}, "filter: expected ids that the index holds .* got 99"),
    "lists of ids": ({"filter": [[0]]}, r"filter: expected one list of ids per query \(2\), got 1"),
    "coarse dims": (
        {"batch": engine.Embeddings(torch.ones(2, 3), torch.ones(2, D))},
        "batch.coarse: expected vectors of 16 dims",
    ),
    "coarse rows": (
        {"batch": engine.Embeddings(torch.ones(1, COARSE), torch.ones(2, D))},
        "batch.coarse: expected as many rows",
    ),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_bad_searches_are_refused_by_name(name: str) -> None:
    arguments, message = BAD_SEARCHES[name]
    r = engine.Retriever.from_embeddings(vectors(7), coarse_dim=COARSE)
    with pytest.raises(engine.InvalidArgument, match=message):
        r.search(**{"batch": vectors(2), **arguments})


def test_fine_vectors_alone_cannot_search_an_index_that_was_given_its_coarse_ones() -> None:
    r = engine.Retriever.from_embeddings(vectors(7), vectors(7, COARSE))
    with pytest.raises(engine.InvalidArgument, match="coarse and fine vectors"):
        r.search(vectors(1))
    assert r.search(vectors(1), k=1, mode="exact").ids == [[0]]


BAD_ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": (
        {"fine": np.where(np.eye(7, D) > 0, np.nan, vectors(7))},
        "fine: .* NaN or inf in row 0",
    ),
    "twice": ({"ids": [1, 2, 3, 4, 5, 6, 1]}, "ids: expected different ids, got 1 twice"),
    "mixed": ({"ids": [1, 2, 3, 4, 5, 6, "7"]}, "ids: expected all str or all int, got int, str"),
    "floats": ({"ids": [0.5] * 7}, "ids: expected all str or all int, got float"),
    "too large": ({"ids": [*range(6), 2**63]}, "ids: expected integers that fit int64"),
    "too few": ({"ids": [1, 2]}, r"ids: expected one id per item \(7\), got 2"),
    "metadata": ({"metadata": [{}]}, "metadata: expected one mapping or None per item"),
    "not Parquet": (
        {"metadata": [{"a": object()}] * 7},
        "metadata: expected values of one type that Parquet can hold in column 'a'",
    ),
    "coarse rows": ({"coarse": vectors(6, COARSE)}, r"coarse: expected as many rows as fine \(7\)"),
    "reduction": ({"reduction": "random"}, 'reduction: expected "pca" or "prefix"'),
    "list": ({"fine": [[1.0]]}, "fine: expected a tensor or array"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_bad_items_are_refused_by_name(name: str) -> None:
    arguments, message = BAD_ITEMS[name]
    with pytest.raises(engine.InvalidArgument, match=message):
        engine.Retriever.from_embeddings(**{"fine": vectors(7), **arguments})


def test_values_are_checked_after_the_cast_to_the_stored_dtype() -> None:
    r = engine.Retriever.from_embeddings(vectors(7).astype(np.float16))
    with pytest.raises(engine.InvalidArgument, match="float16, got NaN or inf in row 0"):
        r.search(np.full((1, D), 70_000, dtype=np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embeddings": vectors(1, 47)}, "expected vectors of 48 dims"),
        ({"embeddings": vectors(1), "ids": ["a"]}, "ids: expected integers, got strings"),
        (
            {"embeddings": vectors(1), "ids": [5]},
            "ids: expected ids that the index does not hold yet, got 5",
        ),
        ({"embeddings": np.full((1, D), np.nan)}, "NaN or inf in row 0"),
        ({}, "items: expected either items or embeddings, got neither"),
    ],
)
def test_a_refused_add_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    r = engine.Retriever.from_embeddings(vectors(7))
    before = r.index
    with pytest.raises(engine.InvalidArgument, match=message):
        r.add(**arguments)
    assert r.index is before


def test_removing_an_unknown_id_changes_nothing() -> None:
    r = engine.Retriever.from_embeddings(vectors(7))
    before = r.index
    with pytest.raises(engine.UnknownId, match=r"ids: expected ids that the index holds .* got 7"):
        r.remove([0, 7])
    assert r.index is before
    with pytest.raises(KeyError):
        r.remove(["0"])


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(engine.InvalidArgument, match="device: expected"):
        engine.Retriever.from_embeddings(vectors(7), device=device)
