"""README is short, its figures are those of the files that it names, and what it names is there.

`tests/docs/test_code_blocks.py` runs its code.
"""

import json
import re
from typing import Any

import pytest

from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```\w*\n.*?^```$", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"<!-- report: .*?<!-- end -->", re.DOTALL)
# A number with its unit, or one with decimals: "0.382 ms", "90.0 %", "16 times". Not "Python 3.11", "2.0", "256".
FIGURE = re.compile(r"\d[\d,.]* ?(?:ms|µs|%|×|times|seconds|GB|MB|GiB)(?!\w)")


def paragraphs() -> list[str]:
    """Prose: paragraphs and points of lists, without code and without the tables that a command writes."""
    prose = TABLE.sub("", CODE.sub("", TEXT))
    found = re.split(r"\n\s*\n|\n(?=- )", prose)
    return [" ".join(each.split()) for each in found if each.strip()]


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert max(map(len, TABLE.sub("", TEXT).splitlines())) <= 120


def test_every_figure_names_its_file() -> None:
    stated = [each for each in paragraphs() if FIGURE.search(each)]
    assert len(stated) >= 2
    for each in stated:
        named = re.findall(r"benchmarks/results/([\w.-]+\.json)", each)
        assert named, f"no file of benchmarks/results is named: {each}"
        for name in named:
            assert (RESULTS / name).is_file()


def test_what_an_h200_takes_is_what_the_benchmark_wrote() -> None:
    rows = result("NVIDIA_H200-2026-11-27-9733880.json")["search"]

    def row(method: str, batch: int) -> dict[str, Any]:
        given = {"method": method, "B": batch, "N": 1_000_000, "D": 768, "candidates": 128}
        (found,) = (each for each in rows if given.items() <= each.items())
        return dict(found)

    one, many = row("ours", 1), row("ours", 256)
    plain, plains = row("matmul + topk, gather", 1), row("matmul + topk, gather", 256)
    assert (
        f"takes {one['p50']:.3g} ms for one query and {many['p50']:.3g} ms for 256. PyTorch's product and top-k, "
        f"with the same 128 candidates, take {plain['p50']:.3g} and {plains['p50']:.3g} ms and find "
        f"{100 * plain['recall']:.1f} % and {100 * plains['recall']:.1f} % of the best ten, ours "
        f"{100 * min(one['recall'], many['recall']):.1f} %: for one query we lose"
    ) in " ".join(TEXT.split())
    assert plain["p50"] < one["p50"]


def test_what_a_thousand_items_take_is_what_the_benchmark_wrote() -> None:
    (row,) = (each for each in result("paper.json")["rows"] if each["name"] == "search 1000")
    theirs, ours = (row["ms"][name]["1"]["p50"] for name in ("faiss", "ours"))
    assert (
        f"Over 1,000 items FAISS's full scan takes {theirs:.3g} ms and ours {ours:.3g} ms"
    ) in " ".join(TEXT.split())


def test_the_table_speaks_of_the_core_count_and_the_recall_that_were_measured() -> None:
    table = TABLE.findall(TEXT)[0]
    assert "2 cores" in table
    assert "on the same two CPU cores" in " ".join(TEXT.split())
    losing = [line for line in table.splitlines() if re.match(r"\| FAISS, inverted", line)]
    assert all(float(cell) < 1 for cell in re.findall(r"([\d.]+) ×", losing[0]))
    ratios = [float(line.split("|")[2].strip(" ×")) for line in table.splitlines()[3:8]]
    assert ratios == sorted(ratios), "where we lose comes first"
    assert len(ratios) == 5


def test_every_make_target_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", TEXT)) <= targets
    assert targets >= {"setup", "demo", "test", "check", "bench", "docs", "gpu", "pictures"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_file_linked_is_there(target: str) -> None:
    assert (ROOT / target).exists()
