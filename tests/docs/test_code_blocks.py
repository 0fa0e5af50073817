"""Every code block of README and the guides does what it shows; one that cannot run here says why.

A page runs from top to bottom in a folder of its own that holds what its reader has by then: README and Getting
started begin with the examples alone, every other page with what Getting started leaves.
"""

import contextlib
import doctest
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import GUIDES, README, START, Block, blocks, commands, faults, our_command

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which Getting started was followed."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(ROOT / "examples")
    _follow(START, folder)
    return folder


def test_getting_started(begun: Path) -> None:
    assert len(list((begun / "pictures").iterdir())) == 47
    assert (begun / "my.index" / "manifest.json").is_file()


def test_readme(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    _follow(README, tmp_path)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide(page: Path, begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "reader", symlinks=True)
    _follow(page, tmp_path / "reader")


def _follow(page: Path, folder: Path) -> None:
    """Run the blocks of a page in order; they share their variables and the folder."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for block in blocks(page):
            if block.reason is not None:
                assert not faults(block), block
            elif block.language == "python":
                exec(compile(block.text, str(block), "exec"), names)
            elif block.language == "pycon":
                _compare(block, names)
            else:
                for line, output in commands(block):
                    _run(line, output)


def test_blocks_are_found_and_their_faults_too(tmp_path: Path) -> None:
    """Without this, a page with a new kind of fence would pass unread."""
    assert sum(len(blocks(page)) for page in (README, START, *GUIDES)) > 40
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a GPU -->\n\n```bash\npython -m engine search X --no-such 1\nmake nothing\n```\n"
        "<!-- not run: needs a model -->\n```python\nr.search(x, K=1)\nengine.Retriever(x, fine_tier='disk')\n```\n"
    )
    shell, python = blocks(page)
    assert shell.reason == "needs a GPU"
    found = [fault.split(": ")[1] for fault in faults(shell)]
    assert found == ["no option --no-such", "no such target"]
    assert faults(python) == ["search takes no K"]


def _compare(block: Block, names: dict[str, Any]) -> None:
    parsed = doctest.DocTestParser().get_doctest(block.text, names, str(block), str(block), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    assert parsed.examples
    assert runner.run(parsed, out=said.append, clear_globs=False).failed == 0, "".join(said)
    names.update(parsed.globs)


def _run(line: str, shown: str) -> None:
    """One of our commands in this process, which saves importing torch each time; `cp` and `mkdir` in a shell."""
    if re.match("(cp|mkdir) ", line):
        subprocess.run(["bash", "-c", line], check=True)
        return
    ours = our_command(line)
    assert ours, f"{line}: only our own commands run here; say why it is not run"
    package, arguments = ours
    out, err = io.StringIO(), io.StringIO()
    given, code = sys.argv, 0
    sys.argv = [package, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            _main(package)
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = given
    assert code == 0, f"{line}\n{err.getvalue()}"
    assert alike(shown, out.getvalue()), f"{line}\n{out.getvalue()}"


def alike(shown: str, said: str) -> bool:
    """Is it what a page shows? "..." stands for anything; scores of four decimals may differ by 0.002."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.|\d\.\d{4}", shown)]
    gaps = [
        ".*" if gap == "..." else r"(\d\.\d{4})" for gap in re.findall(r"\.\.\.|\d\.\d{4}", shown)
    ]
    pattern = "".join(part + gap for part, gap in zip(parts, [*gaps, ""], strict=True))
    found = re.fullmatch(pattern, said, re.DOTALL) if shown else re.match("", said)
    if found is None:
        return False
    scores = map(float, re.findall(r"\d\.\d{4}", shown))
    return [*map(float, found.groups())] == pytest.approx([*scores], abs=2e-3)


def test_outputs_are_compared() -> None:
    shown = "a tree\n   0.5000  x.webp\n..."
    assert alike(shown, "a tree\n   0.5011  x.webp\nmore")
    assert not alike(shown, "a tree\n   0.5031  x.webp\nmore")
    assert not alike(shown, "a tree\n   0.5000  y.webp\nmore")
    assert not alike("47 items\n", "46 items\n")


def _main(package: str) -> None:
    if package == "engine":
        from engine.__main__ import main

        main()
    else:
        from importlib import import_module

        from export import cli

        module = import_module(package)
        cli.main(cli.command(getattr(module, package.rpartition(".")[2])))
