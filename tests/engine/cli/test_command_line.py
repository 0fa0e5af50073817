"""How commands end where the system or the user stops them: one line, an exit code, never a traceback."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

import engine
from engine.__main__ import main
from engine.building import build_index
from engine.cli.ending import Command, run_command
from tests.conftest import PICTURES, ROOT
from tests.engine.cli.running import apart, assert_refused, run, run_json

NAMES = [f"i{number}" for number in range(8)]


def ended(
    capsys: pytest.CaptureFixture[str], error: BaseException, *, early: bool = False
) -> tuple[int, str]:
    """The exit code and the line of a command in which `error` is raised; early: before it is there."""
    app = typer.Typer()

    @app.command(cls=Command)
    def fail() -> None:
        raise error

    def load() -> typer.Typer:
        if early:
            raise error
        return app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["engine"])
        with pytest.raises(SystemExit) as end:
            run_command(load)
    said = capsys.readouterr()
    assert said.out == ""
    assert isinstance(end.value.code, int)
    return end.value.code, said.err


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: a/b: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "error: a: Permission denied\n"),
        (FileExistsError(errno.EEXIST, "File exists", "a", None, "b"), 2, "error: a and b: File exists\n"),
        (OSError("no number"), 2, "error: no number\n"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "error: Too many open files\n"),
        (MemoryError("Unable to allocate 8 GiB"), 1, "error: out of memory. Unable to allocate 8 GiB\n"),
        (RuntimeError("CPU: can't allocate memory"), 1, "error: CPU: can't allocate memory\n"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "error: CUDA out of memory.\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (
            engine.EngineError("a\nb", expected="c", got="\x1b[2J\u202e", remedy="D."),
            2,
            "error: a b: expected c, got \\x1b[2J\\u202e. D.\n",
        ),
    ],
)  # fmt: skip
def test_the_last_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str, early: bool
) -> None:
    assert ended(capsys, error, early=early) == (code, line)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("write", [save_file, torch.save], ids=["safetensors", "torch"])
def test_a_full_disk_under_other_libraries(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, write: Any
) -> None:
    """Which say so in their own ways."""
    disk = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(disk, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(Exception, match=r"No space left|unexpected pos") as full:
            write({"a": torch.zeros(1 << 16)}, tmp_path / "a")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    code, line = ended(capsys, full.value)
    assert code == 2
    assert line.startswith("error: a file could not be read or written: ")
    assert line.endswith("Is the disk full?\n")


def test_a_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="another"):
        ended(capsys, RuntimeError("another"))


# ---------------------------------------------------------------------- the system, really


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vectors") / "eight.npy"
    np.save(file, np.eye(8, dtype=np.float32))
    return file


@pytest.fixture
def index(vectors: Path, tmp_path: Path) -> Path:
    place = tmp_path / "index"
    engine.Retriever.from_embeddings(np.load(vectors), ids=NAMES).save(place)
    return place


def test_places_that_cannot_be(vectors: Path, tmp_path: Path) -> None:
    """Below a file, behind a dangling link, of too long a name, a file where a folder should be."""
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "no" / "where")
    for place in (file / "x", file, tmp_path / "dangling", tmp_path / ("x" * 300), "/proc/x"):
        child = run("index", vectors, "-o", place)
        assert_refused(child, "/proc/x" if place == "/proc/x" else str(tmp_path))
        assert len([line for line in child.stderr.splitlines() if line.startswith("error")]) == 1
    assert file.read_text() == "mine"
    for command in (("info",), ("search", "--image", PICTURES / "none.png")):
        assert_refused(run(command[0], file, *command[1:]), "file")


def test_folders_where_files_should_be(small_index: Path, index: Path, tmp_path: Path) -> None:
    assert_refused(run("search", small_index, "--image", tmp_path), str(tmp_path))
    (index / "manifest.json").unlink()
    (index / "manifest.json").mkdir()
    assert_refused(run("info", index), "manifest.json")


def command(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_device_as_stdout(index: Path) -> None:
    with open("/dev/full", "w") as full:
        child = command("info", index, stdout=full)
        _, said = child.communicate()
    assert (child.returncode, said) == (2, "error: No space left on device\n")


def test_nobody_reads_stdout(index: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    child = command("info", index, stdout=writing)
    os.close(writing)
    _, said = child.communicate()
    assert (child.returncode, said) == (1, "")


def test_closed_streams(index: Path) -> None:
    """Without stdout a command does its work; without stderr its errors are the exit code alone."""
    shell = f"{sys.executable} -m engine info"
    for line, code in ((f"{shell} {index} >&-", 0), (f"{shell} {index}x 2>&-", 2)):
        child = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
        assert (child.returncode, child.stdout, child.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nope", "No such command 'nope'. See python -m engine --help"),
        ("search", "Missing argument 'index'. See python -m engine search --help"),
        ("search i x --bogus", "No such option: --bogus. See python -m engine search --help"),
        ("search i x -k", "Option '-k' requires an argument. See python -m engine search --help"),
        ("index x -o y --coarse-dtype f", "--coarse-dtype"),
        ("index x -o y --save-every 0", "save_every: expected an integer of at least 1, got 0."),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, message: str) -> None:
    child = apart(*arguments.split())
    assert child.returncode == 2
    (line,) = child.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_ctrl_c_while_the_command_is_loaded() -> None:
    code = (
        "import builtins, sys\n"
        "found = builtins.__import__\n"
        "def stopped(name, *rest):\n"
        "    if name.startswith('engine.cli'): raise KeyboardInterrupt\n"
        "    return found(name, *rest)\n"
        "import engine.__main__\n"
        "builtins.__import__ = stopped\n"
        "engine.__main__.main()\n"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "stopped\n")


def test_ctrl_c(tmp_path: Path) -> None:
    """While a command waits for what nobody writes."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    code = (
        "import os, sys, typer\n"
        "from engine.cli.ending import Command, run_command\n"
        "app = typer.Typer()\n"
        "@app.command(cls=Command)\n"
        "def wait():\n"
        f"    os.write(1, b'now'); open({str(pipe)!r}).read()\n"
        "run_command(lambda: app)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.read(3) == b"now"
    child.send_signal(signal.SIGINT)
    assert child.communicate() == (b"", b"stopped\n")
    assert child.returncode == 130


