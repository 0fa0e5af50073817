"""`compact`: an index without the room of removed items."""

from typing import Annotated

import typer

from engine.cli import options
from engine.cli.output import facts_of, show


def compact(
    index: options.Index,
    relearn: Annotated[
        bool, typer.Option("--relearn", help="Learn reduction and scale anew, too.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Let go of the room of removed items: one segment, rows change, ids do not."""
    from engine.retriever import Retriever

    with Retriever(index, device="cpu", fine_tier="disk") as retriever:
        retriever.compact(relearn=relearn)
        show(facts_of(retriever.index), as_json, f"{len(retriever):,} items in {index}")
