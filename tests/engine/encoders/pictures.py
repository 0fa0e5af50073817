"""Pictures to encode."""

from pathlib import Path

from PIL import Image

from tests.conftest import PICTURES


def pictures(count: int = 3) -> list[Path]:
    return sorted((PICTURES / "noto").glob("*.webp"))[:count]


def images(count: int = 3) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in pictures(count)]
