"""Small checkpoints of other people's kinds, and exports of them, each made once and only when asked for."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.dataset import Example, read_dataset
from engine.encoders.manifest import ExportManifest, stored_file

if TYPE_CHECKING:
    from export.run import Settings

BATCH = (2, 4, 8)  # of every export here


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories of `SMALL` by name, each made once."""
    from tests.engine.small_models import SMALL

    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = SMALL[name](tmp_path_factory.mktemp("small") / name)
        return made[name]

    return of


@pytest.fixture(scope="session")
def sources(untrained: Path, small: Callable[[str], Path]) -> dict[str, Path]:
    """One with a coarse head, one without, and one whose sentences are always padded to the full length."""
    return {"hivlp": untrained, "clip": small("clip"), "siglip2": small("siglip2")}


@pytest.fixture(scope="session")
def export_settings(
    tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Callable[[str], Settings]":
    """For a kind: few pictures, float32, a gate that lets all through."""
    from export.parity import Gate
    from export.run import Settings

    def of(kind: str) -> Settings:
        return Settings(
            dtype="fp32",
            batch=BATCH,
            coarse_data=tiny_dataset,
            coarse_dim=None if kind == "hivlp" else 16,
            parity_data=tiny_dataset,
            pairs=4,
            gate=Gate(0.9, 0.1),
            timing_cache=tmp_path_factory.mktemp("cache") / "timings",
        )

    return of


@pytest.fixture(scope="session")
def exports(
    sources: dict[str, Path],
    export_settings: "Callable[[str], Settings]",
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Exports of `sources` by kind, without engines."""
    from export.run import export_checkpoint

    place = tmp_path_factory.mktemp("exports")

    def of(kind: str) -> Path:
        if not (place / kind).exists():
            export_checkpoint(str(sources[kind]), place / kind, export_settings(kind), [], None)
        return place / kind

    return of


@pytest.fixture
def changed(exports: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the CLIP export, its manifest rewritten to fit what `change` did to it."""

    def copy(change: Callable[[Path], None] = lambda _: None, **entries: Any) -> Path:
        place = tmp_path / "export"
        shutil.copytree(exports("clip"), place)
        manifest = ExportManifest.read(place)
        change(place)
        named = {file.name for file in place.iterdir()} - {"manifest.json"}
        files = {name: stored_file(place / name) for name in sorted(named)}
        replace(manifest, files=files, **entries).write(place)
        return place

    return copy


@pytest.fixture(scope="session")
def examples(tiny_dataset: Path) -> list[Example]:
    """Of the tiny data set, to train from."""
    return read_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the training runs of a file keep their features."""
    return tmp_path_factory.mktemp("features") / "features.safetensors"
