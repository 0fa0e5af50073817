"""One progress bar for everything that takes long: on stderr, so that stdout stays data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.system.terminal import visible


@contextmanager
def progress(doing: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show `doing` with a bar, the count a second and the time that remains; yields a function to call with each
    count done.

    done: how many of `total` were done before; they do not count in the rate.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started, now = time.perf_counter(), 0

    def advance(count: int) -> None:
        nonlocal now
        now += count
        elapsed = time.perf_counter() - started
        bars.update(bar, advance=count, rate=f"{now / max(elapsed, 1e-9):,.0f}/s")

    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(visible(doing), total=total, completed=done, rate="")
        yield advance
