"""Open Clip Art: drawings with a title and keywords inside the SVG, in the public domain."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from examples.build import archive, captions
from examples.build.emoji import DATASOURCE, EMOJIBASE, concept_of_label
from examples.build.render import draw_svg_close
from examples.build.sources import Offer, Package, Picture, Skipped, Source

PACKAGE = Package("apt", "openclipart-svg", "1:0.18+dfsg-19")
ROOT = "usr/share/openclipart/svg/"
SHARED_BY = 6  # a title that more drawings than this bear is the name of a set, not of a picture
_SET = re.compile(r"collection|theme|icon ?set|untitled|submission|various|gradient", re.I)
_AUTHORED = re.compile(r"^clipart by .*? - ", re.I)
_NOISE_TAGS = {"hash", "unsorted", "clip art", "clipart", "sign", "icons", "architetto"}


@dataclass(frozen=True)
class _Drawing:
    path: str
    svg: bytes
    title: str
    given: str  # the title as the file gives it: sets of drawings share one
    tags: tuple[str, ...]
    licence: str


def _read(files: Mapping[str, Path]) -> Offer:
    drawn = archive.read(files[PACKAGE.name], lambda path: path.endswith(".svg"))
    labels = concept_of_label(files)
    return list(_pictures([_drawing(path, svg) for path, svg in drawn.items()], labels))


def _pictures(drawings: list[_Drawing], labels: Mapping[str, str]) -> Iterator[Picture | Skipped]:
    bearers = collections.Counter(drawing.given.casefold() for drawing in drawings)
    for drawing in drawings:
        path = drawing.path.removeprefix(ROOT).removesuffix(".svg")
        name = re.sub(r"[^a-z0-9]+", "-", path.casefold()).strip("-")
        reason = _why_not(drawing, bearers[drawing.given.casefold()])
        if reason:
            yield Skipped(name, reason)
            continue
        lines = captions.clean([drawing.title, captions.with_tags(drawing.title, drawing.tags)])
        concept = captions.slug(drawing.title)
        yield Picture(
            name, lines, labels.get(concept, concept), partial(draw_svg_close, drawing.svg)
        )


def _why_not(drawing: _Drawing, bearers: int) -> str | None:
    if "publicdomain" not in drawing.licence.casefold().replace(" ", ""):
        return "its licence tag does not say public domain"
    if "theme" in drawing.path or "/gradients/" in drawing.path:
        return "part of an icon theme or a set of gradients"
    if not re.search(r"[^\W\d_]{3}", drawing.title):
        return "it has no title in words"
    if bearers > SHARED_BY or _SET.search(drawing.title):
        return "its title is the name of a set"
    return None


def _drawing(path: str, svg: bytes) -> _Drawing:
    """Title, keywords and licence from the drawing's RDF; empty where it has none."""
    nothing = _Drawing(path, svg, "", "", (), "")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return nothing
    work = next((node for node in root.iter() if node.tag.endswith("}Work")), None)
    if work is None:
        return nothing
    given = next((node.text for node in work if node.tag.endswith("}title")), None) or ""
    licence = next((node.attrib for node in work if node.tag.endswith("}license")), {})
    title = given
    if _AUTHORED.match(given):
        # these titles were often copied from one drawing to the next; the file names are right
        title, given = PurePosixPath(path).stem, path
    return _Drawing(path, svg, _plain(title), given, _tags(work), " ".join(licence.values()))


def _tags(work: ElementTree.Element) -> tuple[str, ...]:
    """The keywords, less the makers' names and what the old converter left behind."""
    credits = [node for node in work if node.tag.endswith(("}creator", "}rights"))]
    makers = {word for node in credits for word in captions.words(" ".join(node.itertext()))}
    keywords = [_plain(node.text or "") for node in work.iter() if node.tag.endswith("}li")]
    return tuple(
        keyword
        for keyword in keywords
        if keyword.casefold() not in _NOISE_TAGS and not makers & set(captions.words(keyword))
    )


def _plain(text: str) -> str:
    """Words: ``Stop_Sign02`` and ``StopSign`` are ``Stop Sign``."""
    spaced = re.sub(r"[_\s]+|(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(re.sub(r"(?<=[^\W\d])\d{1,3}\b|\b0\d{1,2}\b", "", spaced).split())


SOURCE = Source("openclipart", "public domain", (EMOJIBASE, DATASOURCE, PACKAGE), _read)
