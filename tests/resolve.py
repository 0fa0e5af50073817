"""Can everybody install this? `python -m tests.resolve` asks uv for every Python and platform that we promise.

Two things are resolved for each: the pins of `constraints.txt`, and the floors of `pyproject.toml`, which are the
lowest versions that a user may have. Only wheels count: what has to be compiled does not install everywhere. It
needs the package index; without one it fails.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
MACOS = "14.0"  # the oldest that PyPI's torch runs on
EXTRAS = ("dev", "bench")
PINNED_BY_TORCH = ("nvidia-", "cuda-")  # and other ones for each build of it


@dataclass(frozen=True)
class Target:
    """A machine to install on; `constraints` are pins, None: the lowest versions that `pyproject` admits."""

    python: str
    platform: str
    pyproject: Path = PYPROJECT
    constraints: Path | None = CONSTRAINTS
    extras: tuple[str, ...] = EXTRAS

    def __str__(self) -> str:
        return f"{'floors' if self.constraints is None else 'pins'}, Python {self.python}, {self.platform}"


def targets() -> list[Target]:
    """Every promised machine, with the pins and with the floors."""
    return [
        Target(python, platform, constraints=constraints)
        for constraints, python, platform in product((CONSTRAINTS, None), PYTHONS, PLATFORMS)
    ]


def fault(target: Target, options: Sequence[str] = ()) -> str | None:
    """Why `target` cannot be installed, or which of its packages no pin holds; None if all is well.

    `options` go to uv, to have it look for packages elsewhere.
    """
    if target.constraints is None:
        versions = ["--resolution", "lowest-direct"]
    else:
        versions = ["--constraints", str(target.constraints)]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", str(target.pyproject)),
        *("--quiet", "--no-build", "--no-header", "--no-annotate", "--python", sys.executable),
        *("--python-version", target.python, "--python-platform", target.platform),
        *(word for extra in target.extras for word in ("--extra", extra)),
        *versions,
        *options,
    ]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        return child.stderr.strip()
    if target.constraints is None:
        return None
    free = names(child.stdout) - names(target.constraints.read_text(encoding="utf-8"))
    free = {name for name in free if not name.startswith(PINNED_BY_TORCH)}
    return f"not pinned in {target.constraints.name}: {', '.join(sorted(free))}" if free else None


def names(requirements: str) -> set[str]:
    """The packages pinned in the lines of a requirements file, spelled as one."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==", requirements, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def main(wanted: Iterable[Target]) -> int:
    """Print what is wrong with each target; the number of those with a fault."""
    wanted = list(wanted)
    with ThreadPoolExecutor(4) as pool:
        found = [
            (target, why)
            for target, why in zip(wanted, pool.map(fault, wanted), strict=True)
            if why
        ]
    for target, why in found:
        print(f"{target}:\n{why}\n")
    print(f"{len(wanted) - len(found)} of {len(wanted)} targets resolve")
    return len(found)


if __name__ == "__main__":
    sys.exit(bool(main(targets())))
