"""The command line: `python -m engine COMMAND`. Data on stdout, talk and progress on stderr."""

from typing import Annotated

import typer

from engine.cli.calibrate import calibrate
from engine.cli.compact import compact
from engine.cli.convert import convert
from engine.cli.ending import Command, Commands
from engine.cli.evaluate import evaluate
from engine.cli.export import export
from engine.cli.get import get
from engine.cli.index import index
from engine.cli.info import info
from engine.cli.list import list_
from engine.cli.plan import plan
from engine.cli.relearn import relearn
from engine.cli.remove import remove
from engine.cli.search import search
from engine.cli.train import train

app = typer.Typer(
    cls=Commands,
    help="Fast, exact-checked image-text retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from engine import __version__

        print(f"hivlp-engine {__version__}")
        raise typer.Exit


@app.callback()
def _of_all_commands(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """What may stand before a command."""


for command in (index, search, info, list_, get, remove, compact, relearn, calibrate, export, plan):
    app.command(command.__name__.rstrip("_"), cls=Command)(command)
for made in (evaluate, train, convert):
    app.command(cls=Command)(made)
