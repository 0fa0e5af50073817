"""Draw a picture in its own size, and set it on a white square."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.build.sources import DrawError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SVG_PIXELS = 448  # twice the written size: the reduction then smooths edges well
NEARLY_WHITE = 250  # of 255: a picture without a darker pixel is white on white
SVG_BYTES = 2_000_000  # larger drawings are traced photographs that take minutes


@dataclass(frozen=True)
class Look:
    """How pictures are written: WebP, ``size`` x ``size`` pixels, ``quality`` 0-100."""

    size: int
    quality: int


def draw_svg(svg: bytes, pixels: int = SVG_PIXELS) -> Image:
    """The drawing in RGBA, its longer side ``pixels``. No font is loaded: the same everywhere."""
    import resvg_py

    if len(svg) > SVG_BYTES:
        raise DrawError(f"the SVG has {len(svg)} bytes, more than {SVG_BYTES}")
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg.decode("utf-8", errors="replace"),
            width=pixels,
            height=pixels,
            dpi=96,
            skip_system_fonts=True,
        )
    except ValueError as error:
        raise DrawError(f"resvg: {error}") from error
    return draw_bitmap(bytes(png))


def draw_svg_close(svg: bytes) -> Image:
    """As draw_svg, less the clear margins of a drawing that fills a corner of its page only."""
    image = draw_svg(svg)
    box = image.getbbox()  # of what is not clear
    if box is None:
        raise DrawError("nothing to see on white")
    across = max(box[2] - box[0], box[3] - box[1])
    if across < SVG_PIXELS // 2:
        image = draw_svg(svg, min(SVG_PIXELS * SVG_PIXELS // across, 8 * SVG_PIXELS))
        box = image.getbbox()
    return image.crop(box)


def draw_bitmap(encoded: bytes) -> Image:
    """A PNG or WebP in RGBA."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DrawError(f"Pillow: {error}") from error


def draw_glyph(font: FreeTypeFont, text: str) -> Image:
    """One emoji of a colour font in RGBA; a DrawError where the font has no such emoji."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    if bottom <= top or font.getlength(text) > 1.5 * font.getlength("\U0001f600"):
        raise DrawError("the font has no glyph for it")
    image = Image.new("RGBA", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), text, font=font, embedded_color=True)
    return image


def on_white(image: Image, size: int) -> Image:
    """The whole picture in the middle of a white RGB square of ``size`` pixels."""
    import PIL.Image

    scale = size / max(image.size)
    # onto white before the resize: the colour of clear pixels must not bleed into the edges
    flat = PIL.Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image)
    width, height = (max(1, round(side * scale)) for side in image.size)
    fitted = flat.convert("RGB").resize((width, height), PIL.Image.Resampling.LANCZOS)
    square = PIL.Image.new("RGB", (size, size), "white")
    square.paste(fitted, ((size - width) // 2, (size - height) // 2))
    if not any(square.convert("L").histogram()[:NEARLY_WHITE]):
        raise DrawError("nothing to see on white")
    return square


def webp(image: Image, look: Look) -> bytes:
    """The encoded picture on white."""
    stream = io.BytesIO()
    on_white(image, look.size).save(stream, "WEBP", quality=look.quality, method=6)
    return stream.getvalue()
