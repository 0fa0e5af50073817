"""docs/licences.md names every direct dependency, by which extra it comes, and which are not open source."""

import re
import tomllib
from collections import defaultdict

from tests.conftest import ROOT


def _asked_for() -> dict[str, set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked: dict[str, set[str]] = defaultdict(set)
    for extra, packages in {
        "always": project["dependencies"],
        **project["optional-dependencies"],
    }.items():
        for package in packages:
            asked[re.split(r"[^\w.-]", package)[0]].add(extra)
    del asked[project["name"]]
    return asked


def test_every_direct_dependency_is_named_with_its_extras() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w, -]+) \| (.+) \|$", page, re.MULTILINE)
    named = {name: set(extras.split(", ")) for name, extras, _ in rows if name != "package"}
    assert named == _asked_for()
    closed = {name for name, _, licence in rows if licence.startswith("proprietary")}
    assert closed == {"tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"}
