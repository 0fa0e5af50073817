"""What the tests of the builder are made of: small drawings, packages and sources."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from examples.build import dataset
from examples.build.render import Look
from examples.build.sources import Picture, Skipped, Source

LOOK = Look(size=32, quality=90)


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
