"""`tests.resolve` finds what cannot be installed: shown on wheels made here, with no package index.

`make check` runs it on the real ones.
"""

import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.resolve import (
    CONSTRAINTS,
    MACOS,
    PYPROJECT,
    PYTHONS,
    Target,
    fault,
    main,
    names,
    targets,
)

LINUX, MAC = "x86_64-manylinux_2_28", "aarch64-apple-darwin"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Wheels of a framework that requires one compiler on Linux, as torch does; an extension for one platform."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    _wheel(folder, "framework", "2.0", requires="compiler==3.7.1; sys_platform == 'linux'")
    _wheel(folder, "framework", "1.0")
    for version in ("3.7.1", "3.9.0"):
        _wheel(folder, "compiler", version)
    _wheel(folder, "extension", "1.0", "cp311-cp311-manylinux_2_28_x86_64")
    return folder


def _wheel(
    folder: Path, name: str, version: str, tags: str = "py3-none-any", requires: str | None = None
) -> None:
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tags}.whl", "w") as archive:
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: {tags}\n")
        archive.writestr(f"{about}/RECORD", "")


def _fault(
    shelf: Path, requires: str, pins: str | None, python: str = "3.12", platform: str = LINUX
) -> str | None:
    pyproject, constraints = shelf.parent / "pyproject.toml", shelf.parent / "pins.txt"
    pyproject.write_text(f'[project]\nname = "ours"\nversion = "1"\ndependencies = [{requires}]\n')
    if pins is not None:
        constraints.write_text(pins)
    target = Target(python, platform, pyproject, None if pins is None else constraints, extras=())
    return fault(target, ["--offline", "--no-index", "--find-links", str(shelf)])


def test_a_pin_against_what_another_package_requires_is_found(shelf: Path) -> None:
    """As triton==3.9.0 was beside a torch that requires triton==3.7.1, on Linux only."""
    requires = '"framework", "compiler>=3.6; sys_platform == \'linux\'"'
    good, bad = (f"framework==2.0\ncompiler=={version}\n" for version in ("3.7.1", "3.9.0"))
    assert _fault(shelf, requires, good) is None
    assert "requirements are unsatisfiable" in (_fault(shelf, requires, bad) or "")
    assert _fault(shelf, requires, bad, platform=MAC) is None


def test_a_package_without_a_wheel_for_a_python_or_a_platform_is_found(shelf: Path) -> None:
    pins = "extension==1.0\n"
    assert _fault(shelf, '"extension"', pins, python="3.11") is None
    for python, platform in (("3.12", LINUX), ("3.11", MAC), ("3.11", "aarch64-manylinux_2_28")):
        why = _fault(shelf, '"extension"', pins, python, platform)
        assert "no wheels" in (why or "")


def test_a_package_that_no_pin_holds_is_named(shelf: Path) -> None:
    assert _fault(shelf, '"framework"', "framework==2.0\n") == "not pinned in pins.txt: compiler"


def test_floors_are_the_lowest_versions(shelf: Path) -> None:
    """framework 1.0 admits the newer compiler, 2.0 does not."""
    assert _fault(shelf, '"framework>=1.0", "compiler>=3.9"', None) is None
    assert "compiler" in (_fault(shelf, '"framework>=2.0", "compiler>=3.9"', None) or "")


def test_what_is_wrong_is_said_and_counted(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "pyproject.toml").write_text('[project]\nname = "ours"\nversion = "1"\n')
    good = Target("3.12", LINUX, shelf / "pyproject.toml", None, extras=())
    bad = Target("3.12", LINUX, shelf / "missing" / "pyproject.toml", None, extras=())
    assert main([good, bad]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"floors, Python 3.12, {LINUX}:\n")
    assert out.endswith("1 of 2 targets resolve\n")


def test_every_promised_machine_is_asked_for() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"
    asked = {
        (target.python, target.platform.split("-")[0], target.constraints) for target in targets()
    }
    assert asked == {
        (python, machine, constraints)
        for python in ("3.11", "3.12", "3.13", "3.14")
        for machine in ("x86_64", "aarch64")
        for constraints in (CONSTRAINTS, None)
    }
    assert {target.platform.split("-")[1] for target in targets()} == {"manylinux_2_28", "apple"}
    assert MACOS == "14.0"


def test_names_are_compared_as_package_indexes_do() -> None:
    assert names("Jinja2==3\nml_dtypes==0.6.0  # so\n    # via x==1\n") == {"jinja2", "ml-dtypes"}
