"""500 hostile pictures, made from seeds, and what must become of each: refused, or decoded right.

    python -m tests.engine.hostile_images FOLDER [PLANT]

reads every one of them by `engine.images.read_image` from a file and prints JSON: how many were refused and
decoded, what went wrong, and the most memory that was resident meanwhile, in bytes. PLANT breaks the reader.
"""

import io
import json
import random
import resource
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import images
from engine.errors import ImageError
from tests.engine.png import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, SIGNATURE, chunk, header, png

Pixels = NDArray[Any]
COUNT = 500
ADDRESS_SPACE = 6 << 30  # what torch-less Python with all of Pillow's codecs may map
LOSSY = 6.0  # mean difference per value that JPEG and lossy WebP may make of smooth pictures


@dataclass(frozen=True)
class Case:
    """`pixels`: what is right, RGB uint8, None where nobody can say. `refuse`: must, may or must not be refused."""

    content: bytes
    pixels: Pixels | None
    refuse: str
    tolerance: float = 0.0
    suffix: str = ".png"


def smooth(rng: random.Random, channels: int = 3) -> Pixels:
    """A gradient with a lighter block in it: nothing that lossy codecs would spoil."""
    height, width = rng.randrange(24, 90), rng.randrange(24, 90)
    y, x = np.mgrid[:height, :width]
    slopes = [(rng.random(), rng.random()) for _ in range(channels)]
    planes = [(a * y / height + b * x / width) * 100 + 20 for a, b in slopes]
    pixels = np.stack(planes, axis=-1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] += 60
    return pixels.astype(np.uint8)


def encoded(pixels: Pixels, kind: str, mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = (
        Image.fromarray(pixels)
        if mode is None
        else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    )
    image.save(stream, kind, **options)
    return stream.getvalue()


def on_white(colour: Pixels, alpha: Pixels) -> Pixels:
    """In float64; alpha 0…255 `[H, W]`."""
    share = alpha[..., None].astype(np.float64) / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def grey(values: Pixels) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def whole(rng: random.Random) -> tuple[bytes, Pixels, float, str]:
    """A good picture of any format: content, pixels, tolerance, suffix."""
    pixels = smooth(rng)
    kind = rng.choice(("png", "jpeg", "progressive", "webp", "lossless"))
    if kind == "png":
        return png(pixels, RGB), pixels, 0.0, ".png"
    if kind == "webp":
        return encoded(pixels, "WEBP", quality=95), pixels, LOSSY, ".webp"
    if kind == "lossless":
        return encoded(pixels, "WEBP", lossless=True), pixels, 0.0, ".webp"
    content = encoded(pixels, "JPEG", quality=95, progressive=kind == "progressive")
    return content, pixels, LOSSY, ".jpg"


def bomb_by_png_header(rng: random.Random) -> Case:
    width, height = (rng.choice((20_000, 60_000, 1 << 20, (1 << 31) - 1)) for _ in range(2))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    start = SIGNATURE + header(width, height, 8, rng.choice((GREY, RGB, RGBA)))
    return Case(start + pixels + chunk(b"IEND", b""), None, "must")


def bomb_of_real_pixels(rng: random.Random) -> Case:
    """Of 102 to 169 megapixels: more than our cap, less than Pillow's."""
    side = rng.randrange(10_100, 13_000)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side)
    content = SIGNATURE + header(side, side, 1, GREY) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return Case(content, None, "must")


