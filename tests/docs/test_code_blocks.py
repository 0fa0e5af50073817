"""Every code block of README and the guides does what it shows; one that cannot run here says why.

A page runs from top to bottom in a folder of its own that holds what its reader has by then: the examples, fifty
pictures, their index, and vectors.
"""

import contextlib
import doctest
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PICTURES, ROOT
from tests.docs.blocks import PAGES, Block, blocks, commands, faults, our_command

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What docs/getting-started.md makes: fifty pictures, `my.index`, and vectors of a thousand items."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "pictures").mkdir()
    for picture in sorted((PICTURES / "noto").glob("1f3*.webp"))[:50]:
        shutil.copy(picture, folder / "pictures")
    shutil.copy(PICTURES / "twemoji" / "1f384.webp", folder / "tree.webp")
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((1000, 64), dtype=np.float32)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", vectors[:500] + 0.5 * chance.standard_normal((500, 64), dtype=np.float32))  # fmt: skip
    (folder / "examples").symlink_to(ROOT / "examples")
    make = f"hivlp-engine index pictures -o my.index --checkpoint {ROOT / 'examples/checkpoint'}"
    with contextlib.chdir(folder):
        _run(make, "")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_does_what_it_shows(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one page share their variables and their folder."""
    place = tmp_path / "reader"
    shutil.copytree(prepared, place, symlinks=True)
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
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
    assert sum(len(blocks(page)) for page in PAGES) > 40
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a GPU -->\n\n```bash\npython -m engine search X --no-such 1\nmake nothing\n```\n"
        "<!-- not run: needs a model -->\n```python\nr.search(x, K=1)\nengine.Retriever(x, fine_tier='disk')\n```\n"
    )
    shell, python = blocks(page)
    assert shell.reason == "needs a GPU"
    assert [fault.split(": ")[1] for fault in faults(shell)] == ["no option --no-such", "no such target"]  # fmt: skip
    assert faults(python) == ["search takes no K"]


def _compare(block: Block, names: dict[str, Any]) -> None:
    parsed = doctest.DocTestParser().get_doctest(block.text, names, str(block), str(block), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    assert parsed.examples
    assert runner.run(parsed, out=said.append, clear_globs=False).failed == 0, "".join(said)
    names.update(parsed.globs)


def _run(line: str, shown: str) -> None:
    """One of our commands in this process, which saves importing torch each time."""
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
    checker = doctest.OutputChecker()
    assert not shown or checker.check_output(shown, out.getvalue(), FLAGS), f"{line}\n{out.getvalue()}"  # fmt: skip


def _main(package: str) -> None:
    if package == "engine":
        from engine.__main__ import main

        main()
    else:
        from importlib import import_module

        from export import cli

        module = import_module(package)
        cli.main(cli.command(getattr(module, package.rpartition(".")[2])))
