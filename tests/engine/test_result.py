"""What a search gives back however it was asked: k beyond the items, batches in blocks, queries that failed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import engine
from engine.queries import blocks
from engine.result import LARGEST_ANSWER, MOST_PADDING, check_k
from engine.tiers import duplicates
from tests.conftest import PICTURES

COUNT, D = 300, 24
FILES = sorted((PICTURES / "noto").glob("*.webp"))[:3]


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Small integers: there are ties."""
    return np.random.default_rng(seed).integers(-3, 4, (count, D)).astype(np.float32)


@pytest.fixture(scope="module")
def retriever() -> engine.Retriever:
    r = engine.Retriever.from_embeddings(vectors(COUNT), coarse_dim=8)
    r.remove([3, 200])
    return r


def same(found: engine.SearchResult, expected: engine.SearchResult) -> None:
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores, expected.scores)
    assert found.guarantee == expected.guarantee
    assert found.ids == expected.ids


# ---------------------------------------------------------------------- k and candidates


@pytest.mark.parametrize("mode", ["two_stage", "exact", "coarse"])
@pytest.mark.parametrize("k", [COUNT - 2, COUNT, COUNT + 1, 10_000, MOST_PADDING])
def test_more_than_there_is_is_padding(retriever: engine.Retriever, mode: Any, k: int) -> None:
    """The rest is row -1, score -inf; what is found is what a search for all of them finds."""
    found = retriever.search(vectors(2, 1), k, mode=mode)
    every = retriever.search(vectors(2, 1), COUNT - 2, mode=mode, candidates=COUNT)
    assert found.rows.shape == found.scores.shape == (2, k)
    assert found.counts.tolist() == [COUNT - 2] * 2
    assert torch.equal(found.rows[:, : COUNT - 2], every.rows)
    assert torch.equal(found.scores[:, : COUNT - 2], every.scores)
    assert (found.rows[:, COUNT - 2 :] == -1).all()
    assert torch.isneginf(found.scores[:, COUNT - 2 :]).all()
    if mode != "coarse":
        assert found.guarantee == ("exact", "exact")


@pytest.mark.parametrize("number", [10**8, 10**9, 2**40, 2**62, 2**63, 2**70])
def test_beyond_all_memory(retriever: engine.Retriever, number: int) -> None:
    """A huge k is refused; a huge number of candidates is that of the items."""
    for mode in ("two_stage", "exact", "coarse"):
        with pytest.raises(engine.InvalidArgument, match="k: expected at most 1,048,576, got"):
            retriever.search(vectors(1), number, mode=mode)
    for act in (
        lambda: retriever.calibrate(vectors(400), number),
        lambda: retriever.evaluate(vectors(3), number),
        lambda: retriever.warmup(k=number),
    ):
        with pytest.raises(engine.InvalidArgument, match="k: expected at most"):
            act()
    every = retriever.search(vectors(3, 1), 5, candidates=COUNT)
    same(retriever.search(vectors(3, 1), 5, candidates=number), every)
    listed = retriever.search(vectors(3, 1), 5, candidates=COUNT, duplicates=0.9)
    same(retriever.search(vectors(3, 1), 5, candidates=number, duplicates=0.9), listed)
    curve = retriever.evaluate(vectors(3, 1), 5, candidates=[number])
    assert [row[:2] for row in curve] == [(number, 1.0), (None, 1.0)]
    wide = engine.Retriever(retriever.index, candidates=number)
    same(wide.search(vectors(3, 1), 5), every)


