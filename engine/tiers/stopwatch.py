"""`Stopwatch`: how long each step of the work given to a device takes, where no step waits for the one before."""

import time
from itertools import pairwise

import torch


class Stopwatch:
    """Started when made; `mark` ends a step. On a GPU marks are events in its current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self.mark()

    def mark(self) -> None:
        if self._device.type != "cuda":
            self._times.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def seconds(self) -> list[float]:
        """Of each step; waits until the device has done the last."""
        if self._device.type != "cuda":
            return [end - start for start, end in pairwise(self._times)]
        self._events[-1].synchronize()
        return [1e-3 * start.elapsed_time(end) for start, end in pairwise(self._events)]
