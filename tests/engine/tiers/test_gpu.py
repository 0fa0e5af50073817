"""What a GPU changes in the engine: where vectors lie and who multiplies them. The answers stay the same.

Vectors are integers, as in test_retriever.py: every inner product is exact, whoever computes it.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import engine
from engine.tiers import fine as fine_module
from tests.conftest import CHECKPOINT, PICTURES
from tests.engine.brute_force import COARSE, vectors
from tests.engine.tiers.agreement import assert_finds_what_brute_force_finds, both

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
COUNT, GONE = 5000, [5, 60, 4999]


@pytest.mark.parametrize("tier", ["device", "host", "disk", "auto"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("batch", [0, 1, 40])
def test_every_tier_finds_what_brute_force_finds(
    tmp_path: Path, tier: Any, dtype: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four segments, one of them not saved, and rows that were removed."""
    monkeypatch.setattr(fine_module, "GATHERED_BYTES", 40_000)  # several blocks of queries
    fine, coarse = vectors(COUNT).astype(dtype), vectors(COUNT, COARSE, seed=2)
    engine.Retriever.from_embeddings(fine[:3000], coarse[:3000], device="cuda").save(tmp_path)
    with engine.Retriever(tmp_path, device="cuda", fine_tier=tier) as r:
        for first, last in ((3000, 3001), (3001, 4500), (4500, COUNT)):
            r.add(embeddings=both(coarse[first:last], fine[first:last]))
            if last < COUNT:
                r.save()
        r.remove(GONE)
        assert_finds_what_brute_force_finds(r, fine, coarse, GONE, batch)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_coarse_vectors_in_every_dtype_answer_as_on_the_cpu(dtype: Any) -> None:
    fine, coarse = vectors(COUNT), vectors(COUNT, COARSE, seed=2)
    asked = both(vectors(9, COARSE, seed=3), vectors(9, seed=1))
    found = []
    for device in ("cuda", "cpu"):
        with engine.Retriever.from_embeddings(fine, coarse, coarse_dtype=dtype, device=device) as r:
            found.append([r.search(asked, 30, mode=mode) for mode in ("coarse", "two_stage")])
    for ours, expected in zip(*found, strict=True):
        assert ours.rows.cpu().equal(expected.rows)
        assert ours.scores.cpu().equal(expected.scores)


