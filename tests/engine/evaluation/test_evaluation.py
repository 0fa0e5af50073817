"""Figures against cases worked out by hand, a float64 ranking written otherwise, and the engine's own search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import engine
from engine.dataset import Example, read_dataset
from engine.evaluation import Pool, Report, Way, encode_pool, evaluate
from engine.evaluation.ranks import full_ranks, staged_ranks
from engine.evaluation.recall import recalls_of
from tests.conftest import CHECKPOINT, PICTURES

FINE = Way("fine", None, 4, None)


def as_embeddings(fine: NDArray[Any], coarse: NDArray[Any] | None = None) -> engine.Embeddings:
    tensors = [
        None if v is None else torch.from_numpy(v.astype(np.float32)) for v in (coarse, fine)
    ]
    return engine.Embeddings(*tensors)  # type: ignore[arg-type]


# ---------------------------------------------------------------- places


def test_places_worked_out_by_hand() -> None:
    """Items score 5, 4, 3, 2, 1, 0 for every query; the first right one stands at 1, 2, 6, and nowhere."""
    items = torch.arange(6.0)[:, None]
    shown = torch.tensor([0, 1, 2, 1, 3, 4])
    queries, wanted = torch.ones(4, 1), torch.tensor([4, 3, 0, 9])
    assert full_ranks(queries, wanted, items, shown, 6).tolist() == [1, 2, 6, 7]
    assert full_ranks(queries, wanted, items, shown, 1).tolist() == [1, 2, 2, 2]
    assert full_ranks(queries[:0], wanted[:0], items, shown, 6).tolist() == []


def test_two_stages_worked_out_by_hand() -> None:
    """Coarse order 0 1 2 3 4; fine order the reverse. Of C candidates, place C - 1 - row; the rest stay."""
    coarse, fine = torch.tensor([5.0, 4, 3, 2, 1])[:, None], torch.arange(5.0)[:, None]
    items, shown = engine.Embeddings(coarse, fine), torch.arange(5)
    queries = engine.Embeddings(torch.ones(5, 1), torch.ones(5, 1))
    found = staged_ranks(queries, torch.arange(5), items, shown, [1, 3, 5, 9], 9)
    assert found[0].tolist() == [1, 2, 3, 4, 5]
    assert found[1].tolist() == [1, 2, 3, 4, 5]
    assert found[3].tolist() == [3, 2, 1, 4, 5]
    assert found[5].tolist() == found[9].tolist() == [5, 4, 3, 2, 1]


def ranked(scores: NDArray[Any]) -> list[int]:
    """Rows by score, the lower row first among equals, by Python's own sort."""
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))


def place(order: Sequence[int], right: NDArray[Any], depth: int) -> int:
    found = [number for number, row in enumerate(order[:depth], start=1) if right[row]]
    return found[0] if found else depth + 1


@pytest.mark.parametrize("count", [1, 7, 63, 129])
@pytest.mark.parametrize("depth", [16, 200])
def test_places_equal_a_full_sort(count: int, depth: int) -> None:
    """Small integers, so that scores are exact and full of ties."""
    chance = np.random.default_rng(count + depth)
    parts = [(31, 5), (count, 5), (31, 2), (count, 2)]
    q_fine, i_fine, q_coarse, i_coarse = (chance.integers(-2, 3, shape) for shape in parts)
    wanted, shown = chance.integers(0, 12, 31), chance.integers(0, 12, count)
    candidates = [1, 3, 8, 16]
    queries, items = as_embeddings(q_fine, q_coarse), as_embeddings(i_fine, i_coarse)
    concepts = torch.from_numpy(wanted), torch.from_numpy(shown)
    full = full_ranks(queries.fine, concepts[0], items.fine, concepts[1], depth)
    staged = staged_ranks(queries, concepts[0], items, concepts[1], candidates, depth)
    for query in range(31):
        fine, coarse = i_fine @ q_fine[query], i_coarse @ q_coarse[query]
        right = shown == wanted[query]
        assert full[query] == place(ranked(fine), right, depth)
        order = ranked(coarse)
        assert staged[0][query] == place(order, right, depth)
        for kept in candidates:
            first = sorted(order[:kept], key=lambda row, fine=fine: (-fine[row], row))  # type: ignore[misc]
            assert staged[kept][query] == place([*first, *order[kept:]], right, depth)


