"""Captions are words, concepts are joined across sources, splits do not leak."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from examples.build import captions, clipart, emoji, render, stamps
from examples.build.sources import Picture, Skipped
from examples.build.splits import family, splits
from tests.examples.making import svg, tgz


def test_captions_are_cleaned() -> None:
    dirty = [
        " a  red\tfox ",
        None,
        "",
        "A Red Fox",
        " ,; ",
        "R&amp;B",
        "keycap: #",
        "…",
        "caf\u0065\u0301",
    ]
    assert captions.clean(dirty) == ("a red fox", "R&B", "keycap: #", "caf\u00e9")


def test_tags_that_repeat_the_label_are_left_out() -> None:
    tagged = captions.with_tags(
        "grinning face", ["face", "grin", "Face Grinning", "", "grin", "joy"]
    )
    assert tagged == "grinning face, grin, joy"
    assert captions.with_tags("frog", []) == "frog"


@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("A red fox.", "red-fox"),
        ("Red Fox 2", "red-fox"),
        ("The A", "a"),
        ("The sign for the number 1 in ASL.", "sign-for-the-number-1-in-asl"),
        ("7", "7"),
        ("", ""),
    ],
)
def test_slug(label: str, key: str) -> None:
    assert captions.slug(label) == key


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    """Small stand-ins for the two packages that captions come from."""
    row = {"tags": ["x"], "group": 0}
    table = [
        {"hexcode": "1F600", "emoji": "😀", "label": "grinning face", "order": 2, **row},
        {"hexcode": "2764", "emoji": "❤️", "label": "red heart", "order": 3, **row},
        {"hexcode": "1F438", "emoji": "🐸", "label": "frog", "order": 1, "tags": [], "group": 3},
        {"hexcode": "1F1E6", "emoji": "🇦", "label": "regional indicator A"},
        {"hexcode": "1F3FB", "emoji": "🏻", "label": "light skin tone", "order": 4, "group": 2},
    ]
    names = [
        {"unified": "2764-FE0F", "name": "HEAVY BLACK HEART"},
        {"unified": "1F438", "name": "FROG"},
        {"unified": "1F600", "name": None},
    ]
    packed = {"package/en/data.json": json.dumps(table).encode()}
    named = {"package/emoji.json": json.dumps(names).encode()}
    return {
        emoji.EMOJIBASE.name: tgz(tmp_path / "base.tgz", packed),
        emoji.DATASOURCE.name: tgz(tmp_path / "names.tgz", named),
    }


def test_concepts_are_in_order_with_labels_tags_and_unicode_names(texts: dict[str, Path]) -> None:
    found = emoji.concepts(texts)
    assert list(found) == ["1f438", "1f600", "2764"]  # no swatch, no letter
    assert found["1f438"].captions == ("frog",)
    assert found["1f600"].captions == ("grinning face", "grinning face, x")
    assert found["2764"].captions == ("red heart", "red heart, x", "heavy black heart")


def test_an_emoji_source_joins_pictures_by_code_point(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    drawn = {
        f"package/{name}.svg": svg('<rect width="9" height="9"/>') for name in ("2764", "1f600")
    }
    texts[emoji.TWEMOJI.name] = tgz(tmp_path / "twemoji.tgz", drawn)
    source = next(s for s in emoji.SOURCES if s.name == "twemoji")
    frog, grin, heart = source.read(texts)
    assert isinstance(frog, Skipped)
    assert isinstance(grin, Picture)
    assert isinstance(heart, Picture)
    assert (heart.id, heart.concept, heart.captions[0]) == ("2764", "2764", "red heart")
    assert heart.draw().size == (render.SVG_PIXELS, render.SVG_PIXELS)


def test_line_drawings_do_not_claim_colours(texts: dict[str, Path], tmp_path: Path) -> None:
    row = {"openmoji_tags": "", "skintone": "", "subgroups": "s", "group": "g"}
    rows = [
        {**row, "hexcode": "1F438", "annotation": "frog", "openmoji_tags": "green, pond, frog"},
        {**row, "hexcode": "2764", "annotation": "red heart"},
        {**row, "hexcode": "1F438-1F3FB", "annotation": "frog: light", "skintone": "1"},
        {**row, "hexcode": "E001", "annotation": "donkey", "group": "extras-openmoji"},
        {**row, "hexcode": "E002", "annotation": "a frog", "group": "extras-openmoji"},
    ]
    files = {"package/data/openmoji.json": json.dumps(rows).encode()}
    for one in rows:
        files[f"package/color/svg/{one['hexcode']}.svg"] = svg("")
        files[f"package/black/svg/{one['hexcode']}.svg"] = svg("")
    texts[emoji.OPENMOJI.name] = tgz(tmp_path / "openmoji.tgz", files)
    offer = next(s for s in emoji.SOURCES if s.name == "openmoji").read(texts)
    pictures = {item.id: item for item in offer if isinstance(item, Picture)}
    plain = {"1f438", "2764", "e001", "e002"}
    assert set(pictures) == plain | {f"{name}-line" for name in plain - {"2764"}}
    assert pictures["1f438"].captions == ("frog", "frog, green, pond")
    assert pictures["e001"].concept == "donkey"
    assert pictures["e002"].concept == "1f438"  # what an emoji shows too is the emoji's concept


def drawing(title: str, licence: str = "http://web.resource.org/cc/PublicDomain") -> bytes:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">
      <rdf:RDF xmlns:rdf="http://r/" xmlns:cc="http://c/" xmlns:dc="http://d/"><cc:Work>
        <dc:title>{title}</dc:title>
        <dc:creator><cc:Agent><dc:title>Ada Lovelace</dc:title></cc:Agent></dc:creator>
        <dc:subject><rdf:Bag><rdf:li>pond_life</rdf:li><rdf:li>hash</rdf:li>
          <rdf:li>ada lovelace</rdf:li><rdf:li/></rdf:Bag></dc:subject>
        <cc:license rdf:resource="{licence}"/>
      </cc:Work></rdf:RDF><rect width="9" height="9"/></svg>""".encode()


