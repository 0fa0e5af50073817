"""`relearn`: reduction and scale of an index that has grown into other items."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.items import sample_of
from engine.cli.output import facts_of, show

Queries = Annotated[
    Path | None,
    typer.Option(
        help="A sample of queries to choose the axes for: vectors as .npy, or a text file, a query a line."
    ),
]


def relearn(index: options.Index, queries: Queries = None, as_json: options.Json = False) -> None:
    """Learn the reduction and int8's scale anew from the stored vectors; nothing is encoded again."""
    from engine.retriever import Retriever

    with Retriever(index, device="cpu", fine_tier="disk") as retriever:
        retriever.relearn(None if queries is None else sample_of("--queries", queries))
        retriever.save()
        show(
            facts_of(retriever.index), as_json, f"{len(retriever):,} items learned from in {index}"
        )
