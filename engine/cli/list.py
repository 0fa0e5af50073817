"""`list`: the items of an index."""

from typing import Annotated

import typer

from engine.cli import options
from engine.cli.ending import say
from engine.cli.items import Where, described, items_at, rows_of
from engine.cli.output import show
from engine.system.terminal import visible


def list_(
    index: options.Index,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=0, help="How many at most; 0 = all.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="How many to pass over.")] = 0,
    as_json: options.Json = False,
) -> None:
    """The ids of an index's items, with their metadata."""
    from engine.index import Index

    opened = Index.open(index)
    rows = rows_of(opened, where)
    shown = rows[offset : offset + limit if limit else None]
    items = items_at(opened, shown)
    if len(shown) < len(rows):
        say(f"{len(shown):,} of {len(rows):,} items; --limit 0 lists all")
    lines = [f"{visible(item['id'])}{described(item['metadata'])}" for item in items]
    show({"items": items, "count": len(rows)}, as_json, "\n".join(lines))