def test_places_do_not_depend_on_how_queries_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    queries, items = chance.standard_normal((50, 8)), chance.standard_normal((90, 8))
    both = as_embeddings(queries, queries[:, :3]), as_embeddings(items, items[:, :3])
    wanted, shown = torch.arange(50), torch.arange(90)
    whole = staged_ranks(both[0], wanted, both[1], shown, [4, 20], 40)
    full = full_ranks(both[0].fine, wanted, both[1].fine, shown, 40)
    monkeypatch.setattr("engine.evaluation.ranks.QUERIES_AT_A_TIME", 7)
    parts = staged_ranks(both[0], wanted, both[1], shown, [4, 20], 40)
    assert {name: found.tolist() for name, found in whole.items()} == {
        name: found.tolist() for name, found in parts.items()
    }
    assert torch.equal(full, full_ranks(both[0].fine, wanted, both[1].fine, shown, 40))


# ---------------------------------------------------------------- recalls


def test_recalls_and_medians_of_known_places() -> None:
    text_to_image = torch.tensor([1, 1, 2, 5, 6, 10, 11, 600])
    image_to_text = torch.tensor([3, 513, 513, 513])
    found = recalls_of(text_to_image, image_to_text, 512)
    assert found.text_to_image == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0}
    assert found.image_to_text == {"R@1": 0.0, "R@5": 25.0, "R@10": 25.0}
    assert found.average == pytest.approx((25 + 50 + 75 + 0 + 25 + 25) / 6)
    assert found.median_rank == {"text_to_image": 5.5, "image_to_text": None}
    # no query was answered first, so none is in any resample
    assert found.intervals["image_to_text"]["R@1"] == [0.0, 0.0]


def test_intervals_are_those_of_drawing_queries_anew() -> None:
    """The same bootstrap written out: queries drawn with replacement, 2,000 times, another generator."""
    chance = np.random.default_rng(1)
    places = {name: chance.geometric(p, n) for name, p, n in (("t", 0.3, 400), ("i", 0.1, 150))}
    found = recalls_of(torch.from_numpy(places["t"]), torch.from_numpy(places["i"]), 512)
    again = recalls_of(torch.from_numpy(places["t"]), torch.from_numpy(places["i"]), 512)
    assert found == again
    drawn = {}
    for name, values in places.items():
        samples = chance.choice(values, (2000, len(values)))
        drawn[name] = np.stack([100 * (samples <= k).mean(axis=1) for k in (1, 5, 10)], axis=1)
    for name, direction in (("t", "text_to_image"), ("i", "image_to_text")):
        expected = np.percentile(drawn[name], [2.5, 97.5], axis=0).T
        assert np.array(list(found.intervals[direction].values())) == pytest.approx(
            expected, abs=1.1
        )
    average = np.percentile(np.hstack(list(drawn.values())).mean(axis=1), [2.5, 97.5])
    assert found.intervals["average"] == pytest.approx(average, abs=0.7)


# ---------------------------------------------------------------- pools and reports


class Spelling:
    """An encoder that knows the answers: a text or picture becomes the axis its number names."""

    coarse_dim, fine_dim = 2, 4
    reference = engine.index.CheckpointReference("none", "none")

    def encode_texts(self, texts: list[str]) -> engine.Embeddings:
        fine = torch.eye(4)[[int(text) for text in texts]]
        return engine.Embeddings(fine[:, :2] * 0 + torch.tensor([1.0, 0.0]), fine)

    def encode_images(self, images: list[object]) -> engine.Embeddings:
        return self.encode_texts([str(image.width - 1) for image in images])  # type: ignore[attr-defined]


