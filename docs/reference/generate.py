"""MkDocs hook: the reference pages, from the code as it is when the site is built.

<!-- names: engine -->       every name of `engine.__all__`, as mkdocstrings shows it; errors last
<!-- commands: engine -->    every command of `python -m engine`, with its arguments and options
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

BLOCK = re.compile(r"<!-- (names|commands): ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with the text of each page."""
    return BLOCK.sub(lambda found: SECTIONS[found[1]](found[2]), markdown)


def names(package: str) -> str:
    """mkdocstrings' line of every public name of a package."""
    module, errors = import_module(package), vars(import_module(f"{package}.errors"))
    ordered = sorted(module.__all__, key=lambda name: (name in errors, name))
    return "\n\n".join(f"::: {package}.{name}" for name in ordered)


def commands(package: str) -> str:
    """A section for every command of a package, or for the one of a module."""
    return "\n\n".join("\n".join(_command(*each)) for each in _commands(package))


def _commands(package: str) -> Iterator[tuple[Any, Any]]:
    """Every command with its context, which knows the words before it."""
    import typer

    if package == "engine":
        group: Any = typer.main.get_command(import_module("engine.__main__")._app())
        above = typer.Context(group, info_name="python -m engine")
        for name, command in sorted(group.commands.items()):
            yield command, typer.Context(command, info_name=name, parent=above)
    else:
        function = getattr(import_module(package), package.rpartition(".")[2])
        command = typer.main.get_command(import_module("export.cli").command(function))
        yield command, typer.Context(command, info_name=f"python -m {package}")


def _command(command: Any, context: Any) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"## {context.command_path}\n"
    yield f"```text\n{usage}\n```\n"
    yield f"{command.help.strip()}\n"
    yield "| argument or option | meaning |\n| --- | --- |"
    for parameter in command.params:
        if shown := parameter.get_help_record(context):
            option, meaning = shown
            escaped = meaning.replace("|", "\\|")  # within code, tables take it as it is
            yield f"| `{option}` | {escaped} |"


SECTIONS = {"names": names, "commands": commands}
