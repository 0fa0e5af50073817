"""`python -m engine train`, in this process: what it leaves out, holds out, and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import engine
from engine.cli.commands import app
from engine.training.state import side_directory


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def small_run(image_weights: Path) -> list[object]:
    """Arguments of the command for a run of two steps."""
    named = {"coarse-dim": 6, "fine-dim": 12, "head-dim": 16, "text-hidden": 16, "views": 1}
    named |= {"steps": 2, "batch-size": 4, "vocabulary": 60}
    given: list[object] = ["--image-weights", image_weights, "--json"]
    return given + [part for name, value in named.items() for part in (f"--{name}", value)]


def test_the_command_trains_holds_out_a_share_and_lists_what_it_leaves_out(
    tiny_dataset: Path, small_run: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(tiny_dataset, folder)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    broken = folder / json.loads(lines[0])["image"]
    broken.write_bytes(broken.read_bytes()[:50])
    out = tmp_path / "out"
    refused = command(folder, "-o", out, *small_run)
    assert isinstance(refused.exception, engine.ImageError)
    assert broken.name in str(refused.exception)
    done = command(folder, "-o", out, *small_run, "--skip", "--validation", "0.3")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout.splitlines()[-1])
    assert len(facts["skipped"]) == 1
    assert broken.name in facts["skipped"][0]
    assert facts["pictures"] + facts["validation_pictures"] == 11
    assert facts["validation_pictures"] >= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": []}, "expected captions with words in them"),
        ({"captions": ["  "]}, "expected captions with words in them"),
        ({"image": "noto/none.webp"}, "expected a picture at"),
    ],
    ids=["no-captions", "empty-caption", "no-picture"],
)
def test_what_lacks_a_picture_or_a_caption_is_named(
    change: dict[str, Any],
    message: str,
    tiny_dataset: Path,
    small_run: list[object],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(tiny_dataset, folder)
    file = folder / "captions.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    refused = command(folder, "-o", tmp_path / "out", *small_run)
    assert isinstance(refused.exception, engine.DatasetError)
    assert message in str(refused.exception)
    assert not (tmp_path / "out").exists()
    done = command(folder, "-o", tmp_path / "out", *small_run, "--skip")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout.splitlines()[-1])["skipped"]) == 1


def test_what_the_command_refuses(
    tiny_dataset: Path, small_run: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for arguments, error, message in (
        (
            [*small_run, "--batch-size", 7],
            engine.DatasetError,
            "batch_size: expected at most the 6 concepts of the data set, got 7",
        ),
        (
            ["--batch-size", 4],
            engine.InvalidArgument,
            "Give --image-weights FILE or --checkpoint DIRECTORY",
        ),
        ([*small_run, "--checkpoint", "x"], engine.InvalidArgument, "got both"),
        (
            [*small_run, "--validation", "train"],
            engine.DatasetError,
            "validation: expected a part that is not trained on, got train, with 12 pictures",
        ),
        ([*small_run, "--validation", "1.5"], engine.InvalidArgument, "a share between 0 and 1"),
        ([*small_run, "--hard", 6], engine.InvalidArgument, "less than the 6 concepts"),
        ([*small_run, "--steps", 0], engine.InvalidArgument, "steps: expected at least 1"),
        (
            [*small_run, "--steps", 10**20],
            engine.InvalidArgument,
            "at most 2,147,483,647, got 1000",
        ),
        ([*small_run, "--seed", 1 << 32], engine.InvalidArgument, "seed: expected at most 4,294"),
        (
            ["--batch-size", 4, "--image-weights", tiny_dataset / "captions.jsonl"],
            engine.CheckpointError,
            "captions.jsonl: expected EfficientNet-Lite0 weights in safetensors, got ",
        ),
    ):
        result = command(tiny_dataset, "-o", out, *arguments)
        assert isinstance(result.exception, error), (arguments, result.exception)
        assert message in str(result.exception)
        assert not out.exists()
        assert not side_directory(out).exists()