def test_answers_of_many_queries() -> None:
    assert check_k(LARGEST_ANSWER, LARGEST_ANSWER) == LARGEST_ANSWER
    with pytest.raises(engine.InvalidArgument, match=r"hits of all 3 queries.*fewer queries at a"):
        check_k(LARGEST_ANSWER // 2, LARGEST_ANSWER, 3)


@pytest.mark.parametrize("mode", ["two_stage", "exact", "coarse"])
@pytest.mark.parametrize("many", [{}, {"certify": True}, {"filter": "each"}, {"duplicates": 0.8}])
def test_blocks_of_queries_give_the_same_bits(
    retriever: engine.Retriever, mode: Any, many: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "filter" in many:
        many = {"filter": np.random.default_rng(2).random((11, COUNT)) < 0.3}
    whole = retriever.search(vectors(11, 1), 7, mode=mode, **many)
    monkeypatch.setattr(blocks, "PLACES", 128 * 4)
    parts = retriever.search(vectors(11, 1), 7, mode=mode, **many)
    same(parts, whole)
    assert all(seconds > 0 for seconds in vars(parts.timings).values()) or mode != "two_stage"


def test_near_duplicates_in_blocks(
    retriever: engine.Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retriever.search(vectors(5, 1), 40, candidates=COUNT, duplicates=0.3)
    assert (whole.counts < 40).any()  # to the end of all candidates
    monkeypatch.setattr(duplicates, "BLOCK", 16)
    same(retriever.search(vectors(5, 1), 40, candidates=COUNT, duplicates=0.3), whole)


# ---------------------------------------------------------------------- queries that fail


@pytest.fixture(scope="module")
def pictured(untrained: Path) -> engine.Retriever:
    r = engine.Retriever.from_pretrained(untrained)
    r.add(sorted((PICTURES / "noto").glob("*.webp"))[:12], metadata=[{"n": n} for n in range(12)])
    return r


def test_one_bad_query_does_not_reject_the_others(
    pictured: engine.Retriever, tmp_path: Path
) -> None:
    """Every kind of query that fails, among ones that do not, which are answered as if they were alone."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    vector = pictured.index.fine[4]
    batch: list[Any] = [
        *("a dog", " ", FILES[1], broken, b"no picture", tmp_path / "none.jpg", "cat.jpg", 5),
        engine.Query("a dog", FILES[2], (1, 0.5)),
        engine.Query("a dog", broken),
        np.full_like(vector, np.nan),
    ]
    good = {0: "a dog", 2: FILES[1], 8: batch[8], 11: vector}
    for arguments in ({"mode": "exact"}, {"k": 3}, {"filter": "n < 7"}, {"k": 20, "min_score": 0}):
        if arguments == {"mode": "exact"}:
            batch = [*batch, vector]  # which the index, for lack of a reduction, takes only then
        else:
            batch = batch[:11]
        found = pictured.search(batch, on_error="report", **arguments)
        assert len(found) == len(found.errors) == len(found.guarantee) == len(batch)
        for place, error in enumerate(found.errors):
            if place not in good:
                assert isinstance(error, engine.InvalidArgument | engine.ImageError)
                assert (found.counts[place], found[place]) == (0, [])  # type: ignore[comparison-overlap]
                assert torch.isneginf(found.scores[place]).all()
                assert found.guarantee[place] is None
                continue
            alone = pictured.search(good[place], **arguments)
            assert error is None
            assert found.ids[place] == alone.ids[0]
            torch.testing.assert_close(found.scores[place], alone.scores[0])
            assert found.guarantee[place] == alone.guarantee[0]
    messages = [str(error) for error in found.errors if error is not None]
    assert "broken.png" in messages[1]
    assert "batch[7]: expected str" in messages[5]
    with pytest.raises(engine.EngineError):
        pictured.search(batch)


def test_filters_of_each_query_stay_with_their_query(pictured: engine.Retriever) -> None:
    batch = ["a dog", " ", "a red car"]
    for filter in ([[1, 2], [3], [4]], np.eye(3, 12, 1, dtype=bool) | np.eye(3, 12, 4, dtype=bool)):
        found = pictured.search(batch, 12, filter=filter, on_error="report")
        alone = pictured.search("a red car", 12, filter=filter[2:])
        assert found.ids[2] == alone.ids[0]
        assert found.ids[1] == []
    with pytest.raises(engine.InvalidArgument, match=r"one list of ids per query \(3\), got 2"):
        pictured.search(batch, filter=[[1], [2]], on_error="report")


def test_nothing_that_can_be_searched_for(pictured: engine.Retriever) -> None:
    found = pictured.search([" ", b"no"], 4, on_error="report")
    assert found.rows.tolist() == [[-1] * 4] * 2
    assert [type(error) for error in found.errors] == [engine.InvalidArgument, engine.ImageError]
    assert pictured.search([], on_error="report").errors == ()


def test_vectors_of_a_batch(retriever: engine.Retriever) -> None:
    """Rows of NaN or inf are single queries; vectors of another length are not."""
    batch = vectors(5, 1)
    batch[1, 3], batch[4, 0] = np.nan, np.inf
    coarse = np.ones((5, 8), np.float32)
    coarse[2, 0] = np.nan
    alone = retriever.search(batch[[0, 2, 3]], 6)
    for given in (batch, torch.from_numpy(batch), list(batch), engine.Embeddings(None, batch)):  # type: ignore[arg-type]
        found = retriever.search(given, 6, on_error="report")
        assert [error is None for error in found.errors] == [True, False, True, True, False]
        assert [found.ids[place] for place in (0, 2, 3)] == alone.ids
    both = retriever.search(engine.Embeddings(coarse, batch), on_error="report")  # type: ignore[arg-type]
    assert [error is None for error in both.errors] == [True, False, False, True, False]
    with pytest.raises(engine.InvalidArgument, match="of 24 dims"):
        retriever.search(batch[:, 1:], on_error="report")
    assert retriever.search(batch[:1]).errors == (None,)


def test_what_keeps_all_from_being_searched_for_is_raised(retriever: engine.Retriever) -> None:
    with pytest.raises(engine.InvalidArgument, match="encoder: expected an encoder"):
        retriever.search(["a dog"], on_error="report")


def test_more_pictures_than_are_encoded_at_a_time(
    pictured: engine.Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.queries.batch.CHUNK", 2)
    found = pictured.search([*FILES, b"no", *FILES], 3, on_error="report")
    assert found.ids[4:] == found.ids[:3] == pictured.search(FILES, 3).ids


# ---------------------------------------------------------------------- warming up


def test_warmup_opens_the_encoder(small_index: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says when one is opened; one that cannot be found is known then, and not at the first query."""
    caplog.set_level("INFO", "engine.encoders")
    r = engine.Retriever(small_index)
    assert not caplog.records
    r.warmup([1])
    assert len(caplog.records) == 1
    r.search(["a dog", FILES[0]])
    assert len(caplog.records) == 1
    engine.Retriever.from_embeddings(vectors(5)).warmup([1, 2])  # has none, and needs none
    engine.Retriever.from_embeddings(vectors(0)).warmup()


def test_warmup_encodes_text_and_pictures(untrained: Path) -> None:
    """With the encoder that was given: what is loaded at the first use is loaded then."""
    encoder = engine.open_encoder(untrained)
    asked: list[str] = []

    class Counting:
        coarse_dim, fine_dim, reference = encoder.coarse_dim, encoder.fine_dim, encoder.reference

        def encode_texts(self, texts: Any) -> engine.Embeddings:
            asked.append("text")
            return encoder.encode_texts(texts)

        def encode_images(self, images: Any) -> engine.Embeddings:
            asked.append("image")
            return encoder.encode_images(images)

    engine.Retriever.from_pretrained(Counting()).warmup([1])
    assert asked == ["text", "image"]
