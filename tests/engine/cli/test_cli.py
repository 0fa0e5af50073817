"""Every command as a user would give it: its data on stdout, its errors as one line and exit code 2.

In this process, as it is quicker; one search and one refusal in processes of their own.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CHECKPOINT
from tests.engine.cli.running import apart, assert_refused, run, run_json


def test_index_search_and_info(some_pictures: Path, tmp_path: Path) -> None:
    """The user's own folder, with the example checkpoint by default."""
    place = tmp_path / "index"
    facts = run_json("index", some_pictures, "-o", place)
    assert facts["items"] == 6
    assert facts["checkpoint"] == str(CHECKPOINT)

    picture = next((some_pictures / "noto").iterdir())
    answer = run_json("search", place, "a red car", "--image", picture, "-k", 2)
    by_words, by_picture = answer["answers"]
    assert by_words["query"] == "a red car"
    assert len(by_words["hits"]) == 2
    assert by_picture["hits"][0]["id"] == f"noto/{picture.name}"
    assert by_picture["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert set(answer["milliseconds"]) == {"encode", "coarse", "rerank"}

    child, again = (
        search("search", place, "a red car", "-k", 1, "--mode", "exact") for search in (apart, run)
    )
    assert child.returncode == 0
    assert child.stdout.startswith("a red car\n  ")
    assert again.stdout == child.stdout

    facts = run_json("info", place, "--verify")
    assert (facts["items"], facts["verified"]) == (6, True)
    assert "items: 6" in run("info", place).stdout

    run_json("index", some_pictures, "-o", tmp_path / "small", "--coarse-dtype", "int8")
    assert "coarse: 16 x int8" in run("info", tmp_path / "small").stdout
    answer = run_json("search", tmp_path / "small", "--image", picture, "-k", 1)
    assert answer["answers"][0]["hits"] == by_picture["hits"][:1]


def test_evaluate_writes_what_it_prints(
    tiny_dataset: Path, untrained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    facts = run_json("evaluate", untrained, "--dataset", tiny_dataset, "-o", file)
    assert json.loads(file.read_text()) == facts
    assert facts["pictures"] == 12
    table = run("evaluate", untrained, "--dataset", tiny_dataset, "--captions", "first")
    assert "| search | t→i R@1 |" in table.stdout


def test_train_makes_a_checkpoint_that_searches(
    tiny_dataset: Path, image_weights: Path, some_pictures: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    facts = run_json(
        *("train", tiny_dataset, "-o", checkpoint, "--image-weights", image_weights),
        *("--steps", 2, "--batch-size", 4, "--views", 1, "--coarse-dim", 8, "--fine-dim", 16),
    )
    assert (facts["pictures"], facts["steps"]) == (12, 2)
    run_json("index", some_pictures, "-o", tmp_path / "index", "--checkpoint", checkpoint)
    run_json("search", tmp_path / "index", "a dog")


def test_every_command_has_help() -> None:
    commands = ("index", "search", "evaluate", "train", "info")
    overview = run("--help")
    for command in commands:
        assert command in overview.stdout
        child = run(command, "--help")
        assert child.returncode == 0
        assert "--json" in child.stdout


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    child = run("index", tmp_path / "empty", "-o", tmp_path / "index")
    assert_refused(child, "expected images (.jpg, .jpeg, .png, .webp, …), got none")
    assert not (tmp_path / "index").exists()


def test_a_broken_picture_is_left_out_and_listed(
    some_pictures: Path, untrained: Path, tmp_path: Path
) -> None:
    (some_pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    place = tmp_path / "index"
    options = ("-o", place, "--checkpoint", untrained)
    child = run("index", some_pictures, *options, "--json")
    assert child.returncode == 0, child.stderr
    facts = json.loads(child.stdout)
    assert (facts["items"], facts["indexed"], facts["skipped"]) == (6, 6, 1)
    listed = Path(facts["skipped_list"])
    assert json.loads(listed.read_text())["id"] == "broken.png"
    assert f"1 records left out, see {listed}" in child.stderr
    again = run_json("index", some_pictures, *options)
    assert (again["items"], again["indexed"], again["there_before"]) == (6, 0, 6)


def test_nothing_but_broken_pictures(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    child = run("index", tmp_path, "-o", tmp_path / "index", "--checkpoint", untrained)
    assert_refused(child, "something can be indexed, got none; left out: 1")
    assert not (tmp_path / "index").exists()


def test_vectors_need_no_checkpoint(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(9, dtype=np.float32))
    place = tmp_path / "index"
    child = run("index", tmp_path / "a.npy", "-o", place)
    assert (child.returncode, child.stdout) == (0, f"9 items indexed in {place}\n")
    assert run_json("info", place)["checkpoint"] is None


def test_a_checkpoint_with_a_file_missing(
    some_pictures: Path, damaged: object, tmp_path: Path
) -> None:
    checkpoint = damaged(remove="tokenizer.json")  # type: ignore[operator]
    child = run("index", some_pictures, "-o", tmp_path / "index", "--checkpoint", checkpoint)
    assert_refused(child, "got no tokenizer.json")
    assert not (tmp_path / "index").exists()


def test_a_place_that_is_taken(some_pictures: Path, untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    child = run("index", some_pictures, "-o", tmp_path / "thesis", "--checkpoint", untrained)
    assert_refused(child, "got something else")
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a dog", "-k", 0], "k: expected an integer of at least 1, got 0"),
        ([""], "batch[0]: expected words to search for"),
        ([], "TEXTS: expected words or --image PICTURE"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["a dog", "-k", 5, "--candidates", 2], "candidates: expected at least k (5), got 2"),
        (
            ["a dog", "--checkpoint", CHECKPOINT],
            "encoder: expected the checkpoint that made the index",
        ),
    ],
)
def test_bad_searches(small_index: Path, arguments: list[object], message: str) -> None:
    assert_refused(run("search", small_index, *arguments), message)


@pytest.mark.parametrize("how", [run, apart])
def test_no_index(tmp_path: Path, how: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for command in (("search", tmp_path / "nothing", "a dog"), ("info", tmp_path / "nothing")):
        assert_refused(how(*command), "expected a directory with a manifest.json, got none")


def test_bad_training_data(tiny_dataset: Path, image_weights: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    options = ("-o", place, "--image-weights", image_weights)
    assert_refused(run("train", tmp_path, *options), "expected a captions file")
    assert_refused(
        run("train", tiny_dataset, *options), "batch_size: expected at most the 6 concepts"
    )
    assert_refused(
        run(
            "train",
            tiny_dataset,
            "-o",
            place,
            "--image-weights",
            tmp_path / "no",
            "--batch-size",
            2,
        ),
        "expected EfficientNet-Lite0 weights in safetensors, got",
    )
    assert not place.exists()
