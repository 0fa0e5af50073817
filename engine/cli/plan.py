"""`plan`: the memory and disk that an index of some size takes."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from engine.cli import options
from engine.cli.output import show


def plan(
    items: Annotated[int, typer.Argument(help="How many items.")],
    fine_dim: Annotated[int, typer.Option(help="Dims of the long vectors.")],
    coarse_dim: Annotated[int, typer.Option(help="Dims of the short vectors.")] = 64,
    fine_dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the long vectors.")
    ] = "float32",
    coarse_dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"], typer.Option(help="Of the short ones.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="Where it is searched: auto, cpu, cuda …")] = "auto",
    as_json: options.Json = False,
) -> None:
    """How much memory and disk an index takes, before it is built, and where each part lies."""
    from engine.tiers.plan import Plan

    found = Plan.of(
        items,
        fine_dim=fine_dim,
        coarse_dim=coarse_dim,
        fine_dtype=fine_dtype,
        coarse_dtype=coarse_dtype,
        device=device,
    )
    facts = {name: value for name, value in asdict(found).items() if name != "header"}
    show(facts | {"disk_bytes": found.disk_bytes}, as_json, str(found))
