"""The emoji: their concepts and captions, and the four sources that draw them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from examples.build import archive, captions
from examples.build.render import draw_bitmap, draw_glyph, draw_svg
from examples.build.sources import Offer, Package, Picture, Skipped, Source, SourceError

EMOJIBASE = Package("npm", "emojibase-data", "17.0.0")
DATASOURCE = Package("npm", "emoji-datasource", "16.0.0")
TWEMOJI = Package("npm", "@twemoji/svg", "15.0.0")
FLUENT = Package("npm", "@lobehub/fluent-emoji-3d", "1.1.0")
NOTO = Package("apt", "fonts-noto-color-emoji", "2.042-0+deb12u1")
OPENMOJI = Package("npm", "openmoji", "17.0.0")

COMPONENT, FLAGS = 2, 9  # emojibase's groups: swatches of skin and hair; flags
NOTO_SIZE = 109  # the one size of the bitmaps in the font
# a line drawing has no colours, so its caption must not name one
_COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"}
_COLOURS |= {"grey", "black", "white"}


@dataclass(frozen=True)
class Concept:
    """An emoji without its skin tones. ``key``: its code points, less variation selectors."""

    key: str
    text: str
    label: str
    captions: tuple[str, ...]
    group: int


def key(code_points: str) -> str:
    """``"2764-FE0F"`` and ``"2764"`` are one key: ``"2764"``; at least four digits a part."""
    parts = code_points.lower().split("-")
    return "-".join(part.rjust(4, "0") for part in parts if part != "fe0f")


def concepts(files: Mapping[str, Path]) -> dict[str, Concept]:
    """All concepts by key, in Unicode's order: label; label and tags; Unicode's own name."""
    table = json.loads(archive.read_one(files[EMOJIBASE.name], "en/data.json"))
    names = json.loads(archive.read_one(files[DATASOURCE.name], "emoji.json"))
    unicode_names = {key(row["unified"]): row["name"] or "" for row in names}
    found = {}
    for row in sorted(table, key=lambda row: row.get("order", -1)):
        group = row.get("group")
        if group is None or group == COMPONENT:  # None: the letters from which flags are made
            continue
        label, code = row["label"], key(row["hexcode"])
        lines = [label, captions.with_tags(label, row.get("tags", ()))]
        name = unicode_names.get(code, "").lower()
        if "ideograph" not in name and captions.words(name) != captions.words(label):
            lines.append(name)
        found[code] = Concept(code, row["emoji"], label, captions.clean(lines), group)
    return found


def concept_of_label(files: Mapping[str, Path]) -> dict[str, str]:
    """From a label's slug to the emoji concept it names, for the sources that are not emoji."""
    return {captions.slug(c.label): c.key for c in reversed(list(concepts(files).values()))}


def _twemoji(files: Mapping[str, Path]) -> Offer:
    drawn = archive.read(files[TWEMOJI.name], lambda path: path.endswith(".svg"))
    by_key = {key(Path(path).stem): svg for path, svg in drawn.items()}
    return [
        Picture(c.key, c.captions, c.key, partial(draw_svg, by_key[c.key]))
        if c.key in by_key
        else Skipped(c.key, "Twemoji does not draw it")
        for c in concepts(files).values()
    ]


def _fluent(files: Mapping[str, Path]) -> Offer:
    drawn = archive.read(files[FLUENT.name], lambda path: path.endswith(".webp"))
    by_key = {key(Path(path).stem): encoded for path, encoded in drawn.items()}
    return [
        Picture(c.key, c.captions, c.key, partial(draw_bitmap, by_key[c.key]))
        if c.key in by_key
        else Skipped(c.key, "Fluent does not draw it")
        for c in concepts(files).values()
    ]


def _noto(files: Mapping[str, Path]) -> Offer:
    from PIL import ImageFont, features

    if not features.check("raqm"):
        raise SourceError(
            "Pillow finds no FriBiDi, so it cannot join code points to one emoji: "
            "apt-get install libfribidi0"
        )
    file = archive.read(files[NOTO.name], lambda path: path.endswith("NotoColorEmoji.ttf"))
    if len(file) != 1:
        raise SourceError(f"{files[NOTO.name]} holds no NotoColorEmoji.ttf")
    font = ImageFont.truetype(io.BytesIO(file.popitem()[1]), NOTO_SIZE)
    return [
        Picture(c.key, c.captions, c.key, partial(draw_glyph, font, c.text))
        for c in concepts(files).values()
    ]


def _openmoji(files: Mapping[str, Path]) -> Offer:
    return list(_openmoji_pictures(files))


def _openmoji_pictures(files: Mapping[str, Path]) -> Iterator[Picture | Skipped]:
    """Colour and line drawing of every emoji, and OpenMoji's extras, with OpenMoji's own tags."""
    known = concepts(files)
    labels = concept_of_label(files)
    package = files[OPENMOJI.name]
    rows = json.loads(archive.read_one(package, "data/openmoji.json"))
    drawn = archive.read(package, lambda path: path.startswith(("color/svg/", "black/svg/")))
    for row in sorted(rows, key=lambda row: str(row["hexcode"])):
        code, label = key(row["hexcode"]), row["annotation"]
        extra = row["group"].startswith("extras")
        if row["skintone"] or not (code in known or extra):
            continue
        own = captions.with_tags(label, row["openmoji_tags"].split(","))
        lines = captions.clean([*(known[code].captions if code in known else [label]), own])
        name = captions.slug(label) or code
        concept = code if code in known else labels.get(name, name)
        colour = drawn[f"color/svg/{row['hexcode']}.svg"]
        yield Picture(code, lines, concept, partial(draw_svg, colour))
        if "flag" in row["group"] + row["subgroups"] or _COLOURS & set(captions.words(label)):
            yield Skipped(f"{code}-line", "a line drawing cannot show the colours it is named for")
        else:
            line = drawn[f"black/svg/{row['hexcode']}.svg"]
            yield Picture(f"{code}-line", lines, concept, partial(draw_svg, line))


_TEXTS = (EMOJIBASE, DATASOURCE)
SOURCES = (
    Source("twemoji", "CC-BY-4.0", (*_TEXTS, TWEMOJI), _twemoji),
    Source("fluent3d", "MIT", (*_TEXTS, FLUENT), _fluent),
    Source("noto", "OFL-1.1", (*_TEXTS, NOTO), _noto),
    Source("openmoji", "CC-BY-SA-4.0", (*_TEXTS, OPENMOJI), _openmoji),
)
