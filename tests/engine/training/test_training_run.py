"""Whole runs: what they write, that they go on after being cut off, and what stops them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import engine
from engine.dataset import Example
from engine.training import Settings, train
from engine.training import trainer as trainer_module
from engine.training.state import side_directory
from tests.conftest import ROOT

SMALL = Settings(
    coarse_dim=6,
    fine_dim=12,
    head_dim=16,
    coarse_head_dim=8,
    coarse_text_dim=8,
    text_hidden=16,
    vocabulary=120,
    steps=12,
    batch_size=4,
    views=2,
    every=4,
)
EVERYTHING = replace(SMALL, queue=6, hard=1, mine_every=3, distillation=0.5, sigmoid=True)


Run = Callable[..., dict[str, Tensor]]
Straight = Callable[[bool], dict[str, Tensor]]


@pytest.fixture
def run(examples: list[Example], image_weights: Path, features: Path, tmp_path: Path) -> Run:
    """Train from scratch with changed settings; returns the weights."""

    def trained(settings: Settings = SMALL, name: str = "out", **others: Any) -> dict[str, Tensor]:
        asked = {"examples": examples, "features_file": features, **others}
        train(output=tmp_path / name, settings=settings, image_weights=image_weights, **asked)
        return load_file(tmp_path / name / "model.safetensors")

    return trained


@pytest.fixture(scope="module")
def straight(
    examples: list[Example],
    image_weights: Path,
    features: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Straight:
    """The weights of a run of `EVERYTHING` that nothing cuts off, with pictures held out or without."""
    place = tmp_path_factory.mktemp("straight")

    def of(validated: bool) -> dict[str, Tensor]:
        out = place / str(validated)
        if not out.exists():
            held = examples[:4] if validated else ()
            train(
                examples,
                out,
                EVERYTHING,
                image_weights=image_weights,
                features_file=features,
                validation=held,
            )
        return load_file(out / "model.safetensors")

    return of


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_a_run_writes_a_checkpoint_that_opens_and_says_how_it_was_made(
    run: Run, image_weights: Path, tmp_path: Path
) -> None:
    weights = run()
    tower = load_file(image_weights)
    assert all(torch.equal(weights[f"image_tower.{name}"], tower[name].half()) for name in tower)
    encoder = engine.open_encoder(tmp_path / "out")
    assert (encoder.coarse_dim, encoder.fine_dim) == (6, 12)
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (facts["pictures"], facts["concepts"], facts["steps"]) == (12, 6, 12)
    assert facts["heads"] == "own"
    assert facts["learning_rate"] == 3e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    with pytest.raises(engine.CheckpointError, match="expected a name that is not taken"):
        run()
    assert weights["text_tower.weight"].std() > 0.015


def test_a_seed_fixes_every_weight(run: Run, straight: Straight) -> None:
    assert not differing(straight(False), run(EVERYTHING, "again"))
    assert differing(straight(False), run(replace(EVERYTHING, seed=1), "other"))


def test_the_best_weights_by_validation_are_kept(
    run: Run, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls, then = iter([10.0, 30.0, 20.0]), []

    def average_recall(_: Any, model: torch.nn.Module) -> float:
        then.append({name: value.half() for name, value in model.state_dict().items()})
        return next(recalls)

    monkeypatch.setattr(trainer_module.Validation, "average_recall", average_recall)  # type: ignore[attr-defined]
    best = run(validation=examples[:4])
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["validation_average_recall"] == {"4": 10.0, "8": 30.0, "12": 20.0}
    assert facts["best_step"] == 8
    assert not {name for name in best if not torch.equal(best[name], then[1][name])}
    assert differing(then[1], then[2])


STOPPED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from engine.dataset import read_dataset
from engine.training import train
from tests.engine.training.test_training_run import EVERYTHING
data, out, weights, features = map(Path, sys.argv[1:])
examples = read_dataset(data)
train(examples, out, EVERYTHING, image_weights=weights, features_file=features, validation=examples[:4])
"""


def stopped_at_step(
    count: int, how: signal.Signals, arguments: Sequence[str], place: Path
) -> tuple[int, str]:
    """Run `STOPPED` in a process of its own, and send it a signal once the state of step `count` is whole."""
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    whole = place / f"checkpoint-{count}" / "complete"
    deadline = time.monotonic() + 300
    while not whole.exists():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(how)
    _, talk = child.communicate()
    return child.returncode, talk


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_a_run_that_is_cut_off_resumes_to_the_same_weights(
    how: signal.Signals,
    run: Run,
    straight: Straight,
    examples: list[Example],
    tiny_dataset: Path,
    image_weights: Path,
    features: Path,
    tmp_path: Path,
) -> None:
    state = side_directory(tmp_path / "cut")
    arguments = [str(path) for path in (tiny_dataset, tmp_path / "cut", image_weights, features)]
    code, talk = stopped_at_step(4, how, arguments, state)
    assert code == -how if how == signal.SIGKILL else code != 0
    assert not (tmp_path / "cut").exists()
    with pytest.raises(engine.CheckpointError, match="Go on with it by --resume, or remove it"):
        run(EVERYTHING, "cut", validation=examples[:4])
    resumed = run(EVERYTHING, "cut", validation=examples[:4], resume=True)
    assert not differing(straight(True), resumed), talk
    assert not state.exists()