def bomb_by_jpeg_header(rng: random.Random) -> Case:
    content = bytearray(encoded(smooth(rng), "JPEG", progressive=rng.random() < 0.5))
    frame = next(
        at
        for at in range(len(content))
        if content[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")  # type: ignore[comparison-overlap]
    )
    size = (rng.randrange(10_100, 65_500), rng.randrange(10_100, 65_500))
    content[frame + 5 : frame + 9] = struct.pack(">HH", *size)
    return Case(bytes(content), None, "must", suffix=".jpg")


def bomb_by_webp_header(rng: random.Random) -> Case:
    lossless = rng.random() < 0.5
    content = bytearray(encoded(smooth(rng), "WEBP", lossless=lossless))
    side = rng.randrange(10_100, 16_383)
    if lossless:
        content[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    else:
        content[26:30] = struct.pack("<HH", side, side)
    return Case(bytes(content), None, "must", suffix=".webp")


def truncated(rng: random.Random) -> Case:
    content, pixels, tolerance, suffix = whole(rng)
    cut = rng.choice((rng.randrange(len(content)), rng.randrange(min(64, len(content)))))
    return Case(
        content[: rng.choice((cut, cut, len(content) - 1))], pixels, "may", tolerance, suffix
    )


def damaged(rng: random.Random) -> Case:
    content, _, _, suffix = whole(rng)
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return Case(bytes(changed), None, "may", suffix=suffix)


def polyglot(rng: random.Random) -> Case:
    content, pixels, tolerance, suffix = whole(rng)
    other = rng.choice(
        (b"PK\x03\x04 a zip", b"<html><script>alert(1)</script>", b"%PDF-1.7\n", b"GIF89a")
    )
    if rng.random() < 0.4:
        return Case(other + content, None, "must", suffix=suffix)
    return Case(content + other * rng.randrange(1, 500), pixels, "no", tolerance, suffix)


def cmyk(rng: random.Random) -> Case:
    ink = smooth(rng, 4)
    colour, black = 255 - ink[..., :3].astype(np.int64), 255 - ink[..., 3:].astype(np.int64)
    right = (colour * black // 255).astype(np.uint8)
    return Case(encoded(ink, "JPEG", "CMYK", quality=95), right, "no", LOSSY, ".jpg")


def sixteen_bit(rng: random.Random) -> Case:
    kind = rng.choice((GREY, RGB, RGBA, GREY_ALPHA))
    channels = {GREY: 1, RGB: 3, RGBA: 4, GREY_ALPHA: 2}[kind]
    values = smooth(rng, channels).astype(np.uint32) * 256 + rng.randrange(256)
    content = png(values, kind, 16)
    high = values // 257
    if kind == GREY:
        clear = int(values[0, 0, 0])
        if rng.random() < 0.5:
            content = png(values, kind, 16, before=chunk(b"tRNS", struct.pack(">H", clear)))
            return Case(content, grey(np.where(values == clear, 255, high)[..., 0]), "no", 1.0)
        return Case(content, grey(high[..., 0]), "no", 1.0)
    colour = high[..., :3] if channels > 2 else np.repeat(high[..., :1], 3, axis=2)
    right = (
        on_white(colour, high[..., -1]) if kind in (RGBA, GREY_ALPHA) else colour.astype(np.uint8)
    )
    return Case(content, right, "no", 1.0)


def animated(rng: random.Random) -> Case:
    first = smooth(rng)
    frames = [
        Image.fromarray(np.roll(first, shift, axis=0)) for shift in range(1, rng.randrange(3, 9))
    ]
    kind = rng.choice(("PNG", "WEBP"))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=frames, duration=40, **lossless)  # type: ignore[arg-type]
    return Case(content, first, "no", 0.0, f".{kind.lower()}")


def rotated(rng: random.Random) -> Case:
    """Stored so that the EXIF tag makes it upright: the tag's definition, in NumPy."""
    upright = smooth(rng)
    stored: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }
    orientation = rng.randrange(1, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind = rng.choice(("JPEG", "PNG", "WEBP"))
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    pixels = np.ascontiguousarray(stored[orientation](upright))
    content = encoded(pixels, kind, exif=exif, **options)
    return Case(content, upright, "no", LOSSY if kind == "JPEG" else 0.0, f".{kind.lower()}")


def misnamed(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        kind = rng.choice(("ICO", "PPM", "TGA", "PCX", "JPEG2000"))
        return Case(
            encoded(smooth(rng), kind), None, "must", suffix=rng.choice((".png", ".jpg", ".webp"))
        )
    content, pixels, tolerance, suffix = whole(rng)
    others = [other for other in (".png", ".jpg", ".webp", "") if other != suffix]
    return Case(content, pixels, "no", tolerance, rng.choice(others))


def heavy_extras(rng: random.Random) -> Case:
    """Profiles and texts larger than the picture by far; some of them bombs of their own."""
    pixels = smooth(rng)
    junk = rng.randbytes(rng.randrange(1, 200) * 1000)
    way = rng.randrange(5)
    if way == 0:  # up to 12 MB of ICC profile, in as many APP2 segments as it takes
        return Case(
            encoded(pixels, "JPEG", quality=95, icc_profile=junk * 60), pixels, "no", LOSSY, ".jpg"
        )
    if way == 1:
        return Case(
            encoded(pixels, "WEBP", lossless=True, icc_profile=junk), pixels, "no", 0.0, ".webp"
        )
    bomb = zlib.compress(bytes(200_000_000), 1) if way == 2 else zlib.compress(junk)
    extra = (
        chunk(b"iCCP", b"profile\0\0" + bomb),
        chunk(b"iCCP", b"profile\0\0" + junk),
        chunk(b"eXIf", b"MM\0*" + junk),
    )[way - 2] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10_000_000))) * (way == 4)
    return Case(png(pixels, RGB, before=extra), pixels, "may")


