"""Hostile files among sources: each is refused or listed, quickly, and what is good is indexed."""

import io
import json
import os
import socket
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps
from pyarrow import parquet

import engine
from engine import images
from engine.building import build_index
from engine.dataset import read_dataset
from engine.evaluation.vector_files import read_vectors
from engine.images import read_image
from engine.reading.tar_headers import BLOCK, TarError, tar_members
from engine.system.files import open_regular
from tests.conftest import PICTURES
from tests.engine.building.skipped import skipped_of
from tests.engine.png import RGB, chunk, png

PICTURE = next((PICTURES / "noto").glob("*.webp")).read_bytes()


@pytest.fixture(scope="module")
def encoder(untrained: Path) -> engine.Encoder:
    return engine.open_encoder(untrained)


def bind(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(place.parent)  # the path of a socket is short
        try:
            bound.bind(place.name)
        finally:
            os.chdir(here)


TRAPS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a device": lambda place: place.symlink_to("/dev/zero"),
    "a socket": bind,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_only_regular_files_are_opened(trap: str, tmp_path: Path) -> None:
    TRAPS[trap](tmp_path / "x.jpg")
    with pytest.raises(OSError, match=f"{trap}, not a regular file"):
        open_regular(tmp_path / "x.jpg")
    with pytest.raises(engine.ImageError, match=rf"x\.jpg: .*got {trap}"):
        read_image(tmp_path / "x.jpg")


def test_a_folder_of_traps(encoder: engine.Encoder, tmp_path: Path) -> None:
    (tmp_path / "good.webp").write_bytes(PICTURE)
    for number, trap in enumerate(TRAPS.values()):
        trap(tmp_path / f"{number}.jpg")
    (tmp_path / "4.jpg").touch()
    os.truncate(tmp_path / "4.jpg", 1 << 40)
    (tmp_path / "loop").symlink_to(tmp_path)
    report = build_index([tmp_path], tmp_path / "index", encoder)
    assert report.indexed == 1
    listed = [line["id"] for line in skipped_of(report)]
    assert listed == [*(f"{n}.jpg" for n in (0, 1, 2, 4)), "loop"]


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.csv", "x.tsv", "x.parquet", "x.tar", "x.npy", "x.safetensors", "x.jpg"]
)
def test_a_pipe_as_a_source(name: str, encoder: engine.Encoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(engine.DatasetError, match="a named pipe, not a regular file"):
        build_index([tmp_path / name], tmp_path / "index", encoder)
    if name not in ("x.npy", "x.safetensors", "x.jpg"):
        with pytest.raises(engine.DatasetError):
            read_dataset(tmp_path / name)


# ---------------------------------------------------------------- tars


def header(name: bytes, size: int | bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar  \0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def binary(size: int) -> bytes:
    return (size % (1 << 96)).to_bytes(12, "big")


GOOD = header(b"good.webp", len(PICTURE)) + padded(PICTURE)
LONG_NAME = header(b"././@LongLink", 10, b"L") + padded(b"abcdefghi\0")
PAX = header(b"p", 20, b"x") + padded(b"20 comment=aaaaaaaa\n")
BREAKS_OFF = {
    "the same header again": header(b"b.jpg", binary(-512)),
    "a header further back": header(b"b.jpg", binary(-1024)),
    "8 TB": header(b"b.jpg", b"\x80" + (8 << 40).to_bytes(11, "big")),
    "a name of 8 GB": header(b"n", (8 << 30) - 1, b"L"),
    "a pax header of 8 GB": header(b"n", (8 << 30) - 1, b"x"),
    "a pax size that lies": header(b"p", 19, b"x") + padded(b"19 size=9999999999\n") + GOOD,
    "a pax size of words": header(b"p", 13, b"x") + padded(b"13 size=many\n") + GOOD,
    "a pax record of no length": header(b"p", 9, b"x") + padded(b"0 path=a\n") + GOOD,
    "a wrong checksum": GOOD[:140] + b"x" + GOOD[141:],
    "a size that is no number": header(b"b.jpg", b"many bytes\0\0"),
}


@pytest.mark.parametrize("fault", BREAKS_OFF)
def test_a_tar_that_breaks_off(fault: str, encoder: engine.Encoder, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + BREAKS_OFF[fault] + bytes(2 * BLOCK))
    report = build_index([tmp_path / "a.tar"], tmp_path / "index", encoder)
    assert report.indexed == 1
    assert "expected a whole, uncompressed tar, got" in skipped_of(report)[-1]["why"]
    with pytest.raises(engine.DatasetError, match=r"a\.tar"):
        read_dataset(tmp_path / "a.tar")


@pytest.mark.parametrize("before", [LONG_NAME, PAX], ids=["long names", "pax"])
def test_headers_before_headers(before: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(3000 * before + GOOD + bytes(BLOCK))
    (member,) = tar_members(tmp_path / "a.tar")
    assert member.name == ("abcdefghi" if before is LONG_NAME else "good.webp")
    assert (member.offset, member.size) == (3001 * BLOCK + 2999 * BLOCK + BLOCK, len(PICTURE))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(form: int, tmp_path: Path) -> None:
    """As Python's own reader finds them: long names, other letters, links, folders, a file of no length."""
    names = ["a.jpg", "d" * 90 + "/" + "e" * 90 + ".jpg", "empty.txt", "last.jpg"]
    if form != tarfile.USTAR_FORMAT:
        names[2:2] = ["f" * 150 + "/" + "g" * 120 + ".jpg", "h/äöü/日本.jpg"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form, encoding="utf-8") as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 0 if name == "empty.txt" else 700 * (number + 1)
            (tmp_path / "content").write_bytes(bytes([number]) * info.size)
            with (tmp_path / "content").open("rb") as content:
                archive.addfile(info, content)
            for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
                other = tarfile.TarInfo(f"x{number}{kind.decode()}")
                other.type, other.linkname = kind, "a.jpg"
                archive.addfile(other)
    with tarfile.open(tmp_path / "a.tar", "r:") as archive:
        own = [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
    assert [(m.name, m.offset, m.size) for m in tar_members(tmp_path / "a.tar")] == own
    assert [name for name, *_ in own] == names


def test_random_bytes_in_headers_end(tmp_path: Path) -> None:
    """Whatever stands in a header, reading ends, and what comes out lies inside of the file."""
    chance = np.random.default_rng(0)
    file = tmp_path / "a.tar"
    whole = np.frombuffer(LONG_NAME + PAX + GOOD + bytes(BLOCK), np.uint8)
    for _ in range(300):
        content = whole.copy()
        places = chance.integers(0, 5 * BLOCK, 3)
        content[places] = chance.integers(0, 256, 3)
        for start in range(0, 5 * BLOCK, 2 * BLOCK):  # with checksums that are right
            block = content[start : start + BLOCK]
            block[148:156] = 32
            block[148:156] = np.frombuffer(b"%06o\0 " % int(block.sum(dtype=int)), np.uint8)
        file.write_bytes(content.tobytes())
        try:
            for m in tar_members(file):
                assert 0 <= m.offset <= m.offset + m.size <= len(content)
        except TarError:
            pass


def test_long_texts_in_a_tar(tmp_path: Path) -> None:
    text = b"x" * ((1 << 20) + 1)
    content = GOOD + header(b"good.txt", len(text)) + padded(text) + bytes(BLOCK)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(engine.DatasetError, match="at most 1,048,576 are read"):
        read_dataset(tmp_path / "a.tar")


# ---------------------------------------------------------------- JPEG


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, "JPEG", **options)
    return stream.getvalue()


def stuffed(content: bytes, junk: bytes) -> bytes:
    """`junk` behind the first marker."""
    return content[:2] + junk + content[2:]


@pytest.mark.parametrize(
    "junk",
    [
        b"x" * 25_000_000,
        b"\xff" * 25_000_000,
        b"\xff\xd8" * 12_000_000,
        b"\xff\x01" * 12_000_000,
        b"\xff\x00" * 12_000_000,
        b"\xff\xd0" * 12_000_000,
        b"\xff\xfe\x00\x02" * 6_000_000,
        b"\xff\xe1\x00\x02" * 6_000_000,
        b"\xff\xdb\x00\x02" * 6_000_000,
    ],
    ids=["junk", "fill", "starts", "markers", "zeros", "restarts", "comments", "exif", "tables"],
)
def test_jpegs_that_python_would_read_byte_by_byte(junk: bytes) -> None:
    """16 to 35 seconds each by Pillow."""
    content = stuffed(jpeg(), junk)
    started = time.process_time()
    with pytest.raises(
        engine.ImageError,
        match=r"expected a whole JPEG.*, got .*segments, or too many bytes",
    ):
        read_image(content)
    assert time.process_time() - started < 5


def test_jpegs_with_a_little_between_segments() -> None:
    for junk in (b"\xff" * 1000, b"\xff\xfe\x00\x02" * 1000, b"\xff\x00" * 1000):
        assert read_image(stuffed(jpeg(), junk)).size == (64, 64)


def test_scans_of_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(progressive=True)
    scans = content.count(b"\xff\xda")
    monkeypatch.setattr(images, "MAX_SCANNED", 64 * 64 * scans - 1)
    with pytest.raises(
        engine.ImageError,
        match=rf"expected a JPEG of at most .* pixels times scans, got 64x64 in {scans}",
    ):
        read_image(content)
    monkeypatch.setattr(images, "MAX_SCANNED", 64 * 64 * scans)
    assert read_image(content).size == (64, 64)


def tiff(*entries: bytes, filler: int = 0) -> bytes:
    """EXIF of these entries, and so many bytes that their values may lie in."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(filler)


def exif_segments(content: bytes) -> bytes:
    """As many APP1 segments as it takes."""
    parts = [content[start : start + 65_000] for start in range(0, len(content), 65_000)]
    return b"".join(
        b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts
    )


# 5,000 tags, each of which claims the 4 MB behind all of them: 20 GB where each value is kept.
BOMB = tiff(
    *(struct.pack("<HHII", tag, 7, 4_000_000, 60_010) for tag in range(1000, 6000)),
    filler=4_000_000,
)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_exif_whose_values_lie_over_each_other(kind: str) -> None:
    started = time.process_time()
    if kind == "jpeg":
        with pytest.raises(
            engine.ImageError,
            match=r"expected a whole JPEG.*, got EXIF of more than 16,777,216 bytes",
        ):
            read_image(stuffed(jpeg(), exif_segments(BOMB)))
    elif kind == "png":
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        assert read_image(png(pixels, RGB, before=chunk(b"eXIf", BOMB))).size == (4, 4)
    else:
        stream = io.BytesIO()
        Image.new("RGB", (4, 4)).save(stream, "WEBP", exif=BOMB)
        assert read_image(stream.getvalue()).size == (4, 4)
    assert time.process_time() - started < 5


def test_a_png_of_a_million_chunks() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    started = time.process_time()
    with pytest.raises(
        engine.ImageError, match=r"expected a whole JPEG.*, got more than 100,000 chunks"
    ):
        read_image(png(pixels, RGB, before=chunk(b"abCd", b"") * 1_000_000))
    assert time.process_time() - started < 5
    assert read_image(png(pixels, RGB, before=chunk(b"abCd", b"") * 1000)).size == (4, 4)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "XMP", "in memory"])
def test_turned_as_pillow_turns_it(turn: int, kind: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    picture, exif, stream = Image.fromarray(values), Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    said: dict[str, object] = {"exif": exif}
    if kind == "XMP":
        said = {"xmp": f'<x tiff:Orientation="{turn}"/>'.encode()}
    picture.save(stream, "JPEG" if kind == "XMP" else kind if kind.isupper() else "PNG", **said)
    content = stream.getvalue()
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert expected is not None
    found = read_image(Image.open(io.BytesIO(content)) if kind == "in memory" else content)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))


def odd_exif(turn: int, tag: int, kind: int, count: int, value: bytes) -> bytes:
    entries = [struct.pack("<HHIHH", 0x112, 3, 1, turn, 0)]
    entries.append(struct.pack("<HHI", tag, kind, count) + value)
    return stuffed(jpeg(), exif_segments(tiff(*sorted(entries), filler=60)))


@pytest.mark.parametrize(
    "odd",
    [
        (0x11A, 2, 3, b"72\0\0"),
        (0x11A, 5, 2, struct.pack("<I", 38)),
        (0x128, 2, 2, b"2\0\0\0"),
        (0x11A, 10, 1, struct.pack("<I", 38)),
    ],
)
def test_odd_tags_beside_the_orientation(odd: tuple[int, int, int, bytes]) -> None:
    upright, content = np.asarray(read_image(jpeg())), odd_exif(6, *odd)
    np.testing.assert_array_equal(np.asarray(read_image(content)), np.rot90(upright, -1))


# ---------------------------------------------------------------- vectors and JSON


def npy(file: Path, head: str) -> Path:
    text = head.encode().ljust(118)
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    return file


@pytest.mark.parametrize(
    "head",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ('a', 4)}",
        "(" * 9000,
        "-" * 9000 + "1",
        "[" * 190 + "]" * 190,
    ],
)
def test_hostile_headers_of_npy(head: str, tmp_path: Path) -> None:
    npy(tmp_path / "image.npy", head)
    with pytest.raises(engine.DatasetError, match=r"expected an array of floats in .npy, got "):
        build_index([tmp_path / "image.npy"], tmp_path / "index")
    with pytest.raises(engine.DatasetError, match=r"expected an array of floats in .npy, got "):
        read_vectors(tmp_path)


def test_values_of_parquet_that_python_cannot_hold(encoder: engine.Encoder, tmp_path: Path) -> None:
    """They become text, or are left out; the rows are indexed, those after them, too."""
    zoned = pa.timestamp("us", tz="Mars/Phobos")
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xffb")]
    )
    table = pa.table(
        {
            "image": pa.array([PICTURE] * 2),
            "far": pa.array([2**62, 0], pa.timestamp("us")),
            "fine": pa.array([1_700_000_000_123_456_789, 2000], pa.timestamp("ns")),
            "zoned": pa.array([1, 2], zoned),
            "lasting": pa.array([1, 2000], pa.duration("ns")),
            "said": broken,
            "long": pa.array(["x" * 100_000, "y"]),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    report = build_index([tmp_path / "a.parquet"], tmp_path / "index", encoder)
    assert (report.indexed, report.skipped) == (2, 0)
    first, second = (report.index.metadata_at(row) for row in range(2))
    assert first is not None
    assert second is not None
    assert first["fine"] == "2023-11-14T22:13:20.123456789"
    assert (first["said"], second["said"]) == ("\ufffd", "b")
    assert second["far"] == "1970-01-01T00:00:00"
    assert (first["long"], second["long"]) == ("x" * 65_536, "y")


def nested() -> Iterator[str]:
    for depth in (900, 4000, 100_000):
        yield "[" * depth
        yield "[" * depth + "]" * depth
        yield '{"a":' * depth + "1" + "}" * depth


def test_nested_json(encoder: engine.Encoder, tmp_path: Path) -> None:
    (tmp_path / "good.webp").write_bytes(PICTURE)
    lines = [*nested(), '{"image": "good.webp", "caption": "x"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    report = build_index([tmp_path], tmp_path / "index", encoder)
    assert report.indexed == 1
    assert report.skipped == len(lines) - 1
    skipped: list[str] = []
    assert len(read_dataset(tmp_path, skipped=skipped)) == 1
    assert json.dumps(skipped)


@pytest.mark.parametrize(
    "place", ["index/sources.bin", "index.skipped.jsonl", "index.build.json.draft"]
)
def test_nothing_is_written_through_a_link_in_or_beside_an_index(
    place: str, encoder: engine.Encoder, tmp_path: Path
) -> None:
    """A stranger's index may have links where we write: the file that they lead to must stay as it is."""
    ours, pictures, index = tmp_path / "ours", tmp_path / "pictures", tmp_path / "index"
    ours.write_text("kept")
    pictures.mkdir()
    Image.new("RGB", (8, 8), "red").save(pictures / "a.png")
    build_index([pictures], index, encoder)
    link = tmp_path / place
    link.unlink(missing_ok=True)
    link.symlink_to(ours)
    Image.new("RGB", (8, 8), "blue").save(pictures / "b.png")
    (pictures / "c.png").write_bytes(b"none")
    with suppress(engine.EngineError):  # or it does without
        build_index([pictures], index, encoder)
    assert ours.read_text() == "kept"
