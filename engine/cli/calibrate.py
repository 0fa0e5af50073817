"""`calibrate`: how many candidates a recall needs."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.items import sample_of
from engine.cli.output import show


def calibrate(
    index: options.Index,
    queries: Annotated[Path, typer.Option(help="Vectors as .npy, or a text file, a query a line.")],
    k: Annotated[int, typer.Option("-k", help="For how many hits.")] = 10,
    target_recall: Annotated[
        float, typer.Option(help="The share of the exact best k that is to be found.")
    ] = 0.99,
    as_json: options.Json = False,
) -> None:
    """Find the smallest number of candidates that reaches a recall; searches take it from then on."""
    from engine.retriever import Retriever

    with Retriever(index) as retriever:
        sample = sample_of("--queries", queries)
        found = retriever.calibrate(sample, k, target_recall=target_recall)
        retriever.save()
    said = (
        f"{found.candidates:,} candidates: recall@{found.k} of {found.recall:.4f} over {found.queries:,} queries, "
        f"at least {found.lower_bound:.4f} with a confidence of {found.confidence:.0%}"
    )
    show(vars(found), as_json, said)
