"""The command line: `python -m engine COMMAND`. Data on stdout, talk and progress on stderr."""

import typer

from engine.cli.convert import convert
from engine.cli.ending import Command, Commands
from engine.cli.evaluate import evaluate
from engine.cli.index import index
from engine.cli.info import info
from engine.cli.search import search
from engine.cli.train import train

app = typer.Typer(
    cls=Commands,
    help="Fast, exact-checked image-text retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (index, search, evaluate, train, convert, info):
    app.command(cls=Command)(command)
