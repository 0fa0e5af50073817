"""Reading images: what is accepted comes out right, what is not is refused by name."""

import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine
from engine import images
from engine.images import read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.new("RGB", (8, 6), RED), kind)
    (tmp_path / "picture").write_bytes(content)
    for source in (content, tmp_path / "picture"):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (8, 6))
        np.testing.assert_allclose(np.asarray(image)[3, 3], RED, atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = read_image(Image.new("RGB", (4, 4), WHITE).convert(mode))
    assert (image.mode, image.size) == ("RGB", (4, 4))
    assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (257 * 77, 77), (32768, 127), (65535, 255)]
)
def test_sixteen_bit_grey_is_scaled_not_cut(value: int, expected: int) -> None:
    image = read_image(encoded(Image.new("I;16", (2, 2), value)))
    assert image.getpixel((0, 0)) == (expected,) * 3


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    assert [read_image(encoded(image)).getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


def test_an_exif_rotated_picture_is_turned_upright() -> None:
    image = Image.new("RGB", (4, 2), WHITE)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter
    assert read_image(encoded(image, exif=exif)).size == (2, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got something else"),
        (b"hello", "got something else"),
        (encoded(Image.new("RGB", (9, 9)), "ICO"), "got something else"),
        (
            encoded(Image.new("RGB", (64, 64), RED))[:60],
            "expected a whole JPEG, PNG, .* or AVIF image, got ",
        ),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-400], "a whole JPEG, PNG, "),
    ],
)
def test_broken_pictures(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(engine.ImageError, match=f"broken.png: .*{message}"):
        read_image(tmp_path / "broken.png")


def test_the_pixel_cap_is_read_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (300, 200)))
    monkeypatch.setattr(images, "MAX_PIXELS", 59_999)
    with pytest.raises(engine.ImageError, match="expected at most 59,999 pixels, got 300x200"):
        read_image(content)
    monkeypatch.setattr(images, "MAX_PIXELS", 60_000)
    assert read_image(content).size == (300, 200)


def test_no_file_there(tmp_path: Path) -> None:
    with pytest.raises(engine.ImageError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


def test_a_file_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (30, 20)))
    (tmp_path / "long.png").write_bytes(content)
    monkeypatch.setattr(images, "MAX_BYTES", len(content) - 1)
    with pytest.raises(
        engine.ImageError,
        match=f"expected a file of at most {len(content) - 1} bytes, got {len(content)}",
    ):
        read_image(tmp_path / "long.png")
    monkeypatch.setattr(images, "MAX_BYTES", len(content))
    assert read_image(tmp_path / "long.png").size == (30, 20)


def test_warning_filters_survive_threads_that_overlap() -> None:
    """A second thread enters while the first is inside, and leaves after it."""
    before = warnings.filters[:]
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with images._SILENCE:
            entered.set()
            assert leave.wait(10)

    thread = threading.Thread(target=second)
    with images._SILENCE:
        thread.start()
        assert entered.wait(10)
    warnings.warn("not heard", stacklevel=1)  # the second is still inside
    leave.set()
    thread.join()
    assert warnings.filters == before