def of_no_size(rng: random.Random) -> Case:
    way = rng.randrange(4)
    if way == 0:
        return Case(b"", None, "must")
    if way == 1:
        width, height = rng.choice(((0, 0), (0, 9), (9, 0)))
        start = SIGNATURE + header(width, height, 8, RGB)
        return Case(start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""), None, "must")
    if way == 2:
        content = bytearray(encoded(smooth(rng), "JPEG"))
        content[content.index(b"\xff\xc0") + 7 :][:2] = b""
        at = content.index(b"\xff\xc0")
        content[at + 5 : at + 9] = bytes(4)
        return Case(bytes(content), None, "must", suffix=".jpg")
    return Case(rng.randbytes(rng.randrange(1, 300)), None, "must")


def palette(rng: random.Random) -> Case:
    depth = rng.choice((1, 2, 4, 8))
    size = 1 << depth
    colours = np.array([[rng.randrange(256) for _ in range(3)] for _ in range(size)])
    alphas = np.array([rng.randrange(256) for _ in range(rng.randrange(1, size + 1))])
    indices = smooth(rng, 1)[..., 0].astype(np.int64) % size
    before = chunk(b"PLTE", colours.astype(np.uint8).tobytes())
    right = colours[indices].astype(np.uint8)
    if rng.random() < 0.7:
        before += chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
        right = on_white(right, np.concatenate([alphas, np.full(size - len(alphas), 255)])[indices])
    interlaced = rng.random() < 0.3
    return Case(
        png(indices, PALETTE, depth, before=before, interlaced=interlaced), right, "no", 1.0
    )


def transparent(rng: random.Random) -> Case:
    kind = rng.choice((GREY_ALPHA, RGBA, RGB, GREY))
    if kind in (GREY_ALPHA, RGBA):
        values = smooth(rng, 2 if kind == GREY_ALPHA else 4)
        colour = grey(values[..., 0]) if kind == GREY_ALPHA else values[..., :3]
        return Case(png(values, kind), on_white(colour, values[..., -1]), "no", 1.0)
    values = smooth(rng, 3 if kind == RGB else 1)
    clear = values[1, 1]
    before = chunk(b"tRNS", b"".join(struct.pack(">H", int(value)) for value in clear))
    alpha = np.where((values == clear).all(axis=-1), 0, 255)
    colour = values if kind == RGB else grey(values[..., 0])
    return Case(png(values, kind, before=before), on_white(colour, alpha), "no", 1.0)


