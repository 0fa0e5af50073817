"""Options that several commands share, each stated once."""

from collections.abc import Callable
from dataclasses import Field, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

C = TypeVar("C", bound=Callable[..., Any])

Index = Annotated[Path, typer.Argument(help="An index directory.")]
Candidates = Annotated[
    int | None, typer.Option(help="How many the coarse stage keeps; default max(128, 4k).")
]
Images = Annotated[
    Path | None, typer.Option(help="The folder of the pictures, if not the captions file's.")
]
Skip = Annotated[bool, typer.Option("--skip", help="Leave out, and list, what cannot be used.")]
Normalize = Annotated[bool, typer.Option("--normalize", help="Scale given vectors to unit length.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_there(name: str, path: Path, expected: str) -> None:
    """Raise InvalidArgument where nothing is at `path`, before anything large is loaded."""
    if not path.exists():
        from engine.errors import InvalidArgument

        raise InvalidArgument(
            name,
            expected=expected,
            got=f"{path}, which does not exist",
            remedy="Check the path.",
        )


def with_options_of(settings: type) -> Callable[[C], C]:
    """Give a command an option for each field of a dataclass, in place of its `**chosen`.

    Name, type and default are the field's; help and panel are in its metadata. A flag that is off by default has
    no opposite.
    """
    kinds = get_type_hints(settings)

    def option(field: Field[Any]) -> Parameter:
        names = [f"--{field.name.replace('_', '-')}"] if field.default is False else []
        about = typer.Option(
            field.default,
            *names,
            help=field.metadata["help"],
            rich_help_panel=field.metadata["panel"],
        )
        kind = kinds[field.name]
        return Parameter(field.name, Parameter.KEYWORD_ONLY, default=about, annotation=kind)

    def extended(command: C) -> C:
        own = signature(command)
        *first, as_json, _ = own.parameters.values()
        parameters = [
            p.replace(kind=Parameter.KEYWORD_ONLY)
            for p in (*first, *map(option, fields(settings)), as_json)
        ]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return extended
