"""The paper's table: ratios by hand, what is extrapolated and marked so, rows that stay, tiny runs of it all."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import paper, paper_models, rows
from engine import Index

TINY = paper_models.Size(layers=1, width=16, heads=2, inner=32, vocabulary=50)
MACHINE = {"device": "a CPU", "threads": 2, "commit": "abc", "dirty": False, "versions": {}}


def row(name: str, **facts: Any) -> rows.Row:
    return {"name": name, "quick": False, "machine": MACHINE} | facts


def search(pool: int, ours: float, faiss: float | None, **facts: Any) -> rows.Row:
    ms: dict[str, Any] = {"ours": {"1": {"p50": ours}, "32": {"p50": 32 * ours / 2}}}
    if faiss is not None:
        ms["faiss"] = {"1": {"p50": faiss}, "32": {"p50": 32 * faiss / 4}}
    found = {"pool": pool, "candidates": 128, "chosen_by": "hand", "recall": 0.995, "ms": ms}
    return row(f"search {pool}", **(found | facts))


def facts(*searches: rows.Row) -> rows.Row:
    encoder = {"1": {"ms": {"p50": 20.0}}, "32": {"ms": {"p50": 160.0}}}
    image = {"1": {"ms": {"p50": 40.0}}, "32": {"ms": {"p50": 320.0}}}
    batch = row("fusion batch", pairs=32, dtype="bfloat16", ms={"p50": 640.0})
    return {"rows": [batch, row("encoders", text=encoder, image=image), *searches]}


def lines(given: rows.Row) -> list[str]:
    return [line for line in paper.table(given).splitlines()[3:] if line.startswith("|")]


def test_ratios_are_of_encoder_and_search_together() -> None:
    found = lines(facts(search(1000, 5.0, 30.0)))
    # Pairs: 1,000 / 32 x 640 = 20,000. (20,000 / 25, 50 / 25, 30 / 5); at B = 32: encoder 160 / 32, FAISS 30 / 4.
    assert found[0] == (
        "| 1,000 | text | 1 | 20.0 | ≈ 20,000 | 30.0 | 5.00 | ≈ 800 | 2.00 | 6.00 | 128 | 0.9950 |"
    )
    assert found[1] == (
        "| 1,000 | text | 32 | 5.00 | ≈ 20,000 | 7.50 | 2.50 | ≈ 2,667 | 1.67 | 3.00 | 128 | 0.9950 |"
    )
    assert found[2].startswith(
        "| 1,000 | image | 1 | 40.0 | ≈ 20,000 | 30.0 | 5.00 | ≈ 444 | 1.56 |"
    )
    assert len(found) == 4


def test_what_was_run_over_the_whole_pool_is_not_marked() -> None:
    given = facts(search(1000, 5.0, 30.0))
    given["rows"].append(row("fusion 1000", pool=1000, dtype="bfloat16", ms=25_000.0))
    assert "| 25,000 | 30.0 | 5.00 | 1,000 |" in lines(given)[0]


def test_beyond_memory_faiss_is_in_proportion_and_there_is_no_encoder() -> None:
    (*_, found, _) = lines(facts(search(1_000_000, 9.0, 250.0), search(10_000_000, 80.0, None)))
    assert found == (
        "| 10,000,000 | – | 1 | – | – | ≈ 2,500 | 80.0 | – | – | ≈ 31.2 | 128 | 0.9950 |"
    )


def test_what_is_missing_says_so() -> None:
    absent = search(1000, 5.0, None) | {"faiss": "not installed: pip install faiss-cpu"}
    skipped = row("search 10000000", pool=10_000_000, skipped="15 GB on disk needed")
    given = facts(absent, search(5000, 5.0, None), skipped)
    assert (
        "| ≈ 20,000 | not installed: pip install faiss-cpu | 5.00 | ≈ 800 | – | – |"
        in lines(given)[0]
    )
    assert "| ≈ 100,000 | – | 5.00 |" in lines(given)[4]
    assert "10,000,000 items: skipped, 15 GB on disk needed." in paper.table(given)


def test_rows_of_another_commit_or_device_are_told() -> None:
    given = facts(search(1000, 5.0, 30.0))
    assert "Measured on a CPU, 2 threads, commit abc." in paper.table(given)
    given["rows"][-1]["machine"] = MACHINE | {"commit": "def", "dirty": True}
    assert (
        "Rows differ in device or commit. Measured on a CPU, 2 threads, commit abc; "
        "a CPU, 2 threads, commit def with changes."
    ) in paper.table(given)


def test_a_row_stays_until_commit_device_or_kind_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results" / "rows.json"
    machine = dict(MACHINE)
    monkeypatch.setattr(rows, "about", lambda: dict(machine))

    def measured(name: str, value: rows.Row, quick: bool = False) -> rows.Row:
        return rows.Rows(file, quick).measured(name, lambda: value)

    assert measured("a", {"n": 1})["n"] == 1
    assert measured("b", {"skipped": "no room"})["skipped"] == "no room"
    assert measured("a", {"n": 2})["n"] == 1
    assert measured("b", {"n": 2})["n"] == 2  # tried again
    assert measured("a", {"n": 3}, quick=True)["n"] == 3
    assert measured("a", {"n": 4})["n"] == 4
    assert measured("a", {"n": 5})["n"] == 4
    for key, value in (("commit", "def"), ("device", "another"), ("versions", {"faiss-cpu": "1"})):
        machine[key] = value
        assert measured("a", {"n": key})["n"] == key
    written = json.loads(file.read_text())["rows"]
    assert sorted((r["name"], r["n"]) for r in written) == [("a", "versions"), ("b", 2)]


def test_a_tiny_run_measures_all_and_the_next_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"BASE": TINY, "FINE": 16, "COARSE": 4, "POOLS": (300, 600),
                        "SEARCH_ONLY": 500, "BATCHES": (1, 3), "ASKING": 7, "THREADS": 1}.items():  # fmt: skip
        monkeypatch.setattr(paper, name, value)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("benchmarks.timing.PAUSE", 0)
    out = tmp_path / "paper.json"
    paper.main(["--seconds", "0", "--out", str(out)])
    first = json.loads(out.read_text())
    monkeypatch.setattr(paper, "measure_search", print)
    paper.main(["--seconds", "0", "--out", str(out)])
    found = {r["name"]: r for r in first["rows"]}
    assert set(found) == {"fusion batch", "encoders", "search 300", "fusion 300", "search 600"}
    assert found["search 300"]["faiss"] == "not installed: pip install faiss-cpu"
    assert found["search 300"]["recall"] > 0.9
    assert found["search 600"]["ms"]["ours"]["3"]["runs"] >= 3
    assert json.loads(out.read_text()) == first
    assert capsys.readouterr().out.count("| 300 | image | 3 |") == 2


def test_more_items_than_memory_holds_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FINE": 32, "COARSE": 8, "PART": 400, "ASKING": 5, "BATCHES": (1, 5),
                        "ROOT": tmp_path}.items():  # fmt: skip
        monkeypatch.setattr(paper, name, value)
    monkeypatch.setattr("engine.coarse.relearning.SETTLED", 400)  # a part is enough to learn from
    asked = paper.write_clusters(1000, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert [len(segment) for segment in index.segments] == [400, 400, 200]
    items = torch.from_numpy(index.fine).float()
    torch.testing.assert_close(items.norm(dim=1), torch.ones(1000), atol=1e-3, rtol=0)
    assert len(items.unique(dim=0)) == 1000  # parts do not repeat each other
    assert float((asked @ items.T).amax()) > 0.5  # queries lie among the clusters
    found = paper.measure_mapped(1000, 0.0, 1000, "hand")
    assert found["recall"] == 1.0  # all items are candidates
    assert not list((tmp_path / "build").iterdir())
    monkeypatch.setattr(paper, "available_memory", lambda: 0)
    assert "memory needed" in paper.measure_mapped(1000, 0.0, 1000, "hand")["skipped"]
    assert "memory needed" in paper.measure_search(1000, 0.0)["skipped"]


def test_the_share_found_is_by_rows() -> None:
    found, true = torch.tensor([[4, 2, 9], [1, 2, 3]]), torch.tensor([[2, 4, 7], [5, 6, 3]])
    assert paper.share_found(found, true) == pytest.approx((2 + 1) / 6)


def test_all_pairs_are_as_many_passes_as_there_are_items(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = paper_models.Fusion.forward

    def counted(self: Any, regions: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        scores = forward(self, regions, words)
        seen.append(len(scores))
        return scores

    monkeypatch.setattr(paper, "BASE", TINY)
    monkeypatch.setattr(paper_models.Fusion, "forward", counted)
    assert paper.measure_all_pairs(70, "float32")["ms"] > 0
    assert sum(seen[1:]) == 70  # the first warms up
