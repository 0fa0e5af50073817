"""Several processes train one model, as `torchrun` starts them: here two, on the CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.engine.cli.running import run

SIZES = {"coarse-dim": 6, "fine-dim": 12, "head-dim": 16, "text-hidden": 16, "vocabulary": 60}
SMALL = SIZES | {"views": 1, "batch-size": 3, "dropout": 0}


def command(*arguments: object) -> list[str]:
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    return ["train", *map(str, arguments), *small, "--json"]


def train(
    *arguments: object, module: Sequence[str] = ("engine",)
) -> "subprocess.CompletedProcess[str]":
    """`module` with these arguments of `train`, in two processes, in a session of their own."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", *module, *command(*arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300, start_new_session=True,
    )  # fmt: skip


def test_two_processes_train_as_one_does_that_accumulates_two_batches(
    tiny_dataset: Path, image_weights: Path, tmp_path: Path
) -> None:
    """Steps of two batches either way: gradients averaged between processes, or summed up in one."""
    given = [tiny_dataset, "--image-weights", image_weights, "--steps", 6, "--every", 3]
    given += ["--validation", 0.4]
    two = train(*given, "-o", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    one = run(*command(*given, "-o", tmp_path / "one", "--accumulate", 2))
    assert one.returncode == 0, one.stderr
    (said,) = two.stdout.splitlines()  # by the first process alone
    facts, alone = json.loads(said), json.loads(one.stdout)
    assert (facts["processes"], alone["processes"]) == (2, 1)
    assert facts["validation_average_recall"] == alone["validation_average_recall"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)
    started = run(*command(*given, "-o", tmp_path / "other", "--accumulate", 1))  # it does matter
    assert started.returncode == 0, started.stderr
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert any((other[name] - expected[name]).abs().max() > 5e-3 for name in expected)


def test_what_is_refused_leaves_nothing_and_nobody_waits(
    tiny_dataset: Path, image_weights: Path, tmp_path: Path
) -> None:
    given = (tiny_dataset, "--image-weights", image_weights, "-o", tmp_path / "out")
    refused = train(*given, "--steps", 2, "--hard", 99)
    assert refused.returncode != 0
    assert "hard: expected less than the" in refused.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_stops_both_after_the_same_step_and_both_go_on(
    tiny_dataset: Path, image_weights: Path, tmp_path: Path
) -> None:
    """It comes to the launcher's group, as from a terminal, while a step is made."""
    out, state = tmp_path / "out", tmp_path / "out.state"
    given = [tiny_dataset, "--image-weights", image_weights, "-o", out]
    given += ["--steps", 6, "--every", 100]
    module = ("tests.engine.training.interrupted", "SIGINT", "4")
    stopped = train(*given, module=module)
    assert stopped.returncode != 0
    assert "stopped after step 4 of 6" in stopped.stderr
    assert not out.exists()
    assert [place.name for place in state.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (state / "checkpoint-4" / "complete").exists()
    done = train(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    assert not state.exists()
