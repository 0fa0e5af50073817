"""The index directory: `manifest.json`, and one file an array: its values alone, little-endian, row by row.

Files are written under new names, synced, and published together by renaming the manifest over the old one; only
then are the files that the old manifest named removed. Published files are never written to, so they may be mapped.
"""

import json
import math
import os
import uuid
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexFormatError

FORMAT = "hivlp-index"
VERSION = 1
MANIFEST = "manifest.json"
DTYPES = ("float32", "float16", "int64", "uint8")

Array = NDArray[Any]


def write(directory: Path, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write `arrays` and a manifest of `facts`; on any failure what was there before is still there, whole."""
    old = _published(directory)
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    drafts = [directory / f"{name}-{token}.bin" for name in arrays]
    draft = directory / f"{MANIFEST}.{token}"
    try:
        files = {
            name: _write_array(target, array)
            for target, (name, array) in zip(drafts, arrays.items(), strict=True)
        }
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(
                {"format": FORMAT, "version": VERSION, **facts, "files": files}, stream, indent=1
            )
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(directory / MANIFEST)
    except BaseException:
        for file in (*drafts, draft):
            file.unlink(missing_ok=True)
        if made:
            directory.rmdir()
        raise
    _sync_directory(directory)
    for name in old:
        (directory / name).unlink(missing_ok=True)


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The manifest, and every array it names, mapped from its file."""
    manifest = _read_manifest(directory)
    return manifest, {
        name: _map_array(directory, name, entry) for name, entry in manifest["files"].items()
    }


def missing(directory: Path, error: Exception) -> IndexFormatError:
    """What to raise where the manifest lacks an entry or holds one of another form."""
    return IndexFormatError(
        f"{directory / MANIFEST}: a whole manifest expected, got {error!r}. "
        "Restore it, or build the index again."
    )


def verify(directory: Path) -> None:
    """Read every byte; IndexFormatError names the first file whose length, header or checksum differs."""
    for name, entry in _read_manifest(directory)["files"].items():
        _map_array(directory, name, entry)
        digest = _digest(directory / entry["file"])
        if digest != entry["sha256"]:
            raise IndexFormatError(
                f"{directory / entry['file']}: sha256 {entry['sha256']} expected, got {digest}. "
                "The file is damaged: restore it, or build the index again."
            )


def _read_manifest(directory: Path) -> dict[str, Any]:
    file = directory / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IndexFormatError(
            f"{directory}: a directory with a {MANIFEST} expected, found none. "
            "Make an index with `python -m engine index FOLDER -o INDEX`."
        ) from None
    except (OSError, ValueError) as error:
        raise IndexFormatError(
            f"{file}: a JSON object expected, got {error}. Restore it, or build the index again."
        ) from None
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else ()
    if found != (FORMAT, VERSION):
        raise IndexFormatError(
            f"{file}: format {(FORMAT, VERSION)} expected, got {found}. "
            "Open it with the release that wrote it, or build the index again."
        )
    return dict(manifest)


def _published(directory: Path) -> list[str]:
    """The files of the index in `directory`: none where there is no index, an error where something else is."""
    if (directory / MANIFEST).exists():
        return [entry["file"] for entry in _read_manifest(directory)["files"].values()]
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise IndexFormatError(
            f"{directory}: an index, an empty directory or a free name expected, got something else. "
            "Choose another place."
        )
    return []


def _write_array(target: Path, array: Array) -> dict[str, Any]:
    with target.open("wb") as stream:
        np.ascontiguousarray(array).tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())
    return {
        "file": target.name,
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "bytes": target.stat().st_size,
        "sha256": _digest(target),
    }


def _map_array(directory: Path, name: str, entry: Mapping[str, Any]) -> Array:
    file = directory / entry["file"]
    if file.parent != directory:
        raise IndexFormatError(f"{directory}: {name} must lie in it, got {entry['file']!r}.")
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if dtype not in DTYPES or len(shape) > 2 or not all(type(n) is int and n >= 0 for n in shape):
        raise IndexFormatError(
            f"{directory}: {name} of rank 1 or 2 and a dtype of {DTYPES} expected, got {dtype} {shape}."
        )
    try:
        size = file.stat().st_size
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        if not size == entry["bytes"] == expected:
            raise IndexFormatError(
                f"{file}: {expected} bytes expected for {dtype} {shape}, got {size} "
                f"({entry['bytes']} by the manifest). Restore the file, or build the index again."
            )
        if not size:  # no bytes to map
            return np.empty(shape, dtype)
        # Copy-on-write: torch wants writable memory, and nothing written to it may reach the file.
        return np.memmap(file, dtype, mode="c", shape=shape)
    except OSError as error:
        raise IndexFormatError(f"{file}: a readable file expected, got {error}.") from None


def _digest(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
