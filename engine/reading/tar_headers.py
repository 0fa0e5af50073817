"""Where the files of an uncompressed tar lie, read from its headers: ustar, GNU's long names, pax.

Tars come from strangers, and what Python's own reader makes of a hostile header differs between releases: a size
below nothing sends it round for ever, a thousand headers that announce a name one after the other exhaust its
stack, a name of terabytes its memory. Here each step goes on by a block at least, and holds a short name at most.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.system.files import Member, open_regular

BLOCK = 512
LONGEST = 1 << 16  # bytes of a long name or of a pax header
# Kinds of member: regular files; links, devices, folders and pipes, which have no content.
_FILES, _EMPTY = b"0\0007", b"123456"
_NAME, _LINK, _PAX, _SPARSE = b"L", b"K", b"xX", b"S"


class TarError(ValueError):
    """A tar that cannot be read from here on."""


def tar_members(archive: Path) -> Iterator[Member]:
    """Its regular files, in their order. TarError where it breaks off; OSError of opening."""
    with open_regular(archive) as stream:
        length = stream.seek(0, 2)
        at = 0
        said: dict[str, bytes] = {}  # of the next member, by headers of their own before it
        while True:
            header = _read(stream, at, BLOCK)
            if header == bytes(BLOCK):
                return
            name, size, kind = _parsed(header)
            at += BLOCK
            if kind in _SPARSE:
                at = _after_sparse_map(stream, header, at)
            if kind in _NAME + _LINK + _PAX:
                if size > LONGEST:
                    raise TarError(f"a name of at most {LONGEST:,} bytes expected, got {size:,}")
                content = _read(stream, at, size)
                if kind in _NAME:
                    said["path"] = content
                elif kind in _PAX:
                    said |= _pax(content)
            else:
                name = _decoded(said["path"]) if "path" in said else name
                size = _decimal(said["size"]) if "size" in said else size
                size = 0 if kind in _EMPTY else size
                said = {}
                if at + size > length:
                    raise TarError(f"{size:,} bytes of {name!r:.80} expected, got {length - at:,}")
                if kind in _FILES and not name.endswith("/"):
                    yield Member(archive, name, at, size)
            at += -(-size // BLOCK) * BLOCK


def _read(stream: BinaryIO, at: int, size: int) -> bytes:
    stream.seek(at)
    content = stream.read(size)
    if len(content) < size:
        raise TarError("neither a file nor the end of the archive")
    return content


def _parsed(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and kind of a member."""
    summed = header[:148] + b" " * 8 + header[156:]
    expected = _size(header[148:156])
    # Some writers add up signed bytes.
    total = sum(summed)
    if expected != total and expected != total - 256 * sum(byte > 127 for byte in summed):
        raise TarError("neither a file nor the end of the archive")
    name = _decoded(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_decoded(header[345:500])}/{name}"
    return name, _size(header[124:136]), header[156:157]


def _size(field: bytes) -> int:
    """A number in octal digits, or in binary behind a set bit."""
    if field[0:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise TarError("a size in octal digits expected, got something else")
    return int(digits or b"0", 8)


def _pax(content: bytes) -> dict[str, bytes]:
    """What a pax header says of "path" and "size": records of a length, a blank, a name, "=" and a value."""
    said, at = {}, 0
    while at < len(content) and content[at]:
        digits, _, rest = content[at : at + 8].partition(b" ")
        length = _decimal(digits)
        if not rest or length <= len(digits) + 1:
            raise TarError("a pax header expected, got something else")
        record = content[at + len(digits) + 1 : at + length - 1]
        name, _, value = record.partition(b"=")
        if name in (b"path", b"size"):
            said[name.decode()] = value
        at += length
    return said


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise TarError("a number expected in a pax header, got something else")
    return int(digits)


def _after_sparse_map(stream: BinaryIO, header: bytes, at: int) -> int:
    more = header[482]
    while more:
        more = _read(stream, at, BLOCK)[504]
        at += BLOCK
    return at


def _decoded(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
