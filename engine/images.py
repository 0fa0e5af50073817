"""Reading images: from a path, from bytes, or as Pillow holds them already."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from engine.errors import DatasetError, ImageError, MissingPackage

if TYPE_CHECKING:
    from PIL.Image import Image

    from engine.dataset import Member

    ImageSource: TypeAlias = Image | Path | Member | bytes

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 100_000_000  # read from the header, before anything is decoded


def is_image(value: object) -> bool:
    """Whether `value` is a Pillow image; Pillow is not imported to find out."""
    return any(base.__module__.startswith("PIL.") for base in type(value).__mro__)


def read_image(source: "ImageSource") -> "Image":
    """An RGB image, upright by its EXIF tag, transparency laid on white.

    Raises ImageError naming the file where it is not a whole JPEG, PNG or WebP of at most 100 megapixels.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise MissingPackage.of("pillow", "models", "Reading images") from None

    held = isinstance(source, bytes) or is_image(source)
    name = f"image of type {type(source).__name__}" if held else str(source)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb and of broken metadata; our own cap follows.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                image = source
            else:
                content = source if isinstance(source, bytes) else source.read_bytes()
                image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: at most {MAX_PIXELS:,} pixels expected, got {image.width}x{image.height}. "
                    "Scale it down first."
                )
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits: Pillow would cut at 255 instead of scaling
                image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: a JPEG, PNG or WebP image expected, got something else. Convert it, or leave it out."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name}: a whole JPEG, PNG or WebP image expected, got {error}. Mend it, or leave it out."
        ) from None


def find_images(folder: Path) -> list[Path]:
    """Every JPEG, PNG and WebP file below `folder`, sorted by path; DatasetError where there is none."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: a folder of images expected, got {'a file' if folder.exists() else 'nothing'}."
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DatasetError(
            f"{folder}: images ({', '.join(SUFFIXES)}) expected, found none. Give another folder."
        )
    return found
