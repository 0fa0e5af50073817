"""What pyproject.toml cannot say: in a wheel the folder `kernels/` is the package `hivlp_kernels`.

Hugging Face's package `kernels`, which `transformers` imports, has the same place in site-packages. A checkout and
an editable install keep the folder's own name.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDER, PACKAGE = "kernels", "hivlp_kernels"
MENTION = re.compile(rf"\b{FOLDER}(?=[./]\w)".encode())  # in a string: a module's name or its file


def renamed(source: bytes, file: str) -> bytes:
    """A module's source with `hivlp_kernels` for `kernels` in its imports and strings.

    Raises ValueError where the name is used in a way that this cannot follow.
    """
    for place in sorted(set(_places(source, file)), reverse=True):
        source = source[:place] + PACKAGE.encode() + source[place + len(FOLDER) :]
    if left := set(_places(source, file)):
        raise ValueError(f"{file}: {len(left)} mentions of {FOLDER!r} are left")
    return source


def _places(source: bytes, file: str) -> Iterator[int]:
    """Where in a module the name of the package stands, as offsets in bytes."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node in ast.walk(ast.parse(source, file)):
        match node:
            case ast.ImportFrom(level=0, module=str(module)) if _is_ours(module):
                yield source.index(FOLDER.encode(), lines[node.lineno - 1] + node.col_offset)
            case ast.Import(names=names):
                for name in names:
                    if _is_ours(name.name):
                        if name.asname is None:
                            _refuse(file, name.lineno, f"`import {name.name}` binds {FOLDER!r}")
                        yield lines[name.lineno - 1] + name.col_offset
            case ast.Constant(value=str(text)):
                if text.rstrip("./") == FOLDER:
                    _refuse(file, node.lineno, f"the string {text!r} may be the package or a word")
                start = lines[node.lineno - 1] + node.col_offset
                end = lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
                yield from (found.start() for found in MENTION.finditer(source, start, end))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == FOLDER


def _refuse(file: str, line: int, why: str) -> None:
    raise ValueError(
        f"{file}:{line}: {why}, which the wheel cannot rename. "
        f"Write `from {FOLDER} import …`, `import … as …`, or a module's name in full."
    )


class BuildRenamed(build_py):
    """Copies the packages into a wheel; an editable install copies nothing."""

    def run(self) -> None:
        for package in (*self.packages, FOLDER):  # what an earlier build left would be in the wheel
            shutil.rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        built, copied = super().build_module(module, module_file, package)
        Path(built).write_bytes(renamed(Path(module_file).read_bytes(), module_file))
        return built, copied


if __name__ == "__main__":
    in_place = "editable_wheel" in sys.argv
    packages = find_packages(include=["engine", "engine.*", "export", "export.*"])
    kernels = find_packages(include=[FOLDER, f"{FOLDER}.*"])
    if not in_place:
        kernels = [PACKAGE + name.removeprefix(FOLDER) for name in kernels]
    setup(
        packages=packages + kernels,
        package_dir={} if in_place else {PACKAGE: FOLDER},
        package_data={"": ["py.typed"]},
        cmdclass={"build_py": BuildRenamed},
    )
