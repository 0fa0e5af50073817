"""What a picture's headers say of it and of the work it asks for, read before Pillow does.

Pillow reads the segments of a JPEG, the chunks of a PNG and the tags of EXIF in Python and keeps them all: a few
megabytes of them take minutes, or gigabytes. So they are counted here, quickly, and refused beyond what pictures
have.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

MAX_SEGMENTS = 10_000  # of a JPEG
MAX_JUNK = 1 << 16  # bytes between a JPEG's segments
MAX_CHUNKS = 100_000  # of a PNG
MAX_TAGS = 1 << 24  # bytes of all values of EXIF, which may lie over each other
# Of a JPEG segment that has a length; the others count as junk.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
_SCAN, _END, _APP1, _APP2 = b"\xda", b"\xd9", b"\xe1", b"\xe2"
_EXIF, _MPF = b"Exif\0\0", b"MPF\0"
_ORIENTATION = 0x0112
_SIZES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), start=1))  # of TIFF's types
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def passes(content: bytes) -> tuple[int, bool]:
    """How often decoding goes over the pixels, and whether a JPEG has the mark of its end.

    ValueError where the headers ask for too much.
    """
    if content.startswith(b"\xff\xd8"):
        return _scans(content)
    if content.startswith(b"\x89PNG"):
        _check_chunks(content)
    return 1, True


def orientation(info: Mapping[Any, Any]) -> int:
    """1 to 8, as EXIF or XMP have it in what Pillow keeps as `Image.info`."""
    exif, raw = info.get("exif"), info.get("Raw profile type exif")
    if exif is None and isinstance(raw, str):  # as ImageMagick writes it
        exif = bytes.fromhex("".join(raw.split("\n")[3:]))
    found = 1
    if isinstance(exif, bytes):
        for tag, kind, _, value, order in _tags(exif):
            if tag == _ORIENTATION and kind in (3, 4):
                found = int(struct.unpack(order + ("H2x" if kind == 3 else "I"), value)[0])
        if found != 1:
            return found
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    match = _XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else found


def _scans(jpeg: bytes) -> tuple[int, bool]:
    """Segments are walked, not searched: they hold anything."""
    scans = segments = junk = 0
    exif, at = b"", 2
    while (marker := _MARKER.search(jpeg, at)) and marker[1] != _END:
        segments += 1
        junk += 0 if scans else marker.start() - at
        scans += marker[1] == _SCAN
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        content = jpeg[marker.end() + 2 : at] if marker[1] in (_APP1, _APP2) else b""
        if content.startswith(_EXIF):
            exif += content[len(_EXIF) if exif else 0 :]  # Pillow joins them
        elif content.startswith(_MPF):
            _check_tags(content[len(_MPF) :])
        if segments > MAX_SEGMENTS or junk > MAX_JUNK or len(exif) > MAX_TAGS:
            raise ValueError(f"more than {MAX_SEGMENTS:,} segments, or too many bytes between them")
    if not scans and len(jpeg) - at > MAX_JUNK:
        raise ValueError("too many bytes between segments, and no scan")
    _check_tags(exif)
    return scans, marker is not None


def _check_chunks(png: bytes) -> None:
    at, chunks = 8, 0
    while at < len(png):
        at += 12 + int.from_bytes(png[at : at + 4], "big")
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise ValueError(f"more than {MAX_CHUNKS:,} chunks")


def _check_tags(tiff: bytes) -> None:
    if sum(size for _, _, size, _, _ in _tags(tiff)) > MAX_TAGS:
        raise ValueError(f"EXIF of more than {MAX_TAGS:,} bytes")


def _tags(tiff: bytes) -> Iterator[tuple[int, int, int, bytes, str]]:
    """Of the first directory: tag, type, bytes of the value, the four that hold it or its place, byte order."""
    tiff = tiff.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return
    (at,) = struct.unpack(f"{order}I", tiff[4:8])
    (count,) = struct.unpack(f"{order}H", tiff[at : at + 2].ljust(2, b"\0"))
    for start in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, values = struct.unpack(f"{order}HHI", tiff[start : start + 8])
        size = min(values * _SIZES.get(kind, 1), len(tiff))
        yield tag, kind, size, tiff[start + 8 : start + 12], order
