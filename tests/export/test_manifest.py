"""A manifest that is read back, and everything that is refused for its sake."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.encoders.manifest import MANIFEST, ExportManifest
from engine.errors import CheckpointError

Exported = Callable[..., tuple[Path, ExportManifest]]


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> tuple[Path, ExportManifest]:
    place, manifest = exported("clip", "fp16")
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy", manifest


def test_a_hundred_changes_and_none_gets_past_the_hash(copied: tuple[Path, ExportManifest]) -> None:
    """A bit turned, bytes cut off or added, in any file: neither `content` nor `verify` lets it through."""
    place, manifest = copied
    chance = random.Random(0)
    engines = [engine.file for engine in manifest.engines]
    for _ in range(100):
        name = chance.choice([*manifest.files, *engines])
        whole = (place / name).read_bytes()
        at = chance.randrange(len(whole))
        turned = whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        (place / name).write_bytes(chance.choice([turned, turned, whole[:at], whole + b"\0"]))
        for reading in (manifest.content, lambda place, name: manifest.verify(place, (name,))):
            with pytest.raises(
                CheckpointError, match=rf"{name}: expected .* bytes with sha256 \w+, got "
            ):
                reading(place, name)
        (place / name).write_bytes(whole)
    manifest.verify(place)
    for name in manifest.files:
        assert manifest.content(place, name) == (place / name).read_bytes()


@pytest.mark.parametrize("trick", ["link", "missing", "directory", "pipe"])
def test_what_is_no_plain_file_is_refused(trick: str, copied: tuple[Path, ExportManifest]) -> None:
    place, manifest = copied
    graph = place / "image.onnx"
    graph.rename(place.parent / "elsewhere.onnx")
    match trick:
        case "link":
            graph.symlink_to(place.parent / "elsewhere.onnx")
        case "directory":
            graph.mkdir()
        case "pipe":
            os.mkfifo(graph)
    with pytest.raises(CheckpointError, match=r"image\.onnx: expected a (readable|regular) file"):
        manifest.content(place, "image.onnx")


def test_a_file_that_is_not_named_is_not_read(copied: tuple[Path, ExportManifest]) -> None:
    place, manifest = copied
    (place / "other.engine").write_bytes(b"native code")
    with pytest.raises(CheckpointError, match="expected a file that the manifest names, got "):
        manifest.content(place, "other.engine")


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        _without("files"),
        _without("graphs"),
        _without("padding"),
        lambda found: found.update(version=2),
        lambda found: found.update(format="hivlp-index"),
        lambda found: found.update(dtype="int4"),
        lambda found: found.update(padding="left"),
        lambda found: found.update(profile={"batch": [1, 8]}),
        lambda found: found["graphs"].pop("text"),
        lambda found: found["engines"][0].update(file="../image.engine"),
        lambda found: found["engines"][0].pop("hardware"),
        lambda found: found["engines"][0].update(extra=1),
        lambda found: found["files"].update({"../x": found["files"]["image.onnx"]}),
        lambda found: found["files"].update({"/etc/passwd": found["files"]["image.onnx"]}),
        lambda found: found["files"].pop("image.onnx"),
        lambda found: found["files"].update({"image.onnx": "many bytes"}),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    change: Callable[[dict[str, Any]], object], copied: tuple[Path, ExportManifest]
) -> None:
    place, _ = copied
    found = json.loads((place / MANIFEST).read_text())
    change(found)
    (place / MANIFEST).write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected .*, got"):
        ExportManifest.read(place)


@pytest.mark.parametrize("content", [None, "", "[]", "{", "\udcff"])
def test_what_is_no_manifest_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected .*, got"):
        ExportManifest.read(tmp_path)
