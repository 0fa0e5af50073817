"""Fetch real captioned pictures, draw them, and write them as a folder with captions and splits.

A source that fails is named with its reason and the others go on (exit code 1 at the end); a re-run
skips what is there.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from examples.build import clipart, dataset, emoji, stamps, subset, weights
from examples.build.dataset import Built
from examples.build.fetch import fetch, is_pinned
from examples.build.render import Look
from examples.build.sources import Source, SourceError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SOURCES: tuple[Source, ...] = (*emoji.SOURCES, clipart.SOURCE, stamps.SOURCE)
LOOK = Look(size=224, quality=85)
ROOT = Path(__file__).resolve().parents[2]  # of the repository
Notes = dict[str, str]  # by source: why it failed, or what the reader should know


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is asked for; 0: all of it is there; 1: a source failed, the others are there."""
    from rich.console import Console

    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)
    missing = [name for name in ("PIL", "resvg_py") if importlib.util.find_spec(name) is None]
    if missing:
        line = f"{' and '.join(missing)} not installed: pip install -e '.[pictures]'"
        console.print(line, style="red", markup=False)
        return 2
    if asked.examples:
        return _examples(asked.examples, asked.sources, console)
    names = asked.only or [*(source.name for source in SOURCES), weights.NAME]
    notes: Notes = {}
    built, failed = _build_all(names, asked.out, asked.sources, notes, console)
    _print_sources(names, built, notes)
    # pictures of earlier runs belong to the folder too, whatever --only says
    everything = {s.name: b for s in SOURCES if (b := dataset.finished(s, LOOK, asked.out))}
    if everything:
        _print_splits(dataset.assemble(everything, asked.out), asked.out)
    for name in failed:
        console.print(f"{name} {notes[name]}", style="red", markup=False, soft_wrap=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    names = [*(source.name for source in SOURCES), weights.NAME]
    parser = argparse.ArgumentParser(prog="python -m examples.build", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/pictures", help="(build/pictures)"
    )
    parser.add_argument(
        "--sources",
        type=Path,
        default=ROOT / "build/sources",
        help="where downloads are kept (build/sources)",
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="instead, write the small subset that this repository holds to DIR, from scratch",
    )
    return parser


def _examples(out: Path, cache: Path, console: Console) -> int:
    with _progress(console) as progress:
        task = progress.add_task("examples", total=None)
        try:
            built = subset.build(out, cache, lambda: progress.advance(task))
        except (SourceError, OSError) as error:
            console.print(f"FAILED: {error}", style="red", markup=False, soft_wrap=True)
            return 1
    _print_sources(list(built), built, {})
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    console.print(f"{size / 1e6:.2f} MB in {out}")
    return 0


def _build_all(
    names: Sequence[str], out: Path, cache: Path, notes: Notes, console: Console
) -> tuple[dict[str, Built], list[str]]:
    """What each source wrote, and the names of those that failed; their reasons in ``notes``."""
    built: dict[str, Built] = {}
    failed: list[str] = []
    with _progress(console) as progress:
        for source in SOURCES:
            if source.name not in names:
                continue
            try:
                built[source.name] = _build(source, out, cache, notes, progress)
            except (SourceError, OSError) as error:
                failed.append(source.name)
                notes[source.name] = f"FAILED: {error}"
        if weights.NAME in names:
            try:
                path, parameters = weights.build(cache)
                notes[weights.NAME] = f"{parameters:,} numbers in {os.path.relpath(path)}"
            except (SourceError, OSError) as error:
                failed.append(weights.NAME)
                notes[weights.NAME] = f"FAILED: {error}"
    return built, failed


def _build(source: Source, out: Path, cache: Path, notes: Notes, progress: Progress) -> Built:
    task = progress.add_task(source.name, total=None)
    built = dataset.finished(source, LOOK, out)
    if built is None:
        files = {package.name: fetch(package, cache) for package in source.packages}
        others = [f.name for p in source.packages if not is_pinned(p, f := files[p.name])]
        if others:
            notes[source.name] = f"not the version this was written against: {', '.join(others)}"
        offer = source.read(files)
        progress.update(task, total=len(offer))
        built = dataset.build(source, offer, LOOK, out, lambda: progress.advance(task))
    seen = len(built.records) + len(built.skipped)
    progress.update(task, total=seen, completed=seen)
    return built


def _progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _print_sources(names: Sequence[str], built: Mapping[str, Built], notes: Notes) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("source", "pictures", "captions", "licence", "skipped, why", title="Pictures")
    for source in SOURCES:
        if source.name in built:
            one = built[source.name]
            why = collections.Counter(_kind(s.reason) for s in one.skipped)
            lines = [f"{n} {reason}" for reason, n in why.most_common()]
            if source.name in notes:
                lines.append(notes[source.name])
            said = sum(len(record["captions"]) for record in one.records)
            table.add_row(
                source.name,
                f"{len(one.records):,}",
                f"{said:,}",
                source.licence,
                escape("\n".join(lines)),
            )
        elif source.name in names:
            table.add_row(source.name, "-", "-", source.licence, escape(notes.get(source.name, "")))
    if weights.NAME in names:
        table.add_row(weights.NAME, "-", "-", weights.LICENCE, escape(notes[weights.NAME]))
    Console().print(table)


def _kind(reason: str) -> str:
    """Reasons that differ by a name or a number only are counted together."""
    return "the same picture as another" if reason.startswith("the same picture") else reason


def _print_splits(records: list[dataset.Record], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "split", "train", "test", title=f"{len(records):,} pictures in {os.path.relpath(out)}"
    )
    for split, sides in dataset.counts(records).items():
        table.add_row(split, f"{sides['train']:,}", f"{sides['test']:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
