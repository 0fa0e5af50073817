"""Items of an index as commands take and print them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import check_there

if TYPE_CHECKING:
    from engine.index import Id, Index

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of items.")]
Where = Annotated[str | None, typer.Option(help='A condition on metadata, such as "year > 2000".')]


def rows_of(opened: "Index", where: str | None) -> list[int]:
    """The rows of items that are there, and meet the condition."""
    import numpy as np

    live = np.ones(opened.row_count, bool) if opened.live is None else opened.live
    if where is not None:
        from engine.queries.conditions import parse_condition

        live = live & opened.matching(parse_condition(where, opened.metadata_schema))
    return [int(row) for row in np.flatnonzero(live)]


def items_at(opened: "Index", rows: list[int], *, metadata: bool = True) -> list[dict[str, Any]]:
    """Ids of rows, with their metadata."""
    import numpy as np

    found = opened.ids_at(np.array(rows, np.int64))
    if not metadata:
        return [{"id": id} for id in found]
    said = [opened.metadata_at(row) for row in rows]
    return [{"id": id, "metadata": about} for id, about in zip(found, said, strict=True)]


def typed_ids(opened: "Index", ids: list[str]) -> "list[Id]":
    """Ids as the index has them: its integers are words on a command line."""
    if opened.holds_strings:
        return list(ids)
    from engine.errors import UnknownId

    typed: list[Id] = []
    for id in ids:
        try:
            typed.append(int(id))
        except ValueError:
            raise UnknownId(
                "ids",
                expected="integers, as the index has",
                got=repr(id),
                remedy="`python -m engine list INDEX` prints its ids.",
            ) from None
    return typed


def lines_of(option: str, file: Path) -> list[str]:
    """The lines of a text file, empty ones left out."""
    check_there(option, file, "a text file in UTF-8")
    from engine.errors import InvalidArgument, storing

    with storing(file):
        content = file.read_bytes()
    try:
        return [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            option, expected="a text file in UTF-8", got=str(error), remedy="Save it as UTF-8."
        ) from None


def described(metadata: Any) -> str:
    """Metadata as the end of a line."""
    from engine.system.terminal import as_json

    return "" if not metadata else f"  {as_json(metadata)}"


def sample_of(option: str, file: Path) -> Any:
    """Queries out of a file: an array of `.npy`, or the lines of a text file."""
    check_there(option, file, "vectors as .npy, or a text file")
    if file.suffix.lower() != ".npy":
        return lines_of(option, file)
    from engine.reading.vectors import vector_tables

    (table,) = vector_tables(file).values()
    return table.checked()[0 : len(table)]
