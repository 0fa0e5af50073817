"""What a busy machine does to a search, ours and FAISS's: threads spinning or asleep, 0 to 2 busy processes beside.

    python -m benchmarks.busy

OpenMP reads its settings when it is loaded: each setting has a process of its own, in which the methods take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu_peers import METHODS
from benchmarks.machine import ROOT, about
from benchmarks.timing import percentiles, take_turns
from benchmarks.vectors import vectors

RESULTS = ROOT / "benchmarks" / "results" / "busy.json"
BESIDE = (0, 1, 2)
POLICIES = {"as it is": None, "PASSIVE": "PASSIVE", "ACTIVE": "ACTIVE"}
EFFORTS = {"ours, 64-d int8": 128, "FAISS flat": None, "FAISS PCA64,SQ8,RFlat": 128}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that use a core each."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def times(count: int, width: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of one query by each method, in turns, under the settings of this process."""
    items, queries = vectors("clusters", count, width, 1)
    built = {method.name: method.build(items) for method in METHODS if method.name in EFFORTS}
    runs = {name: partial(built[name].ask, queries, effort) for name, effort in EFFORTS.items()}
    return {name: percentiles(spent) for name, spent in take_turns(runs, seconds=seconds).items()}


def measured(count: int, width: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each number of busy processes, policy and method."""
    for processes in BESIDE:
        for policy, value in POLICIES.items():
            environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
            if value:
                environment["OMP_WAIT_POLICY"] = value
            sizes = [str(count), str(width), str(seconds)]
            command = [sys.executable, "-m", "benchmarks.busy", "--child", *sizes]
            with busy(processes):
                child = subprocess.run(
                    command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
                )
            for method, figures in json.loads(child.stdout).items():
                yield {"beside": processes, "policy": policy, "method": method, **figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each method and setting")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        count, width, seconds = given.child
        print(json.dumps(times(int(count), int(width), float(seconds))))
        return 0
    rows = list(measured(given.items, given.dim, given.seconds))
    found = {"machine": about(), "N": given.items, "D": given.dim, "rows": rows}
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
