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

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Pictures too, but not of a kind that is read.
OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2")
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
    """An RGB image, upright by its EXIF tag, transparency laid on white; the first frame of an animated one.

    Raises ImageError naming the file where it is not a whole JPEG, PNG or WebP of at most 100 megapixels,
    256 MiB and 100 scans.
    """
    return decode_image(open_image(source), source)


def open_image(source: "ImageSource") -> "Image":
    """The image with its header read and nothing decoded yet: its size is known, and within the bounds above."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage.of("pillow", "models", "Reading images") from None

    with _refusing(source):
        if isinstance(source, Image.Image):
            image = source
        else:
            content = source if isinstance(source, bytes) else _content(source)
            scans = passes(content)
            if scans > MAX_SCANS:
                raise ImageError(
                    _name(source),
                    expected=f"a JPEG of at most {MAX_SCANS} scans",
                    got="more",
                    remedy="Save it again.",
                )
            image = Image.open(io.BytesIO(content), formats=FORMATS)
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
        return image


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
            expected="a JPEG, PNG or WebP image",
            got="something else",
            remedy="Convert it, or leave it out.",
        ) from None
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise ImageError(
            _name(source),
            expected="a whole JPEG, PNG or WebP image",
            got=str(error) or type(error).__name__,
            remedy="Repair it, or leave it out.",
        ) from None


def _name(source: "ImageSource") -> str:
    held = isinstance(source, bytes) or is_image(source)
    return f"image of type {type(source).__name__}" if held else str(source)
