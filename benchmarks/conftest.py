"""How `pytest benchmarks/` measures: `make bench`; `pytest benchmarks/ --quick` takes under two minutes.

Before anything is timed, the tests of what is timed are run: where one fails, no figure is given. What a report
needs beside pytest-benchmark's own statistics is in each benchmark's `extra_info`: percentiles of the raw rounds
(milliseconds; by CUDA events on a GPU), shapes, dtype, bytes/s and FLOP/s, and their share of what this device did
at best in the same run. Device, versions, threads and commit are in `machine_info`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.machine import ROOT, THREADS, about
from benchmarks.timing import ceilings, milliseconds, percentiles

GATE = (
    "tests/kernels/test_contract_coarse.py", "tests/kernels/test_contract_rerank.py",
    "tests/kernels/test_cpu_coarse.py", "tests/engine/test_retriever.py", "tests/engine/encoders/test_encoder.py",
)  # fmt: skip
QUICK_GATE = ("tests/kernels/test_cpu_coarse.py", "tests/engine/test_retriever.py")
SECONDS, LEAST, MOST = 1.0, 5, 200  # of one benchmark's rounds
QUICK_SECONDS = 0.2

Timed = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="small sizes: under two minutes")
    parser.addoption(
        "--no-gate", action="store_true", help="do not run the tests first: for work on benchmarks"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """The gate: nothing is timed while a test of it fails."""
    config = session.config
    if config.option.collectonly or config.option.no_gate or not session.items:
        return
    files = QUICK_GATE if config.option.quick else GATE
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-k",
        "not triton",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    print(f"first the tests of what is timed: {' '.join(files)}", flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        pytest.exit("a test of what is timed fails: no figures", returncode=1)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    del config
    machine_info.clear()  # pytest-benchmark's own holds the host's name, and no commit
    machine_info.update(about(device()))


@cache
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def best() -> dict[str, float]:
    """What this device does at best, measured once in each run."""
    return ceilings(device())


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def timed(benchmark: Any, quick: bool) -> Timed:
    """`timed(run, nbytes=…, flops=…, **facts)`: times it, and notes what the report needs; returns run's result."""
    torch.set_num_threads(THREADS)

    def time_it(
        run: Callable[[], Any], *, nbytes: float = 0, flops: float = 0, **facts: Any
    ) -> Any:
        for _ in range(2):
            began = time.perf_counter()
            found = run()
            spent = time.perf_counter() - began
        least, seconds = (3, QUICK_SECONDS) if quick else (LEAST, SECONDS)
        rounds = max(least, min(MOST, int(seconds / spent)))
        on_gpu = device().type == "cuda"

        def once() -> None:
            run()
            if on_gpu:
                torch.cuda.synchronize()

        benchmark.pedantic(once, rounds=rounds, iterations=1)
        times = [1e3 * second for second in benchmark.stats.stats.data]
        if on_gpu:
            times = milliseconds(run, device(), limit_s=seconds)
        spent_ms = percentiles(times)
        benchmark.extra_info.update(
            facts | {name: spent_ms[name] for name in ("p50", "p95", "p99")}
        )
        for amount, rate, ceiling in (
            (nbytes, "bytes_s", "copy_bytes_s"),
            (flops, "flops", "product_flops"),
        ):
            if amount:
                reached = 1e3 * amount / spent_ms["p50"]
                benchmark.extra_info |= {
                    rate: reached,
                    f"share_of_{ceiling}": reached / best()[ceiling],
                }
        return found

    return time_it
