"""Reading images: from a path, from bytes, or as Pillow holds them already.

What a file may cost is bounded before anything is decoded: its bytes by `MAX_BYTES`, its pixels by `MAX_PIXELS`
(read from the header), a JPEG's passes over them by `MAX_SCANS` and `MAX_SCANNED`, and what else headers ask for by
`image_headers`. Only regular files are opened. Decoding takes at most about 13 bytes a pixel while it lasts; the
RGB image that comes of it takes 3 or 4.
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engine.errors import ImageError, MissingPackage
from engine.image_headers import orientation, passes
from engine.system.files import Member, open_regular
from engine.system.forks import forkable_lock

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource: TypeAlias = Image | Path | Member | bytes

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".jfif", ".jpe", ".jif", ".pjpeg", ".apng"),
    *(".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
)
# Pictures too, but not of a kind that is read.
OTHER_SUFFIXES = (".jxl", ".jp2", ".psd", ".svg", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw")
KINDS = "a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image"
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 28
# A progressive JPEG of a few megabytes may ask for thousands of passes, minutes of work; real ones have about ten.
MAX_SCANS = 100
MAX_SCANNED = 2_000_000_000  # pixels times passes over them: the largest JPEG may have twenty

# What Pillow raises on damaged files, beside its own errors; found by feeding it such files.
_FAULTS = (
    *(OSError, ValueError, SyntaxError, struct.error, zlib.error, EOFError, OverflowError),
    *(IndexError, KeyError, TypeError, MemoryError),
)


def is_image(value: object) -> bool:
    """Whether `value` is a Pillow image; Pillow is not imported to find out."""
    return any(base.__module__.startswith("PIL.") for base in type(value).__mro__)


def read_image(source: "ImageSource") -> "Image":
    """An RGB image, upright by its EXIF tag, transparency laid on white; the first frame of several.

    HEIC is read where the package pillow-heif is installed. A JPEG that lacks nothing but the mark of its end is
    read. `remark` says of an opened image what of it is not read.

    Raises ImageError naming the file where it is not whole, not of `FORMATS`, or of more than 100 megapixels,
    256 MiB or 100 scans.
    """
    return decode_image(open_image(source), source)


def open_image(source: "ImageSource") -> "Image":
    """The image with its header read and nothing decoded yet: its size is known, and within the bounds above."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage.of("pillow", "models", "Reading images") from None

    with _refusing(source):
        ends, content, formats = True, b"", (*FORMATS, *_more_formats())
        if isinstance(source, Image.Image):
            image = source
        else:
            content = source if isinstance(source, bytes) else _content(source)
            scans, ends = passes(content)
            if scans > MAX_SCANS:
                raise ImageError(
                    _name(source),
                    expected=f"a JPEG of at most {MAX_SCANS} scans",
                    got="more",
                    remedy="Save it again.",
                )
            image = Image.open(io.BytesIO(content), formats=formats)
            if scans * image.width * image.height > MAX_SCANNED:
                raise ImageError(
                    _name(source),
                    expected=f"a JPEG of at most {MAX_SCANNED:,} pixels times scans",
                    got=f"{image.width}x{image.height} in {scans}",
                    remedy="Save it again.",
                )
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                _name(source),
                expected=f"at most {MAX_PIXELS:,} pixels",
                got=f"{image.width}x{image.height}",
                remedy="Scale it down first.",
            )
        return image if ends else _ended(image, content, formats)


def remark(image: "Image") -> str | None:
    """What is worth saying of an image as `open_image` returns it, although it can be read."""
    if image.info.get("unended"):
        return "a JPEG without the mark of its end"
    with _SILENCE:
        several = getattr(image, "is_animated", False)
    return "the first picture of several in one file" if several else None


_END = b"\xff\xd9"
_MORE = [
    bytes([value]) * 4096 + _END for value in (0x55, 0x92, 0xAA, 0xFE)
]  # bits of every kind, no mark in them


def _ended(image: "Image", content: bytes, formats: tuple[str, ...]) -> "Image":
    """The image, decoded, if it is a whole one that lacks the mark of its end; else as it was.

    A decoder that still wants bits takes those of `_MORE`, and a decoder that has all passes over them.
    """
    from PIL import Image

    def decoded(more: bytes) -> Image.Image:
        found = Image.open(io.BytesIO(content + more), formats=formats)
        found.load()
        return found

    try:
        ended = decoded(_END)
        if any(decoded(more).tobytes() != ended.tobytes() for more in _MORE):
            return image
    except _FAULTS:
        return image
    ended.info["unended"] = True
    return ended


@cache
def _more_formats() -> tuple[str, ...]:
    """HEIF where something reads it: Pillow itself does not."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def decode_image(image: "Image", source: "ImageSource") -> "Image":
    """What `open_image` opened, as `read_image` returns it; `source` is named in errors."""
    from PIL import Image

    with _refusing(source):
        image = _upright(image, image.getexif().get(0x0112, 1) if image is source else None)
        if image.mode.startswith("I"):
            image = _eight_bits(image)
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground


def _eight_bits(image: "Image") -> "Image":
    """A grey image of 16 bits, scaled: Pillow would cut at 255. Its one transparent value becomes white."""
    from PIL import Image

    values = np.asarray(image)
    grey = (values // 257).clip(0, 255).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _upright(image: "Image", turned: int | None) -> "Image":
    """Turned by its EXIF tag, unless `turned` says how it is.

    Pillow's own function also writes EXIF anew, and fails where other tags are odd.
    """
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()  # a PNG may have its EXIF behind the pixels
    turn = turns.get(orientation(image.info) if turned is None else turned)
    return image if turn is None else image.transpose(turn)


def _content(source: Path | Member) -> bytes:
    if not isinstance(source, Path):
        _check_bytes(source, source.size)
        return source.read_bytes()
    with open_regular(source) as stream:
        size = os.fstat(stream.fileno()).st_size
        _check_bytes(source, size)
        return stream.read(size)


def _check_bytes(source: Path | Member, size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(
            str(source),
            expected=f"a file of at most {MAX_BYTES:,} bytes",
            got=f"{size:,}",
            remedy="Scale it down first.",
        )


class _Silence:
    """No warnings while any thread is inside: Pillow warns of large and odd files, which are refused or read here.

    `warnings.catch_warnings` alone would not do: where two threads overlap, the second to leave brings back
    the first one's filters for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside = forkable_lock(), 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def _refusing(source: "ImageSource") -> Iterator[None]:
    """Whatever Pillow raises inside becomes an ImageError that names `source`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _SILENCE:
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            _name(source),
            expected=KINDS,
            got="something else",
            remedy="Convert it, or leave it out. HEIC needs: pip install pillow-heif.",
        ) from None
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise ImageError(
            _name(source),
            expected=KINDS.replace("a ", "a whole ", 1),
            got=str(error) or type(error).__name__,
            remedy="Repair it, or leave it out.",
        ) from None


def _name(source: "ImageSource") -> str:
    held = isinstance(source, bytes) or is_image(source)
    return f"image of type {type(source).__name__}" if held else str(source)
