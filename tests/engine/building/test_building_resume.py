"""A build that is killed goes on when called again, and ends with the index of one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.building import build, build_index
from engine.building.state import Reached, State
from tests.conftest import PICTURES, ROOT

SEGMENT = 8
PICTURE_COUNT = 40
KILLS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, every seventh of them broken."""
    place = tmp_path_factory.mktemp("many")
    for number, picture in enumerate(sorted((PICTURES / "noto").glob("*.webp"))[:PICTURE_COUNT]):
        content = picture.read_bytes()
        (place / picture.name).write_bytes(content[: 60 if number % 7 == 3 else None])
    return place


@pytest.fixture(scope="module")
def whole(
    folder: Path, untrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the index of a build is that nobody disturbed."""
    place = tmp_path_factory.mktemp("undisturbed") / "whole"
    build_index([folder], place, untrained, segment=SEGMENT)
    return state_of(place)


def state_of(place: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    index = engine.Index.open(place)
    index.verify()
    rows = np.arange(index.row_count)
    skipped = place.with_name(f"{place.name}.skipped.jsonl")
    return {
        "ids": index.ids_at(rows),
        "fine": np.asarray(index.fine).tobytes(),
        "coarse": np.asarray(index.coarse).tobytes(),
        "metadata": [index.metadata_at(int(row)) for row in rows],
        "skipped": skipped.read_text() if skipped.exists() else "",
    }


def inode(file: Path) -> int | None:
    return file.stat().st_ino if file.exists() else None


def command(folder: Path, place: Path, checkpoint: Path) -> list[str]:
    arguments = ("-o", place, "--checkpoint", checkpoint, "--save-every", SEGMENT, "--json")
    return [sys.executable, "-m", "engine", "index", *map(str, (folder, *arguments))]


def test_killed_again_and_again(
    folder: Path, untrained: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """kill -9 as soon as the build has saved something new, and a random moment later; four times."""
    place, moments, kills = tmp_path / "killed", random.Random(5), 0
    held: list[int] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while kills < KILLS:
        manifest = place / "manifest.json"
        before = inode(manifest)
        with subprocess.Popen(
            command(folder, place, untrained),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            while child.poll() is None and before == inode(manifest):
                time.sleep(0.001)
            time.sleep(moments.random() * 0.05)
            ended = child.poll() is not None
            child.send_signal(signal.SIGKILL)
        if ended:
            break
        kills += 1
        held.append(len(engine.Index.open(place)))
    child = subprocess.run(  # type: ignore[assignment]
        command(folder, place, untrained),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    print(f"{kills} kills, items held after each: {held}")
    assert kills >= 3
    assert held == sorted(held)
    assert state_of(place) == whole
    assert not (tmp_path / "killed.build.json").exists()


class Stop(Exception):
    """What ends a build in the middle, in this process."""


def interrupted(
    monkeypatch: pytest.MonkeyPatch,
    sources: list[Path],
    place: Path,
    at: int,
    before: str,
    **options: Any,
) -> None:
    """A build that ends when a function has been called `at` times before: "save" of the index, or "publish"."""
    calls = 0
    owner: Any = {"save": engine.Retriever, "publish": State}[before]
    own = getattr(owner, before)

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise Stop
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, before, stopping)
        with pytest.raises(Stop):
            build_index(sources, place, segment=SEGMENT, **options)


@pytest.mark.parametrize("before", ["save", "publish"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_stopped_between_its_steps(
    before: str,
    at: int,
    folder: Path,
    untrained: Path,
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """State written and index not, or neither."""
    encoder = engine.open_encoder(untrained)
    interrupted(monkeypatch, [folder], tmp_path / "stopped", at, before, checkpoint=encoder)
    report = build_index([folder], tmp_path / "stopped", encoder, segment=SEGMENT)
    assert report.resumed == at * SEGMENT
    assert (report.indexed, report.skipped) == (34, 6)
    assert state_of(tmp_path / "stopped") == whole


def test_an_encoder_without_coarse_vectors_learns_the_same_reduction(
    folder: Path, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first segment is as large as it takes; afterwards the reduction stays."""
    encoder = engine.open_encoder(small("clip"))
    monkeypatch.setattr(build, "SETTLED", 20)
    monkeypatch.setattr("engine.coarse.relearning.SETTLED", 20)
    interrupted(monkeypatch, [folder], tmp_path / "stopped", 2, "save", checkpoint=encoder)
    assert len(engine.Index.open(tmp_path / "stopped")) >= 20
    build_index([folder], tmp_path / "stopped", encoder, segment=SEGMENT)
    report = build_index([folder], tmp_path / "whole", encoder, segment=SEGMENT)
    assert report.index.reduction is not None
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


def test_int8_has_the_same_scale(
    folder: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is learned from a first segment that is as large as it takes, however late that is."""
    encoder = engine.open_encoder(untrained)
    monkeypatch.setattr(build, "SETTLED", 20)
    monkeypatch.setattr(build, "SAVE_SECONDS", 0.0)
    sources = [folder]
    options: dict[str, Any] = {"checkpoint": encoder, "coarse_dtype": "int8"}
    interrupted(monkeypatch, sources, tmp_path / "stopped", 1, "save", **options)
    assert len(engine.Index.open(tmp_path / "stopped")) >= 16  # 20 entries, some of them broken
    build_index(sources, tmp_path / "stopped", segment=SEGMENT, **options)
    monkeypatch.setattr(build, "SAVE_SECONDS", 1e9)
    report = build_index(sources, tmp_path / "whole", segment=SEGMENT, **options)
    found = engine.Index.open(tmp_path / "stopped")
    assert found.header == report.index.header
    np.testing.assert_array_equal(found.coarse, report.index.coarse)
    float32 = build_index(sources, tmp_path / "float32", encoder, segment=SEGMENT).index
    assert report.index.header.quantization is not None
    scale = report.index.header.quantization.scale
    reach = 127 * scale
    np.testing.assert_allclose(
        found.coarse * scale, float32.coarse.clip(-reach, reach), atol=scale / 2 * 1.001, rtol=0
    )


def test_sources_that_changed_meanwhile(
    folder: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions mean nothing any more: what is there is found by its id, the rest is added."""
    encoder = engine.open_encoder(untrained)
    own = tmp_path / "pictures"
    shutil.copytree(folder, own)
    interrupted(monkeypatch, [own], tmp_path / "index", 3, "save", checkpoint=encoder)
    held = len(engine.Index.open(tmp_path / "index"))
    shutil.copy(
        next(path for path in sorted(own.iterdir()) if path.stat().st_size > 60), own / "0.webp"
    )
    report = build_index([own], tmp_path / "index", encoder, segment=SEGMENT)
    assert (report.resumed, report.held, report.indexed) == (0, held, 35 - held)
    assert len(report.index) == 35


def test_vectors_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a file, whose ids are row numbers, in two files."""
    vectors = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    np.save(tmp_path / "a.npy", vectors[:33])
    np.save(tmp_path / "b.npy", vectors[33:])
    monkeypatch.setattr("engine.building.sources.BLOCK", 5)
    monkeypatch.setattr(build, "SETTLED", 10)
    sources = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for at in range(1, 6):
        place = tmp_path / f"stopped{at}"
        interrupted(monkeypatch, sources, place, at, "save")
        report = build_index(sources, place, segment=SEGMENT)
        assert report.resumed > 0
        np.testing.assert_array_equal(report.index.fine, vectors)
        assert report.index.ids_at(np.arange(50)) == list(range(50))


def test_a_damaged_state_is_no_state(tmp_path: Path) -> None:
    file, sources = tmp_path / "x.build.json", [["a", 3, "stamp"]]
    state = State(file, sources, 0, [Reached(0)])
    state.publish(Reached(5, 0, 2))
    resumed = State.resume(file, sources, 5)
    assert resumed is not None
    assert resumed.reached == [Reached(5, 0, 2)]
    assert State.resume(file, sources, 4) is None
    assert State.resume(file, [["a", 4, "stamp"]], 5) is None
    stored = json.loads(file.read_text())
    for damaged in (
        "",
        "[]",
        json.dumps({**stored, "reached": 3}),
        json.dumps({**stored, "version": 9}),
    ):
        file.write_text(damaged)
        assert State.resume(file, sources, 5) is None