@pytest.fixture
def four(tmp_path: Path) -> list[Example]:
    """Four pictures, as wide as their number is; each said twice."""
    from PIL import Image

    examples = []
    for number in range(4):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (number + 1, 1)).save(file)
        examples.append(Example(file, (str(number), str(number)), str(number)))
    return examples


def test_a_report_of_known_answers(four: list[Example]) -> None:
    """Fine vectors are perfect; coarse ones all alike, so coarse search returns rows in order."""
    pool, kept = encode_pool(Spelling(), four)  # type: ignore[arg-type]
    report = evaluate(pool, candidates=[32])
    many = evaluate(pool, candidates=[8, 1 << 70])  # more than there are, and than memory holds
    kept_all = [found for way, found in many.recalls.items() if way.search == "two_stage"]
    assert kept_all == [list(report.recalls.values())[1]] * 2
    fine, two_stage, coarse = report.recalls.values()
    assert kept == four
    assert (report.pictures, report.captions) == (4, 8)
    assert fine.average == two_stage.average == 100
    assert coarse.text_to_image == {"R@1": 25.0, "R@5": 100.0, "R@10": 100.0}
    assert coarse.image_to_text == {"R@1": 25.0, "R@5": 75.0, "R@10": 100.0}
    assert coarse.average == pytest.approx((25 + 100 + 100 + 25 + 75 + 100) / 6)
    assert coarse.median_rank == {"text_to_image": 2.5, "image_to_text": 4.0}
    rows = report.to_markdown().splitlines()
    assert rows[0].startswith("| search | t→i R@1 | t→i R@5 |")
    figures = "| 25.0 | 100.0 | 100.0 | 25.0 | 75.0 | 100.0 | 70.8 |"
    assert rows[4].startswith(f"| coarse alone (2-d) {figures}")
    low, high = coarse.intervals["average"]
    assert low < coarse.average < high
    assert rows[4].endswith(f"| {low:.1f} to {high:.1f} | 2.5 | 4 |")


def test_one_caption_a_picture(four: list[Example]) -> None:
    pool, _ = encode_pool(Spelling(), four)  # type: ignore[arg-type]
    first = pool.first_captions()
    assert first.owners.tolist() == [0, 1, 2, 3]
    assert torch.equal(first.texts.fine, torch.eye(4))


def test_a_grid_of_dims_and_candidates(four: list[Example]) -> None:
    pool, _ = encode_pool(Spelling(), four)  # type: ignore[arg-type]
    report = evaluate(pool, candidates=[3, 1], dims=[4, 1])
    names = [way.name for way in report.recalls]
    assert names[:4] == [
        "fine, all items (4-d)",
        "coarse 2-d, then fine over 1",
        "coarse 2-d, then fine over 3",
        "coarse alone (2-d)",
    ]
    assert names[-3:] == [
        "first 4 dims, then fine over 1",
        "first 4 dims, then fine over 3",
        "first 4 dims alone",
    ]
    assert len(names) == len(set(names)) == 1 + 3 * (1 + 2 + 2)
    assert report.rows() == [("head", 2), ("pca", 1), ("pca", 4), ("prefix", 1), ("prefix", 4)]
    # one coordinate of four finds the picture it stands for, and the first row for the others; all four find all
    one, all_four = (report.recalls[Way("coarse", "prefix", dim, None)] for dim in (1, 4))
    assert one.text_to_image["R@1"] == 25
    assert all_four == report.recalls[Way("coarse", "pca", 4, None)] == report.recalls[FINE]
    # 3 candidates of the first coordinate: rows 0, 1, 2
    assert report.recalls[Way("two_stage", "prefix", 1, 3)].text_to_image["R@1"] == 75
    table = report.to_markdown()
    assert "|  | alone | 1 candidates | 3 candidates |" in table
    assert "| first 1 dims | 25.0 | 25.0 | 75.0 |" in table
    plain = report.to_dict()
    assert plain["dims"] == [1, 4]
    assert plain["recalls"]["PCA alone (4-d)"]["source"] == "pca"


