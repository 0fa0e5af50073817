"""The report's plots, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu_search import GOOD, at_recall

Row = dict[str, Any]


def draw(folder: Path, search: Row | None, bench: Row | None) -> Iterator[Path]:
    """Writes what there are figures for; yields each file."""
    rows = [row for row in search["rows"] if "p50" in row] if search else []
    if rows:
        yield _recall(folder / "recall.png", rows)
        yield _over(folder / "latency-n.png", rows, "N", {"B": 1})
        yield _over(folder / "latency-b.png", rows, "B", {"N": max(row["N"] for row in rows)})
    if bench:
        found = [b["extra_info"] for b in bench["benchmarks"]]
        yield _stages(folder / "stages.png", [r for r in found if r.get("mode") == "two_stage"])


def _figure(panels: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(
        1, panels, figsize=(6 * panels, 4.5), squeeze=False, layout="constrained"
    )
    for axes in all_axes.flat:  # there are more methods than the usual ten colours
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](range(20)))
    return figure, all_axes


def _save(figure: Any, file: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(file, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return file


def _widest(rows: Sequence[Row]) -> list[Row]:
    """Those of the real vectors with the most dims, else of what there is."""
    kind = "real" if any(row["kind"] == "real" for row in rows) else rows[0]["kind"]
    width = max(row["D"] for row in rows if row["kind"] == kind)
    return [row for row in rows if (row["kind"], row["D"]) == (kind, width)]


def _named(axes: Any, rows: Sequence[Row], extra: str) -> None:
    one = rows[0]
    commits = " and ".join(sorted({row["commit"] for row in rows}))
    place = f"{' and '.join(sorted({row['device'] for row in rows}))}, {commits}"
    axes.set_title(f"{one['kind']} vectors, D = {one['D']}, {extra}; {place}", fontsize=8)
    axes.grid(alpha=0.3)


def _recall(file: Path, rows: Sequence[Row]) -> Path:
    """Queries a second over recall@10, at the largest N; a point for each effort."""
    rows = _widest(rows)
    count = max(row["N"] for row in rows)
    batches = (1, 256)
    figure, all_axes = _figure(len(batches))
    for axes, batch in zip(all_axes[0], batches, strict=True):
        some = [row for row in rows if (row["N"], row["B"]) == (count, batch)]
        for name in dict.fromkeys(row["method"] for row in some):
            own = [row for row in some if row["method"] == name]
            axes.plot([r["recall"] for r in own], [r["qps"] for r in own], marker="o", ms=4, label=name,
                      lw=2.5 if name.startswith("ours") else 1)  # fmt: skip
        axes.axvline(GOOD, color="grey", lw=0.5)
        axes.set(xlabel="recall@10", ylabel="queries a second", yscale="log")
        _named(axes, some, f"N = {count:,}, B = {batch}")
    all_axes[0][0].legend(fontsize=6)
    return _save(figure, file)


def _over(file: Path, rows: Sequence[Row], name: str, fixed: Row) -> Path:
    """Milliseconds a search over N or B, of each method at the least effort that is good enough."""
    rows = [row for row in _widest(rows) if fixed.items() <= row.items()]
    figure, all_axes = _figure(1)
    axes = all_axes[0][0]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        points = []
        for count in sorted({row["N"] for row in own}):
            points += [(r[name], r["p50"]) for r in at_recall([r for r in own if r["N"] == count])]
        places, times = zip(*sorted(points), strict=True)
        axes.plot(
            places,
            times,
            marker="o",
            ms=4,
            label=method,
            lw=2.5 if method.startswith("ours") else 1,
        )
    axes.set(xlabel=name, ylabel="milliseconds a search", xscale="log", yscale="log")
    _named(axes, rows, ", ".join(f"{key} = {value:,}" for key, value in fixed.items()))
    axes.legend(fontsize=6)
    return _save(figure, file)


def _stages(file: Path, rows: Sequence[Row]) -> Path:
    """Where the time of a two-stage search goes, by N and B."""
    figure, all_axes = _figure(1)
    axes = all_axes[0][0]
    names = [f"N = {row['N']:,}\nB = {row['B']}" for row in rows]
    totals = [sum(row["stages"].values()) for row in rows]
    under = [0.0] * len(rows)
    for stage in rows[0]["stages"]:
        shares = [
            100 * row["stages"][stage] / total for row, total in zip(rows, totals, strict=True)
        ]
        axes.bar(names, shares, bottom=under, label=stage)
        under = [low + share for low, share in zip(under, shares, strict=True)]
    for place, total in enumerate(totals):
        axes.text(place, 101, f"{total:.3g} ms", ha="center", fontsize=6)
    axes.set(ylabel="% of a two-stage search", ylim=(0, 108))
    axes.tick_params(axis="x", labelsize=6)
    axes.legend(fontsize=7)
    return _save(figure, file)
