"""`export`: the vectors of an index for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.cli import options
from engine.cli.output import show

SUFFIXES = (".npy", ".parquet", ".faiss")


def export(
    index: options.Index,
    output: Annotated[
        Path, typer.Option("-o", "--output", help=f"A new file: {', '.join(SUFFIXES)}.")
    ],
    which: Annotated[Literal["fine", "coarse"], typer.Option(help="Which vectors.")] = "fine",
    as_json: options.Json = False,
) -> None:
    """Write the vectors of an index as NumPy, Parquet (with ids and metadata) or a FAISS flat index.

    Ids of .npy and .faiss go beside them, into OUTPUT.ids.txt, a line an item (JSON where they are text).
    """
    from engine.index import Index
    from engine.index.export import export_vectors

    count = export_vectors(Index.open(index), output, which)
    show({"items": count, "output": str(output)}, as_json, f"{count:,} vectors in {output}")
