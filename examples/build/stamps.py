"""Tux Paint's stamps: photographs and drawings, each with a sentence for children."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from examples.build import archive, captions
from examples.build.emoji import DATASOURCE, EMOJIBASE, concept_of_label
from examples.build.render import draw_bitmap, draw_svg
from examples.build.sources import Offer, Package, Picture, Skipped, Source

PACKAGE = Package("apt", "tuxpaint-stamps-default", "2022.06.04-1")
ROOT = "usr/share/tuxpaint/stamps/"


def _read(files: Mapping[str, Path]) -> Offer:
    found = archive.read(files[PACKAGE.name], lambda p: p.endswith((".svg", ".png", ".txt")))
    labels = concept_of_label(files)
    offer: list[Picture | Skipped] = []
    for stem in sorted({path.rsplit(".", 1)[0] for path in found if not path.endswith(".txt")}):
        name = re.sub(r"[^a-z0-9]+", "-", stem.removeprefix(ROOT).casefold()).strip("-")
        # the first line is English, those after it say the same in other languages
        lines = found.get(f"{stem}.txt", b"").decode("utf-8", errors="replace").splitlines()
        sentence = captions.clean(lines[:1])
        if not sentence:
            offer.append(Skipped(name, "it has no sentence"))
            continue
        svg = found.get(f"{stem}.svg")
        draw = partial(draw_svg, svg) if svg else partial(draw_bitmap, found[f"{stem}.png"])
        concept = captions.slug(sentence[0]) or name
        offer.append(Picture(name, sentence, labels.get(concept, concept), draw))
    return offer


SOURCE = Source("tuxpaint", "GPL-2.0", (EMOJIBASE, DATASOURCE, PACKAGE), _read)
