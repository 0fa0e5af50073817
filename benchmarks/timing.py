"""How everything here is timed: warmed up, in turns, by events on CUDA, summed up as percentiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["PAUSE", "ceilings", "milliseconds", "percentiles", "replayed", "take_turns"]

Run = Callable[[], Any]
PAUSE = 0.03  # seconds: threads of a BLAS go on spinning, and would burden whoever comes next
ROUNDS, ROUNDS_S = 50, 0.25  # rounds of one timing: at most so many, at most so long (but 3)


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, least and number, in the unit of the times."""
    p50, p95, p99 = (float(np.percentile(times, p)) for p in (50, 95, 99))
    return {"p50": p50, "p95": p95, "p99": p99, "min": min(times), "runs": len(times)}


def take_turns(
    runs: Mapping[str, Run],
    *,
    seconds: float,
    least: int = 3,
    most: int = 200,
    costly: float = 4.0,
    pause: float = PAUSE,
) -> dict[str, list[float]]:
    """Milliseconds of each call, on the CPU. Runs take turns, so that a busy machine is busy for all of them.

    After a pause a run is called for as long as the pause was, and then for as long again with every call timed, at
    least once each: its first calls find threads asleep and caches full of another's data, which is the pause's
    doing. (A search of 3 ms goes on getting quicker for some ten calls, by a fifth, one of 8 ms does not: a single
    call would warm them unequally.) What takes longer than `costly` seconds is called once a turn, and once in all
    where the time is over.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    first = {name: _spent(run) for name, run in runs.items()}  # warms up; says what is costly
    stop = time.perf_counter() + seconds * len(runs)
    for turn in range(most):
        for name, run in runs.items():
            late = time.perf_counter() > stop
            if late and (turn >= least or (times[name] and first[name] > costly)):
                continue
            time.sleep(pause)
            if first[name] < costly:
                _repeated(run, pause)
            times[name] += _repeated(run, pause if first[name] < costly else 0)
        if time.perf_counter() > stop and turn + 1 >= least:
            break
    return times


def _repeated(run: Run, seconds: float) -> list[float]:
    """Milliseconds of each call, begun within so many seconds; the first always is."""
    stop, times = time.perf_counter() + seconds, [1e3 * _spent(run)]
    while time.perf_counter() < stop:
        times.append(1e3 * _spent(run))
    return times


def _spent(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def replayed(run: Run) -> Run:
    """It as a CUDA graph, the best setting for few queries: the host launches once. On a CPU: itself."""
    found = run()
    if not torch.cuda.is_available():
        return run
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    def again() -> Any:
        graph.replay()
        return found

    return again


def milliseconds(run: Run, device: torch.device, limit_s: float) -> list[float]:
    """Milliseconds of single calls, warmed up; one call only where one passes limit_s. CUDA: by events."""
    for _ in range(2):
        begun = time.perf_counter()
        run()
        _sync(device)
        spent = time.perf_counter() - begun
    if spent > limit_s:
        return [spent * 1e3]
    rounds = max(3, min(ROUNDS, int(ROUNDS_S / max(spent, 1e-6))))
    if device.type != "cuda":
        return [1e3 * _spent(run) for _ in range(rounds)]
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(rounds)
    ]
    for start, stop in pairs:
        start.record()
        run()
        stop.record()
    _sync(device)
    return [start.elapsed_time(stop) for start, stop in pairs]


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceilings(device: torch.device, *, tiny: bool = False) -> dict[str, float]:
    """What this device does at best: bytes/s of a copy (read + written), FLOP/s of a product.

    The product is of float16 on CUDA, of bfloat16 on a CPU.
    """
    gpu = device.type == "cuda"
    size = 1 << (16 if tiny else 30 if gpu else 28)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = statistics.median(milliseconds(lambda: target.copy_(source), device, 1.0))
    edge = 64 if tiny else 8192 if gpu else 2048
    dtype = torch.float16 if gpu else torch.bfloat16
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    product = statistics.median(milliseconds(lambda: left @ right, device, 1.0))
    return {"copy_bytes_s": 2e3 * size / copy, "product_flops": 2e3 * edge**3 / product}