def interrupting(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a step."""
    own = trainer_module.HierarchicalTrainer.compute_loss

    def compute_loss(self: Any, *given: Any, **named: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return own(self, *given, **named)

    monkeypatch.setattr(trainer_module.HierarchicalTrainer, "compute_loss", compute_loss)


@pytest.mark.parametrize("step", [0, 2, 6, 11])
def test_ctrl_c_finishes_the_step_saves_and_resumes_to_the_same_weights(
    step: int, run: Run, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests beside itself
    with monkeypatch.context() as during:
        interrupting(step, during)
        if step == 11:  # the last: there is nothing left to stop
            assert not differing(straight(False), run(EVERYTHING, "cut"))
            return
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step + 1} of 12"):
            run(EVERYTHING, "cut")
    assert signal.getsignal(signal.SIGINT) is before
    state = side_directory(tmp_path / "cut")
    assert (state / f"checkpoint-{step + 1}" / "complete").is_file()
    assert not differing(straight(False), run(EVERYTHING, "cut", resume=True))


def test_a_state_that_was_cut_off_while_it_was_written_is_passed_over(
    run: Run, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        interrupting(9, during)
        with pytest.raises(KeyboardInterrupt):
            run(EVERYTHING, "cut")
    state = side_directory(tmp_path / "cut")
    newest = state / "checkpoint-10"
    (newest / "complete").unlink()
    (newest / "model.safetensors").write_bytes(b"cut off")
    assert not differing(straight(False), run(EVERYTHING, "cut", resume=True))


def test_another_run_is_not_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(engine.CheckpointError, match="Start without --resume"):
        run(resume=True)
    with monkeypatch.context() as during:
        interrupting(2, during)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(engine.InvalidArgument, match=r"distillation: expected 0\.0, as the run"):
        run(replace(SMALL, distillation=0.1), resume=True)


def test_a_loss_that_is_no_number_stops_the_run_with_nothing_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = trainer_module.hierarchical_loss, []  # type: ignore[attr-defined]

    def loss(*given: Any, **named: Any) -> Tensor:
        calls.append(1)
        return own(*given, **named) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(trainer_module, "hierarchical_loss", loss)
    with pytest.raises(
        engine.errors.TrainingError, match="loss: expected a finite number at step 6, got nan"
    ):
        run()
    assert not (tmp_path / "out").exists()


def test_a_model_whose_vectors_are_no_numbers_is_not_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import run as run_module

    own = run_module.publish  # type: ignore[attr-defined]

    def publish(start: Any, *given: Any) -> None:
        start.model.image_heads.coarse.weight.data[0, 0] = float("nan")
        own(start, *given)

    monkeypatch.setattr(run_module, "publish", publish)
    with pytest.raises(
        engine.errors.TrainingError, match=r"vectors: expected finite numbers .* got NaN"
    ):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["out.state"]


def test_a_run_that_ended_before_it_had_begun_leaves_nothing_in_the_way(
    run: Run, tmp_path: Path
) -> None:
    """On a full disk the first file of its state is a draft; and the checkpoint has the rights of the umask."""
    state = side_directory(tmp_path / "out")
    state.mkdir()
    (state / ".run.json").write_text("{")
    before = os.umask(0o027)
    try:
        run(replace(SMALL, steps=1))
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    other = side_directory(tmp_path / "other")
    other.mkdir()
    (other / "mine").write_text("")
    with pytest.raises(engine.CheckpointError, match="got the state of one"):
        run(name="other")


def broken_example(folder: Path, number: int = 0) -> Example:
    file = folder / f"broken {number}.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return Example(file, ("broken",), f"broken {number}")


@pytest.mark.parametrize(
    ("kept", "broken", "changes", "options", "message"),
    [
        (12, 1, {}, {}, "broken 0"),
        (0, 4, {}, {"skipped": []}, "pictures: expected some that can be read, got none"),
        (1, 3, {}, {"skipped": []}, "at most the 1 concepts"),
        (12, 1, {"hard": 6}, {"skipped": []}, "hard: expected less than the 6"),
        (12, 0, {}, {"validation": True}, "broken 9"),
        (12, 1, {"unfreeze": True}, {}, "broken 0"),
    ],
    ids=["unreadable", "none-readable", "too-small", "too-few-for-hard", "validation", "pixels"],
)
def test_what_is_refused_after_the_state_was_opened_leaves_nothing_behind(
    kept: int,
    broken: int,
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    examples: list[Example],
    image_weights: Path,
    tmp_path: Path,
) -> None:
    given = examples[:kept] + [broken_example(tmp_path, number) for number in range(broken)]
    if "validation" in options:
        options = {"validation": [broken_example(tmp_path, 9)]}
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "deep" / "down" / "out"
    with pytest.raises(engine.EngineError, match=message):
        train(given, out, replace(SMALL, **changes), image_weights=image_weights, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_refusal_leaves_folders_that_were_there_and_the_state_of_another_run(
    run: Run, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*examples[:11], broken_example(tmp_path)]
    shutil.copy(examples[11].image, given[11].image)  # type: ignore[arg-type, type-var]
    with monkeypatch.context() as during:
        interrupting(2, during)
        with pytest.raises(KeyboardInterrupt):
            run(examples=given)
    state = side_directory(tmp_path / "out")
    before = {file: file.read_bytes() for file in state.rglob("*") if file.is_file()}
    given[11].image.write_bytes(  # type: ignore[union-attr]
        bytes(given[11].image.stat().st_size)  # type: ignore[union-attr]
    )  # broken since, as long as it was
    elsewhere = {"features_file": tmp_path / "other" / "features.safetensors"}
    for resume, error in ((True, engine.ImageError), (False, engine.CheckpointError)):
        with pytest.raises(error):
            run(examples=given, resume=resume, **elsewhere)
        assert before == {file: file.read_bytes() for file in state.rglob("*") if file.is_file()}
