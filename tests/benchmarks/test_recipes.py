"""The comparison of recipes: its scoring by hand, and tables that hold what was measured."""

import pytest
import torch

from benchmarks import recipes
from engine.embeddings import Embeddings
from engine.evaluation import Pool


def pool_of(
    image_fine: list[list[float]], text_fine: list[list[float]], concepts: list[int]
) -> Pool:
    images, texts = torch.tensor(image_fine), torch.tensor(text_fine)
    count = len(images)
    return Pool(
        Embeddings(images, images),
        Embeddings(texts, texts),
        torch.tensor(concepts),
        torch.arange(count),
        torch.ones(count, dtype=torch.bool),
    )


def test_of_equal_scores_the_wrong_one_counts_first() -> None:
    pool = pool_of([[0.0]] * 3, [[0.0]] * 3, [0, 1, 1])
    scores = torch.tensor([[2.0, 1.0, 0.0], [3.0, 3.0, 1.0], [0.0, 1.0, 0.0]])
    # Captions: the first is right; the second ties with a wrong one; the third finds its concept first.
    recalls = recipes._recalls(scores, scores.T, pool)
    assert recalls.text_to_image["R@1"] == pytest.approx(100 * 2 / 3)
    # Pictures: caption 1 outranks caption 0 for picture 0; pictures 1 and 2 find a caption of their concept first.
    assert recalls.image_to_text["R@1"] == pytest.approx(100 * 2 / 3)


def test_rescored_rows_stand_above_all_others_in_their_new_order() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 9.0]])
    found = recipes._rescored(scores, torch.tensor([[3, 0]]), torch.tensor([[-2.0, -1.0]]))
    assert found.argsort(dim=1, descending=True).tolist() == [[0, 3, 1, 2]]


def test_confusions_are_of_other_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "CONFUSED", 2)
    near = [[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]]
    found = recipes._confused(pool_of(near, near, [0, 0, 1, 2]))
    assert found.tolist()[0] == [2, 3]  # picture 1 is nearer, and shows the same
    assert found.tolist()[3] == [2, 1]


def test_tables_say_means_and_spreads() -> None:
    def figures(r1: float) -> dict[str, float]:
        return {"t2i_R@1": r1, "i2t_R@1": r1, "AR": 70.0}

    def run(name: str, seed: int, fine: float, coarse: float) -> recipes.Row:
        ways = {"fine": figures(fine), "coarse": figures(coarse), "two_stage": figures(fine)}
        return {"recipe": name, "seed": seed, "batch_size": 2048, "candidates": 32, **ways,
                f"two_stage_of_{recipes.POOL}": figures(40.0)}  # fmt: skip

    name = "hierarchical, 16 dims"
    rows = [run("fine alone", 0, 50.0, 1.0), run(name, 0, 50.0, 40.0), run(name, 1, 60.0, 54.0)]
    table = recipes.tables({"runs": rows}).splitlines()
    assert table[2] == "| fine alone | 2,048 | 1 | 50.0 | – | – | – | 70.0 | – |"
    assert table[3] == (
        f"| {name} | 2,048 | 2 | 55.0 ± 7.1 | 47.0 ± 9.9 | 85.0 ± 7.1 % | 55.0 ± 7.1 (32) "
        "| 70.0 ± 0.0 | 70.0 ± 0.0 |"
    )
    line = "| coarse 16 + rerank of 32 | 2 | 40.0 ± 0.0 | 40.0 ± 0.0 | 70.0 ± 0.0 |"
    assert table[7] == f"{line} – |"
    machine = {"device": "a CPU", "threads": 2, "commit": "abc", "dirty": False}
    times = {"pictures": 1000, "machine": machine, "ms_a_query": {"two_stage": 0.02345}}
    table = recipes.tables({"runs": rows, "times": times}).splitlines()
    assert table[7] == f"{line} 0.0234 |"
    assert table[-1].endswith(
        "1,000 pictures, all asked at once, in one run; a CPU, 2 threads, commit abc."
    )


def test_every_way_to_search_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "SECONDS", 0.01)
    found = recipes.measure_times(12)
    assert found["pictures"] == 12
    assert set(found["ms_a_query"]) == {"two_stage", "fine_alone", "reranked", "all_pairs"}
    assert all(spent > 0 for spent in found["ms_a_query"].values())
