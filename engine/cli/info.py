"""`info`: what an index holds."""

from typing import Annotated

import typer

from engine.cli import options
from engine.cli.output import facts_of, show
from engine.system.terminal import visible


def info(
    index: options.Index,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte, compare checksums.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """What an index holds."""
    from engine.index import Index

    opened = Index.open(index)
    if verify:
        opened.verify()
    facts = facts_of(opened) | ({"verified": True} if verify else {})
    show(facts, as_json, "\n".join(f"{name}: {visible(value)}" for name, value in facts.items()))