def made_up(pictures: int, captions: int, dim: int, coarse: int | None, seed: int) -> Pool:
    """Random unit vectors, captions near their pictures."""
    chance = np.random.default_rng(seed)
    images = chance.standard_normal((pictures, dim))
    texts = np.repeat(images, captions, axis=0)
    texts = texts + 1.5 * chance.standard_normal(texts.shape)
    examples = [Example(Path(str(n)), ("x",) * captions, str(n)) for n in range(pictures)]
    sides = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts)]
    heads = [None if coarse is None else side[:, -coarse:] for side in sides]
    return Pool.of(*map(as_embeddings, sides, heads), examples)  # type: ignore[arg-type, call-arg]


def test_figures_are_those_of_searching() -> None:
    """`Retriever` asked the same: two stages, coarse alone, exact, with heads and with what it learns itself."""
    pool = made_up(200, 3, 24, 6, seed=0)
    report = evaluate(pool, candidates=[20], dims=[5])

    def searched(mode: str, **options: object) -> list[float]:
        both = []
        for queries, items, right in (
            (pool.texts, pool.images, pool.owners[:, None]),
            (pool.images, pool.texts, torch.arange(200)[:, None]),
        ):
            coarse = None if options else items.coarse
            index = engine.Retriever.from_embeddings(items.fine, coarse, **options)  # type: ignore[arg-type]
            batch = queries.fine if options else queries
            rows = index.search(batch, 10, mode=mode, candidates=20).rows  # type: ignore[arg-type]
            found = (rows if items is pool.images else pool.owners[rows]) == right
            both += [100 * float(found[:, :k].any(dim=1).float().mean()) for k in (1, 5, 10)]
        return both

    for way, found in report.recalls.items():
        options = {} if way.source in ("head", None) else {"coarse_dim": 5, "reduction": way.source}
        mode = "exact" if way.search == "fine" else way.search
        expected = searched(mode, **options)
        figures = [*found.text_to_image.values(), *found.image_to_text.values()]
        assert figures == pytest.approx(expected, abs=1e-4), way.name


def test_no_candidates_is_no_second_stage() -> None:
    report = evaluate(made_up(30, 2, 8, 3, seed=4), candidates=[])
    assert [way.search for way in report.recalls] == ["fine", "coarse"]


def test_pictures_of_one_concept_answer_each_other() -> None:
    """Two pictures of a dog: the caption of one is answered by the other, and the reverse."""
    fine = np.eye(3)[[0, 1, 2]]
    examples = [Example(Path(n), ("x",), concept) for n, concept in zip("abc", "ddc", strict=True)]
    pool = Pool.of(as_embeddings(fine), as_embeddings(fine[[1, 0, 2]]), examples)
    assert evaluate(pool).recalls[Way("fine", None, 3, None)].average == 100
    own = [Example(example.image, example.captions, str(n)) for n, example in enumerate(examples)]
    apart = Pool.of(pool.images, pool.texts, own)
    assert evaluate(apart).recalls[Way("fine", None, 3, None)].text_to_image[
        "R@1"
    ] == pytest.approx(100 / 3)


def test_folds_are_searched_by_themselves() -> None:
    """Picture n is the same in each of three folds: within a fold all is found at once, over all a third is."""
    fine = np.tile(np.eye(4), (3, 1))
    examples = [Example(Path(str(n)), ("x", "y"), str(n)) for n in range(12)]
    pool = Pool.of(as_embeddings(fine), as_embeddings(np.repeat(fine, 2, axis=0)), examples)
    whole, folded = evaluate(pool), evaluate(pool, folds=3)
    assert whole.recalls[FINE].text_to_image["R@1"] == pytest.approx(100 / 3)
    assert folded.recalls[FINE].text_to_image["R@1"] == 100
    assert folded.title == "12 pictures, 24 captions; mean over 3 folds"
    parts = [evaluate(part).recalls[FINE] for part in pool.folds(3)]
    assert folded.recalls[FINE].average == pytest.approx(np.mean([p.average for p in parts]))