def test_open_files_run_out(index: Path) -> None:
    """In Python too it is a typed error, with the system's number; nothing is lost."""
    code = (
        "import os, resource, sys, engine\n"
        "place, Index, errors = sys.argv[1], engine.Index, engine.EngineError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError: pass\n"
        "try: Index.open(place)\n"
        "except errors as error: print(type(error).__name__)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(index)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout in ("StorageError\n", "IndexFormatError\n")
    assert len(engine.Index.open(index)) == 8


def test_errors_of_the_system_are_typed(tmp_path: Path) -> None:
    """Saved below a file: which file, what the system said, what to do; EngineError and OSError alike."""
    file = tmp_path / "file"
    file.write_text("mine")
    r = engine.Retriever.from_embeddings(np.eye(8, dtype=np.float32))
    with pytest.raises(
        engine.StorageError, match="Choose a path whose folders are folders"
    ) as found:
        r.save(file / "x")
    assert isinstance(found.value, OSError)
    assert found.value.errno == errno.ENOTDIR
    assert str(file) in str(found.value.filename)
    assert isinstance(found.value.__cause__, NotADirectoryError)
    with pytest.raises(engine.StorageError, match="Choose a shorter name"):
        r.save(tmp_path / ("x" * 300))
    np.save(tmp_path / "a.npy", np.eye(8, dtype=np.float32))
    with pytest.raises(engine.StorageError) as found:
        build_index([tmp_path / "a.npy"], file / "x")
    assert isinstance(found.value, OSError)
    assert len(r) == 8
    r.save(tmp_path / "index")
    assert len(engine.Index.open(tmp_path / "index")) == 8


# ---------------------------------------------------------------------- search


def test_names_of_pictures_are_no_words(small_index: Path) -> None:
    for text in ("cat.jpg", str(next((PICTURES / "noto").glob("*.webp")))):
        child = run("search", small_index, "a dog", text)
        assert_refused(child, f"TEXTS: expected words, got a picture, '{text}'")
        assert f"--image {text}." in child.stderr
    assert_refused(run("search", small_index, "https://example.org/cat.jpg"), "got a URL")


def test_others_are_answered_beside_a_bad_picture(small_index: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    good = next((PICTURES / "noto").glob("*.webp"))
    asked = ("search", small_index, "a dog", "--image", broken, "--image", good, "-k", 2)
    child = run(*asked)
    assert child.returncode == 2
    assert [line for line in child.stdout.splitlines() if line[0] != " "] == [
        "a dog",
        str(broken),
        str(good),
    ]
    assert len(child.stdout.splitlines()) == 3 + 2 + 2
    assert child.stderr.count("error: ") == 1
    assert str(broken) in child.stderr
    answers = json.loads(run(*asked, "--json").stdout)["answers"]
    assert [len(answer["hits"]) for answer in answers] == [2, 0, 2]
    assert [str(broken) in answer.get("error", "") for answer in answers] == [False, True, False]


def odd(place: Path, untrained: Path, ids: list[str], metadata: list[Any]) -> Path:
    r = engine.Retriever.from_pretrained(untrained)
    r.add(sorted((PICTURES / "noto").glob("*.webp"))[: len(ids)], ids=ids, metadata=metadata)
    r.save(place)
    return place


@pytest.mark.parametrize(
    ("captions", "shown"),
    [
        (["first", "second"], "  first"),
        ("all of it", "  all of it"),
        (5, "  5"),
        ({"en": "x"}, "  {'en': 'x'}"),
        (None, ""),
        (["\x1b]0;owned\x07 a\nb"], "  \\x1b]0;owned\\x07 a\\nb"),
        (["gâteau"], "  gâteau"),
    ],
)
def test_hits_are_a_line_each(untrained: Path, tmp_path: Path, captions: Any, shown: str) -> None:
    metadata = None if captions is None else [{"captions": captions}]
    place = odd(tmp_path / "index", untrained, ["a\n b"], metadata)  # type: ignore[arg-type]
    lines = run("search", place, "a dog").stdout.splitlines()
    assert lines[0] == "a dog"
    assert lines[1].endswith(f"  a\\n b{shown}")
    assert len(lines) == 2
    answer = run_json("search", place, "a dog")["answers"]
    assert answer[0]["hits"][0]["id"] == "a\n b"


def test_a_stdout_that_holds_few_characters(untrained: Path, tmp_path: Path) -> None:
    place = odd(tmp_path / "index", untrained, ["é.png"], [{"captions": ["gâteau 🎂"]}])
    for option, encoding in (("--json", "ascii"), ("--json", "latin-1"), ("-k1", "latin-1")):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.setattr(sys, "argv", ["engine", "search", str(place), "a cake", option])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
            out.flush()
            written = out.buffer.getvalue().decode(encoding)
        if option == "--json":
            hit = json.loads(written)["answers"][0]["hits"][0]
            assert (hit["id"], hit["metadata"]) == ("é.png", {"captions": ["gâteau 🎂"]})
        else:
            assert written.endswith("é.png  gâteau \\U0001f382\n")
