"""A figure in docs/facts.md is a figure of the file that its line names; those of guides are of theirs."""

import json
import re
from functools import cache

import pytest

from benchmarks import report
from engine import Retriever
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "facts.md"
FACTS = [
    " ".join(fact.split())
    for fact in re.findall(r"^- (.*?)(?=^- |^#|\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]  # fmt: skip
MEASURED = [fact for fact in FACTS if "json`" in fact]
# Numbers with decimals, and whole ones with a unit.
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+|(?<![\w.,])\d+(?= (?:ms|µs|%|s|bytes)\b)")


TABLES = {  # file of results -> the tables that `benchmarks.report` makes of it
    "cpu_search.json": ("peers", "searches"),
    "bench.json": ("kernels", "modes", "overhead", "towers", "index"),
    "dims.json": ("dims", "dims-images"),
}


@cache
def written(name: str) -> frozenset[str]:
    """Every number in the tables of a file of results, as it stands there."""
    beside = RESULTS / name.replace(".json", ".md")
    if beside.is_file():
        text = beside.read_text(encoding="utf-8")
    elif name.startswith("NVIDIA"):
        text = report.gpu_results().partition(f"### {name.removesuffix('.json')}\n")[2]
        text = text.partition("### ")[0]
    else:
        own = TABLES.get(name, (name.removesuffix(".json"),))
        text = "\n".join(report.TABLES[table]() for table in own)
    return frozenset(re.findall(r"\d[\d,]*(?:\.\d+)?", text))


@pytest.mark.parametrize("fact", MEASURED)
def test_a_fact_is_what_its_file_says(fact: str) -> None:
    files = re.findall(r"`([\w.-]+\.json)`", fact)
    said = NUMBER.findall(re.sub(r"`[^`]*`|recall@10 of 0.99", "", fact))
    assert files
    for figure in said:
        assert any(figure in written(name) for name in files), figure


def test_facts_are_found_and_a_wrong_one_is_refused() -> None:
    assert len(MEASURED) > 20
    assert "0.382" in written("NVIDIA_H200-2026-11-27-9733880.json")
    assert "0.383" not in written("NVIDIA_H200-2026-11-27-9733880.json")


def test_a_line_with_a_time_or_a_share_names_a_file() -> None:
    bare = [fact for fact in FACTS if fact not in MEASURED and re.search(r"\d (?:ms|µs|%)", fact)]
    assert not bare


def guide(name: str) -> str:
    return " ".join((ROOT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8").split())


def test_the_examples_recall_is_what_the_evaluation_wrote() -> None:
    file = ROOT / "examples/checkpoint/evaluation.json"
    for name, recalls in json.loads(file.read_text(encoding="utf-8"))["recalls"].items():
        values = [*recalls["text_to_image"].values(), *recalls["image_to_text"].values()]
        row = [name, *(f"{value:.1f}" for value in [*values, recalls["average"]])]
        assert f"| {' | '.join(row)} |" in guide("training")


def test_unseen_concepts_are_what_the_evaluation_wrote() -> None:
    recalls = json.loads((RESULTS / "evaluation-concept.json").read_text(encoding="utf-8"))[
        "recalls"
    ]
    fine, both, coarse = (f"{way['text_to_image']['R@1']:.1f} %" for way in recalls.values())
    assert (
        f"finds {both} of the pictures first (t→i R@1, coarse and then fine over 32), {fine} by all fine vectors "
        f"and {coarse} by the coarse ones alone"
    ) in guide("training")


@pytest.mark.parametrize("items", [1_000_000, 50_000_000, 1_000_000_000])
def test_bytes_are_what_the_plan_says(items: int) -> None:
    """The table of docs/guides/dims.md, in GB of 10^9 bytes."""

    def gigabytes(number: float) -> str:
        places = {1_000_000: 2, 50_000_000: 1}.get(items, 0)
        return f"{number / 1e9:,.{places}f}"

    plans = {
        dtype: Retriever.plan(
            items, fine_dim=768, fine_dtype="float16", coarse_dtype=dtype, device="cpu"
        )
        for dtype in ("float32", "bfloat16", "int8")
    }
    cells = [gigabytes(plan.coarse_bytes) for plan in plans.values()]
    cells += [gigabytes(plans["int8"].fine_bytes), gigabytes(plans["int8"].disk_bytes)]
    assert f"| {items:,} | {' | '.join(f'{cell} GB' for cell in cells)} |" in guide("dims")