def test_what_stands_on_a_search_does_on_a_gpu() -> None:
    """A learned reduction, filters, duplicates, certificates, calibration and the curve, beside the CPU's."""
    fine, queries = vectors(COUNT), vectors(20, seed=1)
    fine[::7] = fine[0]  # duplicates
    answers = []
    for device in ("cuda", "cpu"):
        r = engine.Retriever.from_embeddings(fine, coarse_dim=COARSE, device=device)
        found = [
            r.search(queries, 7, candidates=COUNT, certify=True),
            r.search(queries, 7, candidates=COUNT, duplicates=0.99),
            r.search(queries, 7, mode="exact", filter=[3, 7, 14, 4000], min_score=0.0),
        ]
        calibration = r.calibrate(vectors(500, seed=8), 5)
        assert r.evaluate(queries, 5, candidates=(64, COUNT)).rows[1][1] == 1.0
        answers.append((found, calibration.candidates))
    ours, expected = answers
    for mine, theirs in zip(ours[0], expected[0], strict=True):
        assert mine.ids == theirs.ids
        assert mine.guarantee == theirs.guarantee
        assert mine.scores.cpu().equal(theirs.scores)
    assert ours[1] == pytest.approx(
        expected[1], rel=0.1
    )  # float32 projections differ in the last bits


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_captured_search_answers_as_any_other(dtype: Any) -> None:
    """From the graphs of `warmup`: new queries, deleted rows, other threads and streams, a changed index."""
    fine, coarse = vectors(COUNT), vectors(COUNT, COARSE, seed=2)
    plain, warm = (
        engine.Retriever.from_embeddings(fine, coarse, coarse_dtype=dtype, device="cuda")
        for _ in range(2)
    )

    def agree(seed: int, batch: int, **how: Any) -> bool:
        asked = both(vectors(batch, COARSE, seed=seed), vectors(batch, seed=seed + 1))
        found, expected = (r.search(asked, 5, candidates=40, **how) for r in (warm, plain))
        return found.rows.equal(expected.rows) and found.scores.equal(expected.scores)

    for r in (plain, warm):
        r.remove(GONE)
    warm.warmup((1, 9), 5, candidates=40)
    captured = warm._collection.snapshot.captured
    assert set(captured) == {(1, 40, 5), (9, 40, 5)}
    assert all(agree(seed, batch) for seed in (3, 30) for batch in (1, 2, 9))
    assert agree(3, 9, filter=np.arange(COUNT) % 3 > 0)
    wrong: list[int] = []

    def work(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            wrong.extend(seed for _ in range(20) if not agree(seed, 9))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(50, 56)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for r in (plain, warm):
        r.add(embeddings=both(vectors(30, COARSE, seed=8) * 2, vectors(30, seed=9) * 2))
    assert not warm._collection.snapshot.captured
    assert all(agree(3, batch) for batch in (1, 9))


@pytest.mark.parametrize("mode", ["two_stage", "exact", "coarse"])
@pytest.mark.parametrize("warm", [False, True], ids=["called", "captured"])
def test_a_query_that_is_not_finite_is_refused(mode: Any, warm: bool) -> None:
    """Only after the search was launched: the next one is none the worse for it."""
    fine, coarse = vectors(COUNT).astype(np.float16), vectors(COUNT, COARSE, seed=2)
    r = engine.Retriever.from_embeddings(fine, coarse, device="cuda")
    if warm:
        r.warmup((3,), 5, candidates=40)
    good = both(vectors(3, COARSE, seed=3), vectors(3, seed=4))
    bad = both(vectors(3, COARSE, seed=3), vectors(3, seed=4))
    bad.fine[1, 2] = torch.inf
    before = r.search(good, 5, candidates=40, mode=mode)
    with pytest.raises(engine.InvalidArgument, match=r"(?s)batch.*NaN or inf in row 1"):
        r.search(bad, 5, candidates=40, mode=mode)
    again = r.search(good, 5, candidates=40, mode=mode)
    assert again.rows.equal(before.rows)
    assert again.scores.equal(before.scores)


def test_exact_search_over_long_vectors_is_the_cpus() -> None:
    """768 dims: in chunks. Real numbers, so the scores are of the fixed order to the bit."""
    generator = np.random.default_rng(0)
    fine = generator.standard_normal((3000, 768)).astype(np.float16)
    asked = generator.standard_normal((20, 768)).astype(np.float16)
    ours, expected = (
        engine.Retriever.from_embeddings(fine, device=device).search(asked, 10, mode="exact")
        for device in ("cuda", "cpu")
    )
    assert ours.rows.cpu().equal(expected.rows)
    assert ours.scores.cpu().equal(expected.scores)


def test_towers_give_the_vectors_of_the_cpu() -> None:
    texts = ["a red car", "a dog", "an umbrella in the rain"]
    pictures = [Image.open(p) for p in sorted((PICTURES / "noto").glob("*.webp"))[:20]]
    ours, expected = (engine.open_encoder(CHECKPOINT, device=device) for device in ("cuda", "cpu"))
    for mine, theirs in (
        (ours.encode_texts(texts), expected.encode_texts(texts)),
        (ours.encode_images(pictures), expected.encode_images(pictures)),
    ):
        for level in ("coarse", "fine"):
            products = (getattr(mine, level).cpu() * getattr(theirs, level)).sum(dim=1)
            assert float(products.min()) > 0.9999
    r = engine.Retriever.from_pretrained(CHECKPOINT, device="cuda")
    r.add(pictures)
    assert r.search(pictures[3], 1).ids == [[3]]
