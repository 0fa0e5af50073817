"""The index directory: `manifest.json` and one `.npy` file an array.

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

Array = NDArray[Any]


def write(directory: Path, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write `arrays` and a manifest of `facts`; on any failure what was there before is still there, whole."""
    old = _published(directory)
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    drafts = [directory / f"{name}-{token}.npy" for name in arrays]
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
        np.save(stream, array, allow_pickle=False)
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
    try:
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise IndexFormatError(
                f"{file}: {entry['bytes']} bytes expected by the manifest, got {size}. "
                "The file is cut or damaged: restore it, or build the index again."
            )
        # Copy-on-write: torch wants writable memory, and nothing written to it may reach the file.
        # An empty array has no bytes to map.
        mode: Any = "c" if math.prod(entry["shape"]) else None
        array: Array = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IndexFormatError(f"{file}: a readable .npy file expected, got {error}.") from None
    found = (list(array.shape), array.dtype.name)
    if found != (entry["shape"], entry["dtype"]):
        raise IndexFormatError(
            f"{file}: {(entry['shape'], entry['dtype'])} expected by the manifest, got {found}. "
            "The file is damaged: restore it, or build the index again."
        )
    return array


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
