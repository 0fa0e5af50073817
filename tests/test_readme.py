"""README's code blocks do what they show: the Python session by doctest, the commands by running them."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cpu_search import at_recall
from benchmarks.encoders import table
from tests.conftest import ROOT

README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"README.md has no {language} block"
    return found


def commands() -> list[str]:
    """Every line of the bash blocks that runs our own modules; `make` targets have tests of their own."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m")]


def test_the_python_session_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for number, block in enumerate(blocks("pycon")):
        session = doctest.DocTestParser().get_doctest(
            block, {}, f"session {number}", "README.md", 0
        )
        assert session.examples
        failures: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(session, out=failures.append).failed == 0, "".join(failures)


def test_every_command_runs(tmp_path: Path) -> None:
    """In order, in a folder that has the repository's examples and nothing else."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shown = commands()
    assert {line.split()[3] for line in shown if " engine " in line} >= {
        *("index", "search", "evaluate", "info"),
    }
    assert {line.split()[2] for line in shown} == {"engine", "export.to_onnx", "export.to_trt"}
    for line in shown:
        own = line.replace("python", f"{sys.executable}", 1)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            ["bash", "-c", own],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, f"{line}\n{child.stderr}"
        assert child.stdout.strip()


def test_the_table_is_what_the_evaluation_wrote() -> None:
    figures = json.loads((ROOT / "examples/checkpoint/evaluation.json").read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    for name, recalls in figures["recalls"].items():
        values = [*recalls["text_to_image"].values(), *recalls["image_to_text"].values()]
        row = [name, *(f"{value:.1f}" for value in [*values, recalls["average"]])]
        assert f"| {' | '.join(row)} |" in text


def test_the_encoders_table_is_what_the_benchmark_wrote() -> None:
    file = ROOT / "benchmarks/results/encoders.json"
    assert table(json.loads(file.read_text(encoding="utf-8"))["cases"]) in README.read_text("utf-8")


def test_the_dims_are_what_the_evaluation_wrote() -> None:
    ways = json.loads((ROOT / "docs/dims.json").read_text(encoding="utf-8"))["recalls"].values()
    found = {
        (way["search"], way["source"], way["dim"], way["candidates"]): way["text_to_image"]["R@1"]
        for way in ways
    }
    full = found["fine", None, 256, None]
    wide, narrow = (found["two_stage", "pca", dim, 32] for dim in (16, 8))
    words = " ".join(README.read_text(encoding="utf-8").split())
    assert f"16 PCA dims find {wide:.1f} of the {full:.1f} (t→i R@1)" in words
    assert f"8 dims {narrow:.1f}." in words


def test_what_others_take_is_what_the_benchmark_wrote() -> None:
    file = ROOT / "benchmarks/results/cpu_search.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    words = " ".join(README.read_text(encoding="utf-8").split())

    def times(kind: str, method: str, batch: int) -> float:
        given = {"kind": kind, "N": 1_000_000, "D": 768, "method": method}
        return next(
            row["ratio"] for row in at_recall([row for row in rows if given.items() <= row.items()])
            if row["B"] == batch
        )  # fmt: skip

    one, many, clusters = (
        times(kind, "FAISS flat", batch)
        for kind, batch in (("real", 1), ("real", 256), ("clusters", 256))
    )
    assert (
        f"A flat search takes {one:.0f} times as long as ours for one query and {many:.1f} for 256 "
        f"({clusters:.1f} over the clusters of the report)"
    ) in words
    least = min(times("real", "FAISS PCA64,Flat,RFlat", batch) for batch in (1, 32, 256))
    real, made = (times(kind, "FAISS PCA64,SQ8,RFlat", 1) for kind in ("real", "clusters"))
    assert f"our own method in FAISS at least {least:.1f} times" in words
    assert (
        f"with its 8-bit vectors {real:.1f} for one query ({made:.1f} over the clusters)"
    ) in words


def test_every_make_target_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README.read_text(encoding="utf-8")))
    assert named
    assert named <= targets
    assert targets >= {
        *("setup", "demo", "test", "check", "bench", "gpu"),
        *("pictures", "train-example", "serve"),
    }


def test_every_file_of_the_tree_is_there() -> None:
    tree = blocks("text")[0]
    named = re.findall(r"^ *([\w./-]+)  ", tree, re.MULTILINE)
    assert len(named) > 10
    folder = ""
    for name in named:
        if re.search(rf"^{re.escape(name)}  ", tree, re.MULTILINE):
            folder = ""
        assert (ROOT / folder / name).exists(), name
        if not folder and name.endswith("/"):
            folder = name
