"""Fetch one package file through the machine's own client (npm, apt-get, pip), once.

The clients check what they download against their registry's checksums. A file appears in the
cache folder under its final name only when it is whole.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.build.sources import Package, SourceError

TIMEOUT_S = 900


def fetch(package: Package, folder: Path) -> Path:
    """Path of the package's file in ``folder``, downloaded there if it is not yet.

    Raises SourceError with the client's own last words when the download fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cached = _cached(package, folder)
    if cached:
        return cached
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as name:
        temporary = Path(name)
        {"npm": _npm, "apt": _apt, "pip": _pip}[package.client](package, temporary)
        arrived = sorted(p for p in temporary.iterdir() if p.suffix in {".tgz", ".deb", ".whl"})
        if len(arrived) != 1:
            raise SourceError(
                f"{package.client} left {len(arrived)} files for {package.name}, expected one"
            )
        return arrived[0].replace(folder / arrived[0].name)


def _cached(package: Package, folder: Path) -> Path | None:
    """The pinned version if it is there; for apt else any version, as apt may have offered it."""
    if package.client == "npm":
        patterns = [f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"]
    elif package.client == "pip":
        patterns = [f"{package.name.replace('-', '_')}-{package.version}-*.whl"]
    else:
        version = package.version.replace(":", "%3a")
        patterns = [f"{package.name}_{version}_*.deb", f"{package.name}_*.deb"]
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found[-1]
    return None


def is_pinned(package: Package, file: Path) -> bool:
    """Whether ``file`` is the version asked for (an apt mirror may only have another one)."""
    return package.version.replace(":", "%3a") in file.name


def _npm(package: Package, folder: Path) -> None:
    _run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder)


def _pip(package: Package, folder: Path) -> None:
    wanted = f"{package.name}=={package.version}"
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wanted], folder)


def _apt(package: Package, folder: Path) -> None:
    """The pinned version, after one ``apt-get update`` if need be; else the one apt has."""
    pinned = ["apt-get", "download", f"{package.name}={package.version}"]
    try:
        _run(pinned, folder)
        return
    except SourceError:
        hint = _apt_update()
    try:
        _run(pinned, folder)
    except SourceError:
        try:
            _run(["apt-get", "download", package.name], folder)
        except SourceError as error:
            raise SourceError(f"{error}{hint}") from None


@functools.cache
def _apt_update() -> str:
    """Refresh apt's lists, once a run. Returns what to tell the reader if apt fails even so."""
    if os.geteuid() != 0:
        return " (apt's lists may be empty and only root can refresh them: sudo apt-get update)"
    try:
        _run(["apt-get", "update"], Path.cwd())
    except SourceError as error:
        return f" (and before that: {error})"
    return ""


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a client in ``folder``; a failure becomes a SourceError with its last line."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise SourceError(
            f"there is no {command[0]} on this machine, and this source comes through it"
        ) from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{' '.join(command)}: no answer in {TIMEOUT_S} s") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise SourceError(f"{' '.join(command)}: exit {done.returncode}: {words[-1]}")
