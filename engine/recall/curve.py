"""`Curve`: how recall and time depend on the number of candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checks import check_count, check_list
from engine.errors import InvalidArgument, MissingPackage
from engine.recall.calibration import losses


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


def check_candidates(candidates: Any, k: int) -> list[int]:
    """The numbers of candidates to try, ascending; those below k are left out."""
    asked = check_list(
        "candidates", candidates, expected="a list of numbers of candidates", ordered=False
    )
    numbers = {check_count("candidates", number) for number in asked}
    kept = sorted(number for number in numbers if number >= k)
    if not kept:
        raise InvalidArgument(
            "candidates",
            expected=f"some number of at least k ({k})",
            got=repr(asked),
            remedy="Add one, or ask for fewer results.",
        )
    return kept


def measured(
    search: Callable[[int | None], object],
    ranks: Tensor,
    k: int,
    items: int,
    kept: Sequence[int],
) -> Curve:
    """The curve of an index of `items` items.

    Args:
        search: finds everything with so many candidates, None = exactly; called twice, the second time timed.
        ranks: `[B, k]`, as `engine.recall.calibration.ranks_of` finds them.
        kept: numbers of candidates, as `check_candidates` has them.
    """
    count = len(ranks)
    rows: list[tuple[int | None, float, float]] = []
    for number in (*kept, None):
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
    return Curve(k, count, items, tuple(rows))