def progressive(rng: random.Random) -> Case:
    """Some of many passes: minutes of work, were the picture large."""
    pixels = smooth(rng)
    content = encoded(pixels, "JPEG", quality=95, progressive=True)
    if rng.random() < 0.5:
        return Case(content, pixels, "no", LOSSY, ".jpg")
    last = content.rindex(b"\xff\xda")
    scan, end = content[last:-2], content[-2:]
    return Case(content[:last] + scan * rng.randrange(200, 2000) + end, None, "must", suffix=".jpg")


def odd_shape(rng: random.Random) -> Case:
    shape = rng.choice(((1, 1), (1, 9000), (9000, 1), (3, 5)))
    pixels = np.arange(shape[0] * shape[1] * 3).reshape(*shape, 3).astype(np.uint8)
    return Case(png(pixels, RGB, interlaced=rng.random() < 0.5), pixels, "no")


MAKERS: dict[Callable[[random.Random], Case], int] = {
    bomb_by_png_header: 30,
    bomb_of_real_pixels: 5,
    bomb_by_jpeg_header: 25,
    bomb_by_webp_header: 25,
    truncated: 115,
    damaged: 70,
    polyglot: 40,
    cmyk: 15,
    sixteen_bit: 25,
    animated: 15,
    rotated: 30,
    misnamed: 20,
    heavy_extras: 20,
    of_no_size: 15,
    palette: 20,
    transparent: 15,
    progressive: 10,
    odd_shape: 5,
}


def cases() -> Iterator[tuple[str, Case]]:
    """All of them, always the same."""
    for make, count in MAKERS.items():
        for seed in range(count):
            yield f"{make.__name__}-{seed}", make(random.Random(f"{make.__name__} {seed}"))


def judge(case: Case, file: Path) -> tuple[str, str]:
    """ "refused" or "decoded", and what is wrong with that, if anything."""
    file.write_bytes(case.content)
    try:
        image = images.read_image(file)
    except ImageError as error:
        named = str(file) in str(error)
        wrong = "" if named else f"an error that does not name the file: {error}"
        return "refused", f"refused: {error}" if case.refuse == "no" else wrong
    if case.refuse == "must":
        return "decoded", f"decoded as {image.size}"
    if image.mode != "RGB":
        return "decoded", f"of mode {image.mode}"
    if case.pixels is None:
        return "decoded", ""
    found = np.asarray(image).astype(np.int64)
    if found.shape != case.pixels.shape:
        return "decoded", f"of shape {found.shape} instead of {case.pixels.shape}"
    difference = np.abs(found - case.pixels)
    off = difference.mean() if case.tolerance > 1 else difference.max()
    return "decoded", f"off by {off}" if off > case.tolerance else ""


def plant(bug: str) -> None:
    """Break the reader: "cap", "scans", "upright" or "white"."""
    if bug == "cap":
        images.MAX_PIXELS = 1 << 62
    elif bug == "scans":
        images.MAX_SCANS = 1 << 62
    elif bug == "upright":
        images._upright = lambda image, _: image  # type: ignore[assignment]
    elif bug == "white":
        new = Image.new
        Image.new = lambda mode, size, color=0: new(mode, size, 0 if color == "white" else color)
    else:
        assert not bug, bug


def main(folder: Path, bug: str = "") -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    outcomes: Counter[str] = Counter()
    wrong = []
    prepared = list(cases()) if not bug else cases()
    plant(bug)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here: making them took more
    for name, case in prepared:
        outcome, fault = judge(case, folder / f"{name}{case.suffix}")
        outcomes[outcome] += 1
        if fault:
            wrong.append(f"{name}: {fault}")
            if bug:
                break
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    json.dump({"outcomes": outcomes, "wrong": wrong, "peak": peak}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
