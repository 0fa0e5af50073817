"""A picture is drawn whole, in the middle, on white."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from PIL import Image

from examples.build import render
from examples.build.sources import DrawError
from tests.examples.making import pixels, svg


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
