"""`make demo`, run as it is: it finds the right pictures, and its page shows them in a real browser."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed, and its page."""
    page = tmp_path_factory.mktemp("demo") / "demo.html"
    command = [sys.executable, "-m", "examples.demo", "--html", str(page)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout, page


def test_it_finds_the_right_pictures(demo: tuple[str, Path]) -> None:
    printed, _ = demo
    answers = dict(re.findall(r"^(\S.*)\n  (.*)$", printed, re.MULTILINE))
    pictured = (("noto/1f680.webp", "rocket"), ("a castle", "castle"))
    for query, word in (*pictured, ("a slice of pizza", "pizza"), ("a dog", "dog")):
        assert word in answers[query], printed
    found, total = map(int, re.findall(r"found (\d+) of the (\d+) pictures", printed)[0])
    assert total == 72
    assert found >= 0.95 * total
    assert re.search(r"encode [\d.]+ ms, coarse [\d.]+ ms, rerank [\d.]+ ms", printed)


class Sources(HTMLParser):
    """Everything a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.outside += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if name in ("src", "href", "srcset")
            and not (value or "").startswith("data:image/webp;")
        ]


def test_the_page_needs_nothing_from_outside(demo: tuple[str, Path]) -> None:
    content = demo[1].read_text(encoding="utf-8")
    sources = Sources()
    sources.feed(content)
    assert sources.images == 15 * 6 + 3
    assert sources.outside == []
    assert "url(" not in content
    assert "@import" not in content


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_every_picture(demo: tuple[str, Path], tmp_path: Path) -> None:
    """The page's own DOM after loading, asked for every image's drawn width; and a screenshot that is not blank."""
    page, shot = tmp_path / "probe.html", tmp_path / "page.png"
    probe = (
        "<script>onload = () => document.body.setAttribute('data-drawn', "
        "[...document.images].filter(image => image.naturalWidth >= 64).length)</script>"
    )
    page.write_text(demo[1].read_text(encoding="utf-8") + probe, encoding="utf-8")
    assert CHROMIUM is not None
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1100,1400",
    ]
    for action in ("--dump-dom", f"--screenshot={shot}"):
        child = subprocess.run(
            [CHROMIUM, *options, action, page.as_uri()],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        if action == "--dump-dom":
            assert f'data-drawn="{15 * 6 + 3}"' in child.stdout
    colours = Image.open(shot).convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 1000