def test_a_larger_pool_is_searched_by_the_same_queries() -> None:
    """What asks is the part; what is searched, and so what may be mistaken, is everything."""
    pool = made_up(120, 2, 16, None, seed=1)
    asking = torch.arange(120) % 3 == 0
    small = evaluate(pool.take(asking.nonzero()[:, 0]))
    large = evaluate(pool.asked_by(asking))
    assert (small.pictures, small.asking_pictures, small.asking_captions) == (40, 40, 80)
    assert large.title == "120 pictures, 240 captions; 40 and 80 of them ask"
    scores = pool.texts.fine.double().numpy() @ pool.images.fine.double().numpy().T
    rows = np.flatnonzero(asking[pool.owners].numpy())
    first = np.array([scores[row].argmax() == pool.owners[row] for row in rows])
    way = Way("fine", None, 16, None)
    assert large.recalls[way].text_to_image["R@1"] == pytest.approx(100 * first.mean())
    assert large.recalls[way].average < small.recalls[way].average


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dims": [17]}, "dims: expected integers of at least 1 and at most 16, .* got 17"),
        ({"dims": [0]}, "dims: expected .* got 0"),
        ({"candidates": [0]}, "candidates: expected integers of at least 1, got 0"),
        ({"folds": 7}, "folds: expected a number that divides the 120 pictures, got 7"),
        ({"folds": 0}, "folds: expected a number that divides"),
    ],
)
def test_what_does_not_fit(asked: dict[str, list[int]], message: str) -> None:
    pool = made_up(120, 2, 16, None, seed=1)
    with pytest.raises(engine.InvalidArgument, match=message):
        evaluate(pool, **asked)  # type: ignore[arg-type]


def test_vectors_that_do_not_fit() -> None:
    examples = [Example(Path(name), ("x", "y"), name) for name in "ab"]
    two, four = as_embeddings(np.eye(4)[:2]), as_embeddings(np.eye(4))
    assert len(Pool.of(two, four, examples).images) == 2
    with pytest.raises(engine.InvalidArgument, match="images: expected a row for each of the 2"):
        Pool.of(four, four, examples)
    with pytest.raises(engine.InvalidArgument, match="texts: expected a row for each of the 4"):
        Pool.of(two, two, examples)
    with pytest.raises(engine.InvalidArgument, match=r"texts: expected vectors of \(None, 4\)"):
        Pool.of(two, as_embeddings(np.eye(5)[:4]), examples)


def test_pictures_that_cannot_be_read(four: list[Example]) -> None:
    """With a list to note them in they are left out, with their captions; else the first is an error."""
    assert isinstance(four[1].image, Path)
    four[1].image.write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    with pytest.raises(engine.ImageError, match=r"1\.png"):
        encode_pool(Spelling(), four)  # type: ignore[arg-type]
    skipped: list[str] = []
    pool, kept = encode_pool(Spelling(), four, skipped)  # type: ignore[arg-type]
    assert kept == [four[0], four[2], four[3]]
    assert len(skipped) == 1
    assert "1.png" in skipped[0]
    assert pool.owners.tolist() == [0, 0, 1, 1, 2, 2]
    assert evaluate(pool).recalls[FINE].average == 100
    with pytest.raises(engine.DatasetError, match="expected pictures that can be read"):
        encode_pool(Spelling(), [four[1]], [])  # type: ignore[arg-type]


def test_the_example_checkpoint_finds_noto_pictures_it_never_saw() -> None:
    """Real pictures, encode to search: every fourth of a style held out of training, asked by their captions.

    Measured when it was trained: see examples/checkpoint/evaluation.json. Chance is 0.3 %.
    """
    noto = read_dataset(PICTURES, "style", "test")
    assert len(noto) == 1419
    pool, _ = encode_pool(engine.open_encoder(CHECKPOINT), noto[::4])
    report: Report = evaluate(pool)
    fine, two_stage, coarse = (recalls.text_to_image["R@1"] for recalls in report.recalls.values())
    assert fine >= 60
    assert two_stage >= 60
    assert coarse >= 50
