"""What commands take: paths that are none, options made from the fields of `Settings`, and what `--help` loads."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import engine
from engine.cli.commands import app
from engine.training.settings import Settings
from tests.conftest import ROOT


def refusal(*arguments: object) -> BaseException | None:
    return CliRunner().invoke(app, list(map(str, arguments))).exception


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sources", ["index", "", "-o", "x"]),
        ("sources", ["index", "engine", "", "-o", "x"]),
        ("output", ["index", "engine", "-o", ""]),
        ("output", ["index", "engine", "--output="]),
        ("checkpoint", ["index", "engine", "-o", "x", "--checkpoint", ""]),
        ("index", ["search", "", "a dog"]),
        ("image", ["search", "x", "--image", "engine", "--image", ""]),
        ("source", ["evaluate", "", "--dataset", "engine"]),
        ("dataset", ["evaluate", "engine", "--dataset", ""]),
        ("images", ["evaluate", "engine", "--dataset", "engine", "--images", ""]),
        ("output", ["evaluate", "engine", "--dataset", "engine", "-o", "a.md", "-o", ""]),
        ("save_vectors", ["evaluate", "engine", "--dataset", "engine", "--save-vectors", ""]),
        ("source", ["train", "", "-o", "x"]),
        ("features", ["train", "engine", "-o", "x", "--features", ""]),
        ("pickled", ["convert", "", "engine"]),
        ("index", ["info", ""]),
    ],
)
def test_an_empty_path_is_not_the_current_directory(name: str, arguments: list[str]) -> None:
    """As from a variable that is not set."""
    error = refusal(*arguments)
    assert isinstance(error, engine.InvalidArgument), error
    assert str(error).startswith(f"{name}: expected a path (str or pathlib.Path), got str ''.")


def test_other_options_may_be_empty() -> None:
    error = refusal("evaluate", "engine", "--dataset", "nowhere", "--dims", "", "--split", "")
    assert isinstance(error, engine.InvalidArgument)
    assert str(error).startswith("dataset: expected captioned pictures, got nowhere, which does")


NOTHING_HEAVY = """
import sys
from engine.__main__ import main
sys.argv = ["engine", *{arguments!r}]
try:
    main()
except SystemExit as end:
    print(end.code, sorted({{"torch", "transformers", "PIL", "pyarrow"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("arguments", "ending", "said"),
    [
        (["--help"], "0 []", ""),
        (["train", "--help"], "0 []", ""),
        (["evaluate", "nowhere", "--dataset", "tests"], "2 []", "error: source: expected a check"),
        (["evaluate", "tests", "--dataset", "nowhere"], "2 []", "error: dataset: expected capti"),
        (["train", "nowhere", "-o", "x"], "2 []", "error: source: expected captioned pictures"),
        (["train", "tests", "-o", "x", "--steps", "0"], "2 []", "error: steps: expected at least"),
        (["info", ""], "2 []", "error: index: expected a path"),
    ],
)
def test_what_is_said_before_torch_is_loaded(arguments: list[str], ending: str, said: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", NOTHING_HEAVY.format(arguments=arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout.splitlines()[-1] == ending
    assert child.stderr.startswith(said)


# Another value than the default, of every field.
OTHERS = {
    "coarse_dim": 7,
    "fine_dim": 70,
    "heads": "nested",
    "head_dim": 71,
    "coarse_head_dim": 72,
    "image_neck": 73,
    "coarse_text_dim": 74,
    "text_hidden": 75,
    "text_layers": 2,
    "dropout": 0.25,
    "vocabulary": 76,
    "max_length": 77,
    "unfreeze": True,
    "coarse_weight": 0.125,
    "fine_weight": 0.375,
    "distillation": 0.75,
    "sigmoid": True,
    "queue": 78,
    "hard": 79,
    "mine_every": 80,
    "steps": 81,
    "batch_size": 82,
    "accumulate": 83,
    "learning_rate": 0.5,
    "tower_learning_rate": 0.0625,
    "bf16": True,
    "views": 84,
    "phrasing": False,
    "every": 85,
    "seed": 86,
}


def option(name: str, value: object) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [f"--{dashed}", str(value)]


@pytest.mark.parametrize("name", [None, *OTHERS])
def test_every_setting_is_an_option_with_its_own_default(
    name: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One option changes one field, and no other."""
    assert OTHERS.keys() == {field.name for field in fields(Settings)}
    taken: list[Settings] = []

    def train_on(*given: Any, **_: Any) -> dict[str, Any]:
        taken.append(given[2])
        return {"skipped": [], "pictures": 0}

    monkeypatch.setattr("engine.training.command.train_on", train_on)
    given = {} if name is None else {name: OTHERS[name]}
    options = [part for item in given.items() for part in option(*item)]
    result = CliRunner().invoke(app, ["train", str(tmp_path), "-o", "x", *options])
    assert result.exit_code == 0, result.output
    assert taken == [Settings(**given)]  # type: ignore[arg-type]


def test_help_of_settings_stands_in_panels() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    lines = [line.strip("│ ").rstrip() for line in shown.splitlines()]
    panels = [
        next(n for n, line in enumerate(lines) if f"─ {panel} ─" in line)
        for panel in ("The model", "The loss", "The run")
    ]
    places = {
        field.name: next(
            n for n, x in enumerate(lines) if f"--{field.name.replace('_', '-')} " in f"{x} "
        )
        for field in fields(Settings)
    }
    assert panels[0] < places["coarse_dim"] < places["max_length"] < panels[1]
    assert panels[1] < places["coarse_weight"] < places["mine_every"] < panels[2]
    assert panels[2] < places["steps"] < places["seed"]
    assert places["unfreeze"] < panels[0]
    for field in fields(Settings):
        assert field.metadata["help"].split()[0] in lines[places[field.name]]
    assert "[default: 1600]" in lines[places["steps"]]
    assert "64 on CLIP" in lines[places["coarse_dim"]]