def test_clip_art_is_filtered_by_licence_and_title(texts: dict[str, Path], tmp_path: Path) -> None:
    files = {
        "animals/frog_01.svg": drawing("Frog_01"),
        "animals/gpl.svg": drawing("Newt", "http://creativecommons.org/licenses/GPL/2.0/"),
        "animals/none.svg": drawing("007"),
        "animals/broken.svg": b"<svg",
        "icons/flat-theme/copy.svg": drawing("Copy"),
        "roads/stop.svg": drawing("StopSign"),
        "toys/rubik_cube.svg": drawing("Clipart by Nicu Buculei - piggybank"),
        **{f"stars/{n}.svg": drawing("gramastar") for n in range(clipart.SHARED_BY + 1)},
    }
    packed = {clipart.ROOT + path: content for path, content in files.items()}
    texts[clipart.PACKAGE.name] = tgz(tmp_path / "clipart.tgz", packed)
    offer = clipart.SOURCE.read(texts)
    pictures = {item.id: item for item in offer if isinstance(item, Picture)}
    assert set(pictures) == {"animals-frog-01", "roads-stop", "toys-rubik-cube"}
    frog = pictures["animals-frog-01"]
    assert frog.concept == "1f438"
    assert frog.captions == ("Frog", "Frog, pond life")
    assert pictures["roads-stop"].captions[0] == "Stop Sign"
    assert pictures["toys-rubik-cube"].captions[0] == "rubik cube"
    assert len(offer) == len(files)


def test_stamps_take_the_english_sentence(texts: dict[str, Path], tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGBA", (5, 5), "red").save(png, "PNG")
    files = {
        "animals/frog.png": png.getvalue(),
        "animals/frog.txt": b"A frog.\nde.utf8=Ein Frosch.\n",
        "animals/newt.svg": svg('<rect width="9" height="9"/>'),
        "animals/newt.png": b"the svg is better",
        "animals/newt.txt": b"A small newt!\n",
        "animals/newt_mirror.png": png.getvalue(),
    }
    packed = {stamps.ROOT + path: content for path, content in files.items()}
    texts[stamps.PACKAGE.name] = tgz(tmp_path / "stamps.tgz", packed)
    frog, newt, mirror = stamps.SOURCE.read(texts)
    assert isinstance(frog, Picture)
    assert isinstance(newt, Picture)
    assert isinstance(mirror, Skipped)
    assert (frog.captions, frog.concept) == (("A frog.",), "1f438")
    assert (newt.captions, newt.concept) == (("A small newt!",), "small-newt")
    assert frog.draw().size == (5, 5)
    assert newt.draw().size == (render.SVG_PIXELS, render.SVG_PIXELS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1f3c3-200d-2642", "1f3c3"),  # man running, person running
        ("1f3c3-200d-2640-200d-27a1", "1f3c3"),
        ("1f468-200d-1f680", "1f9d1-200d-1f680"),  # astronauts
        ("1f469-200d-2764-200d-1f468", "1f491"),  # couples with heart
        ("1f468-200d-1f469-200d-1f467", "1f46a"),  # families
        ("1f1e8-1f1f5", "1f1eb-1f1f7"),  # Clipperton flies the flag of France
    ],
)
def test_concepts_drawn_alike_are_a_family(one: str, other: str) -> None:
    assert family(one) == family(other)


def test_families_are_not_too_wide() -> None:
    apart = ["1f600", "1f603", "1f9d1-200d-1f680", "1f9d1-200d-1f692", "1f1eb-1f1f7", "1f1e9-1f1ea"]
    assert len({family(concept) for concept in apart}) == len(apart)


def test_splits_do_not_move() -> None:
    """The sides of known concepts, written down: a moved split would make old figures lies."""
    sides = {c: splits("twemoji", c)["concept"] for c in ("1f600", "1f601", "1f603", "1f604")}
    assert sides == {"1f600": "train", "1f601": "test", "1f603": "train", "1f604": "train"}
    assert splits("noto", "1f600")["style"] == "test"
    assert splits("tuxpaint", "1f600") == {"style": "train", "concept": "train", "tux": "test"}
    words = ["x", *("".join(letters) for letters in itertools.product("abcdef", repeat=4))]
    assert "cafe" in words  # a word, not a code point
    assert all(splits("openclipart", word)["concept"] == "train" for word in words)
