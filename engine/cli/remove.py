"""`remove`: items out of an index."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.items import Ids, Where, items_at, lines_of, rows_of, typed_ids
from engine.cli.output import show


def remove(
    index: options.Index,
    ids: Ids = None,
    where: Where = None,
    listed: Annotated[
        Path | None, typer.Option("--ids", help="A text file of ids, one a line.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many it would be, and change nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Remove items: those named, those that a file lists, and those that meet a condition."""
    from engine.errors import InvalidArgument
    from engine.retriever import Retriever

    named = [*(ids or []), *(lines_of("--ids", listed) if listed is not None else [])]
    if not named and where is None:
        raise InvalidArgument(
            "IDS",
            expected="ids, --ids FILE or --where CONDITION",
            got="none of them",
            remedy='For example: python -m engine remove INDEX --where "year < 2000".',
        )
    with Retriever(index, device="cpu", fine_tier="disk") as retriever:
        opened = retriever.index
        rows = dict.fromkeys(opened.rows_of(typed_ids(opened, named)).tolist())
        if where is not None:
            rows |= dict.fromkeys(rows_of(opened, where))
        gone = [item["id"] for item in items_at(opened, list(rows), metadata=False)]
        if gone and not dry_run:
            retriever.remove(gone)
            retriever.save()
        facts = {"would_remove" if dry_run else "removed": len(gone), "items": len(retriever)}
    said = "would be removed" if dry_run else "removed"
    show(facts, as_json, f"{len(gone):,} items {said}, {facts['items']:,} are in {index}")
