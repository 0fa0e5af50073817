"""`convert`: pickled weights become safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, check_there
from engine.cli.output import show


def convert(
    pickled: Annotated[Path, typer.Argument(help="Weights as .pt or .bin.")],
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint directory, whose configuration they must fit.")
    ],
    as_json: Json = False,
) -> None:
    """Write pickled weights into a checkpoint directory as safetensors, which everything else reads."""
    check_there("pickled", pickled, "a file of weights")
    check_there("checkpoint", checkpoint, "a checkpoint directory")
    from engine.checkpoints.convert import convert as run

    written = run(pickled, checkpoint)
    show({"weights": str(written)}, as_json, f"weights written to {written}")
