"""A report as a picture: heat maps of dims by candidates, or each way of searching with its interval."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import MissingPackage
from engine.evaluation.recall import DIRECTIONS
from engine.evaluation.report import ARROWS, Report, source_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def check_plotting() -> None:
    """Raise MissingPackage where matplotlib is absent: before the long work, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise MissingPackage.of("matplotlib", "evaluate", "Plotting") from None


def plot(report: Report, file: Path) -> None:
    """Draw R@1 of both directions to `file`, in the format that its suffix names."""
    check_plotting()
    from matplotlib.figure import Figure

    rows = len(report.rows()) if report.dims else len(report.recalls)
    figure = Figure(figsize=(14, 1.6 + 0.42 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        draw = _heat_map if report.dims else _intervals
        draw(figure, axis, report, direction)
    figure.savefig(file)


def _heat_map(figure: "Figure", axis: "Axes", report: Report, direction: str) -> None:
    rows = report.rows()
    values = np.array(
        [[getattr(recalls, direction)["R@1"] for recalls in report.two_stage(*row)] for row in rows]
    )
    fine = next(found for way, found in report.recalls.items() if way.search == "fine")
    full = getattr(fine, direction)["R@1"]
    drawn = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=max(full, values.max()))
    for (row, column), value in np.ndenumerate(values):
        shade = "black" if value > 0.6 * full else "white"
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=shade, fontsize=9)
    axis.set_xticks(range(values.shape[1]), ["alone", *map(str, report.candidates)])
    axis.set_yticks(range(len(rows)), [source_name(*row) for row in rows])
    for row in range(1, len(rows)):
        if rows[row][0] != rows[row - 1][0]:
            axis.axhline(row - 0.5, color="white", linewidth=3)
    axis.set_xlabel("candidates that the fine vectors rank again")
    axis.set_title(f"{ARROWS[direction]} R@1, percent; all items by fine vectors: {full:.1f}")
    figure.colorbar(drawn, ax=axis)


def _intervals(_: "Figure", axis: "Axes", report: Report, direction: str) -> None:
    found = list(report.recalls.values())
    values = np.array([getattr(recalls, direction)["R@1"] for recalls in found])
    ends = np.array([recalls.intervals[direction]["R@1"] for recalls in found]).T  # [2, ways]
    places = np.arange(len(found))
    # A percentile interval of a skewed figure may leave it just outside.
    reach = np.clip([values - ends[0], ends[1] - values], 0, None)
    axis.errorbar(values, places, xerr=reach, fmt="o", capsize=4)
    axis.set_yticks(places, [way.name for way in report.recalls])
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.4)
    axis.set_xlabel("percent, with 95 % of resamples")
    axis.set_title(f"{ARROWS[direction]} R@1")
