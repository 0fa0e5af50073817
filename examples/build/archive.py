"""Read package files in place: nothing is unpacked to disk, links are left out."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from examples.build.sources import SourceError


def read(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The regular files of a ``.tgz`` or ``.deb`` whose path is wanted, by path, sorted.

    Paths start at the package's root (``package/`` and ``./`` are cut off).
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_tar(archive)), mode="r:") as tar:
            for member in tar:
                path = member.name.removeprefix("./").removeprefix("package/")
                if member.isreg() and wanted(path):
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular file always has one
                    found[path] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{archive} is broken ({error}): delete it and run again") from error
    return dict(sorted(found.items()))


def read_one(archive: Path, path: str) -> bytes:
    """One file of the archive."""
    found = read(archive, lambda name: name == path)
    if path not in found:
        raise SourceError(f"{archive} has no {path}: delete it and run again")
    return found[path]


def _tar(archive: Path) -> bytes:
    """The archive's tar, decompressed to its end, so that its checksum has been compared."""
    if archive.suffix != ".deb":
        return gzip.decompress(archive.read_bytes())
    try:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=False
        )
    except FileNotFoundError:
        raise SourceError("there is no dpkg-deb on this machine to open a .deb with") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise SourceError(f"{archive} is broken ({words}): delete it and run again")
    return done.stdout
