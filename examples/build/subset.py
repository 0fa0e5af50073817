"""The pictures that this repository itself holds: ``--examples examples/pictures``.

Twemoji, Noto and Fluent-3D allow it (see the folder's LICENCES). The concepts are those that all
three draw, less flags (not what anyone searches for in words) and less the variants that only
change a person's gender, hair or direction: three pictures each of 1,400 different things.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from examples.build import dataset, emoji
from examples.build.dataset import Built
from examples.build.fetch import fetch
from examples.build.render import Look
from examples.build.sources import Picture
from examples.build.splits import family

NAMES = ("twemoji", "noto", "fluent3d")
LOOK = Look(size=112, quality=70)
CAPTIONS = 2  # the label, and the label with its tags


def build(out: Path, cache: Path, advance: Callable[[], None]) -> dict[str, Built]:
    """Write the subset to ``out`` from scratch; other files there (README, LICENCES) stay."""
    sources = {source.name: source for source in emoji.SOURCES if source.name in NAMES}
    files = {p.name: fetch(p, cache) for s in sources.values() for p in s.packages}
    wanted = {
        concept.key
        for concept in emoji.concepts(files).values()
        if concept.group != emoji.FLAGS
        and ("200d" not in concept.key or family(concept.key) == concept.key)
    }
    built = {}
    for name, source in sources.items():
        shutil.rmtree(out / name, ignore_errors=True)
        offer = [
            replace(picture, captions=picture.captions[:CAPTIONS])
            for picture in source.read(files)
            if isinstance(picture, Picture) and picture.concept in wanted
        ]
        built[name] = dataset.build(source, offer, LOOK, out, advance)
    built = _common(built, out)
    dataset.assemble(built, out)
    shutil.rmtree(out / ".state")
    (out / "skipped.txt").unlink()
    return built


def _common(built: Mapping[str, Built], out: Path) -> dict[str, Built]:
    """Only the concepts that every source drew; the other pictures are deleted."""
    drawn = [{record["concept"] for record in one.records} for one in built.values()]
    common = set.intersection(*drawn)
    for one in built.values():
        for record in one.records:
            if record["concept"] not in common:
                (out / record["image"]).unlink()
    return {
        name: Built([r for r in one.records if r["concept"] in common], [])
        for name, one in built.items()
    }
