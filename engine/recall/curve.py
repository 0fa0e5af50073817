"""`Curve`: how recall and time depend on the number of candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from engine.embeddings import Embeddings
from engine.errors import MissingPackage
from engine.queries.mode import Mode
from engine.recall.calibration import losses, ranks_of
from engine.tiers.snapshot import Snapshot
from engine.tiers.stopwatch import Stopwatch


@dataclass(frozen=True)
class Curve:
    """Recall of the exact k best items, and the time it took, by number of candidates.

    rows: candidates, mean recall, milliseconds of a batch of `queries` queries; "exact" last, candidates None.
    """

    k: int
    queries: int
    items: int
    rows: tuple[tuple[int | None, float, float], ...]

    def __iter__(self) -> Iterator[tuple[int | None, float, float]]:
        return iter(self.rows)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """A table, a line per number of candidates."""
        lines = [
            f"| candidates | recall@{self.k} | ms for {self.queries} queries |",
            "|---|---|---|",
        ]
        for candidates, recall, ms in self.rows:
            lines.append(f"| {candidates or 'exact'} | {recall:.4f} | {ms:.2f} |")
        return "\n".join(lines) + "\n"

    def plot(self, file: str | Path) -> None:
        """Recall over milliseconds as a picture; the format is that of the file's name."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise MissingPackage.of("matplotlib", "evaluate", "Plotting") from None
        figure = Figure(figsize=(6, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        listed = [row for row in self.rows if row[0] is not None]
        axes.plot([ms for _, _, ms in listed], [recall for _, recall, _ in listed], marker="o")
        for candidates, recall, ms in listed:
            axes.annotate(
                str(candidates), (ms, recall), textcoords="offset points", xytext=(4, -11)
            )
        for candidates, recall, ms in self.rows:
            if candidates is None:
                axes.plot(ms, recall, marker="*", linestyle="none", label="exact")
        axes.set(
            xscale="log",
            xlabel=f"milliseconds for {self.queries} queries",
            ylabel=f"recall@{self.k}",
            title=f"{self.items:,} items; candidates beside the points",
        )
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(file, dpi=150)


Find: TypeAlias = Callable[[int, int, Mode, Stopwatch], object]


def measured(
    find: Find,
    snapshot: Snapshot,
    queries: Embeddings,
    k: int,
    numbers: Sequence[int],
    backend: str,
) -> Curve:
    """The curve of a snapshot for `queries`, as its projection makes them.

    Args:
        find: searches for all of them: how many items, how many candidates, the mode, and what takes the time.
            Called twice for each point, the second time timed.
        numbers: of candidates, as `engine.recall.candidates.check_candidates` has them.
    """
    ranks = ranks_of(snapshot, queries, k, backend)
    most = max(1, len(snapshot.coarse))

    def search(candidates: int | None) -> None:
        mode: Mode = "exact" if candidates is None else "two_stage"
        watch = Stopwatch(snapshot.coarse.device)
        find(min(k, most), min(candidates or k, most), mode, watch)
        watch.seconds()  # waits for the device

    rows: list[tuple[int | None, float, float]] = []
    for number in (*numbers, None):
        search(number)
        started = time.perf_counter()
        search(number)
        seconds = time.perf_counter() - started
        recall = (
            1.0
            if number is None
            else 1 - float(losses(ranks, min(number, 1 + int(ranks.max()))).mean())
        )
        rows.append((number, recall, 1e3 * seconds))
    return Curve(k, len(ranks), len(snapshot.index), tuple(rows))
