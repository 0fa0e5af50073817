"""Small exports that several test files look at, each made once a session."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.encoders.manifest import Dtype, ExportManifest
from export.parity import Gate
from export.run import Settings, export_checkpoint
from export.tensorrt_builder import Target, choose_targets
from tests.conftest import PICTURES
from tests.engine.small_models import SMALL


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty captioned pictures of forty concepts."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = (PICTURES / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines[::30]][:40]
    for record in kept:
        (folder / record["image"]).parent.mkdir(exist_ok=True)
        shutil.copy(PICTURES / record["image"], folder / record["image"])
    text = "".join(json.dumps(record) + "\n" for record in kept)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small checkpoint of a kind, made when first asked for."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = SMALL[kind](tmp_path_factory.mktemp("small") / kind)
        return made[kind]

    return of


@pytest.fixture(scope="session")
def settings(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    def of(dtype: Dtype, min_cosine: float = 0.98, min_overlap: float = 0.5) -> Settings:
        return Settings(
            dtype=dtype,
            batch=(1, 4, 8),
            coarse_data=pictures,
            coarse_dim=None,
            parity_data=pictures,
            pairs=40,
            gate=Gate(min_cosine, min_overlap),
            timing_cache=tmp_path_factory.mktemp("cache") / "timings",
        )

    return of


Exported = Callable[..., tuple[Path, ExportManifest]]


@pytest.fixture(scope="session")
def exported(
    small: Callable[[str], Path],
    settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    """An export of a small checkpoint, made when first asked for; fp16 ones with engines."""
    made: dict[tuple[str, Dtype], tuple[Path, ExportManifest]] = {}

    def of(kind: str, dtype: Dtype) -> tuple[Path, ExportManifest]:
        if (kind, dtype) not in made:
            place = tmp_path_factory.mktemp("exports") / f"{kind}-{dtype}"
            targets: list[Target] = choose_targets(None) if dtype == "fp16" else []
            manifest = export_checkpoint(str(small(kind)), place, settings(dtype), targets, None)
            made[kind, dtype] = place, manifest
        return made[kind, dtype]

    return of
