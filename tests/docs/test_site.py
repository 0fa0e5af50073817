"""The site builds with no warning, needs nothing from elsewhere to be read, and its reference is complete."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import engine
import kernels
from tests.conftest import ROOT
from tests.docs.blocks import options

# What a browser would fetch to show a page; a link that a reader may follow is none.
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*?"
    r"\b(?:src|href)\s*=\s*[\"']?((?:https?:)?//[^\"' >]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    child = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return place


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", style.read_text(encoding="utf-8"))


def test_what_is_fetched_is_found() -> None:
    assert FETCHED.search('<script src="https://unpkg.com/x"></script>')
    assert FETCHED.search("<link rel=stylesheet href=//fonts.example/css>")
    assert not FETCHED.search('<a href="https://example.org">there</a>')


def test_search_works_without_a_server(site: Path) -> None:
    assert (site / "search" / "search_index.js").is_file()
    page = (site / "guides" / "trust.html").read_text(encoding="utf-8")
    assert "../assets/iframe-worker.js" in page


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    for package in (engine, kernels):
        page = (site / "reference" / f"{package.__name__}.html").read_text(encoding="utf-8")
        for name in package.__all__:
            assert re.search(rf'id="(?:engine|kernels)\.(?:[\w.]+\.)?{name}"', page), name


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = unescape((site / "reference" / "commands.html").read_text(encoding="utf-8"))
    from typer.main import get_command

    from engine.__main__ import _app

    named = [("engine", [name]) for name in get_command(_app()).commands]  # type: ignore[attr-defined]
    for package, arguments in [*named, ("export.to_onnx", []), ("export.to_trt", [])]:
        title = " ".join(["python -m", package, *arguments])
        (section,) = re.findall(
            rf"<h2[^>]*>{re.escape(title)}<.*?(?=<h2|</article>)", page, re.DOTALL
        )
        for option in options(package, arguments) - {"--help"}:
            assert option in section, f"{title} {option}"
