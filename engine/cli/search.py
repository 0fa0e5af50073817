"""`search`: find the best pictures for sentences, pictures, or both."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.cli.ending import BAD_INPUT, say
from engine.cli.options import Candidates, Index, Json
from engine.cli.output import show
from engine.system.terminal import visible

if TYPE_CHECKING:
    from engine.result import Hit


def search(
    index: Index,
    texts: Annotated[list[str] | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture to look for; repeatable.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits per query.")] = 10,
    candidates: Candidates = None,
    mode: Annotated[
        Literal["two_stage", "exact", "coarse"], typer.Option(help="How to search.")
    ] = "two_stage",
    where: Annotated[
        str | None,
        typer.Option(help="A condition on metadata, such as \"year > 2000 and style == 'noto'\"."),
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(help="Leave out hits whose cosine with a better one is higher, such as 0.98."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The encoder, or a folder above it; default: the one the index remembers."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the best pictures for sentences, pictures, or both.

    What cannot be searched for is named on stderr and the others are answered; the exit code is 2 then.
    """
    from engine.errors import InvalidArgument
    from engine.queries.texts import named_by
    from engine.retriever import Retriever

    queries: list[str | Path] = [*(texts or []), *(image or [])]
    if not queries:
        raise InvalidArgument(
            "TEXTS",
            expected="words or --image PICTURE to search for",
            got="neither",
            remedy='For example: python -m engine search INDEX "a red car".',
        )
    for text in texts or []:
        if named := named_by(text):
            raise InvalidArgument(
                "TEXTS",
                expected="words",
                got=f"{named}, {text!r:.200}",
                remedy=f"For what a picture shows: --image {text:.200}.",
            )
    retriever = Retriever(index, checkpoint, candidates=candidates)
    result = retriever.search(
        queries, k, mode=mode, filter=where, duplicates=duplicates, on_error="report"
    )
    failed = [error for error in result.errors if error is not None]
    if len(failed) == len(queries):
        raise failed[0]
    timings = {name: round(1e3 * seconds, 3) for name, seconds in vars(result.timings).items()}
    answers: list[dict[str, Any]] = []
    lines = []
    for query, error, hits in zip(queries, result.errors, result, strict=True):
        answers.append({"query": str(query), "hits": [hit._asdict() for hit in hits]})
        lines.append(visible(query))
        if error is not None:
            say("error:", error)
            answers[-1]["error"] = str(error)
        elif not as_json:
            lines += map(listed, hits)
    show({"answers": answers, "milliseconds": timings}, as_json, "\n".join(lines))
    if failed:
        raise typer.Exit(BAD_INPUT)


def listed(hit: "Hit") -> str:
    """One line of a hit: score, id, and the first caption, whatever kind of value that is."""
    captions = (hit.metadata or {}).get("captions")
    first = captions[0] if isinstance(captions, list) and captions else captions
    said = "" if first is None or first == [] else f"  {visible(first)}"
    return f"  {hit.score:7.4f}  {visible(hit.id)}{said}"
