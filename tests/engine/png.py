"""A PNG writer of our own, to know what a file holds without asking Pillow: every colour type and depth."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def scanlines(values: NDArray[np.integer], depth: int) -> bytes:
    """Unfiltered rows of `[H, W]` or `[H, W, channels]`."""
    height = len(values)
    flat = values.reshape(height, -1)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = flat.astype(np.uint8)
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    return np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()


def png(
    values: NDArray[np.integer],
    colour: int,
    depth: int = 8,
    *,
    before: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A whole file of `values`; `before`: chunks between the header and the pixels."""
    height, width = values.shape[:2]
    if interlaced:
        passes = (values[top::down, left::right] for top, left, down, right in ADAM7)
        pixels = b"".join(scanlines(part, depth) for part in passes if part.size)
    else:
        pixels = scanlines(values, depth)
    return b"".join(
        (
            SIGNATURE,
            header(width, height, depth, colour, interlaced),
            before,
            chunk(b"IDAT", zlib.compress(pixels)),
            chunk(b"IEND", b""),
        )
    )
