"""`search`: find the best pictures for sentences, pictures, both, or vectors."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.cli.ending import BAD_INPUT, say
from engine.cli.items import sample_of
from engine.cli.options import Candidates, Index, Json
from engine.cli.output import show
from engine.system.terminal import as_json as json_text
from engine.system.terminal import visible

if TYPE_CHECKING:
    from engine.result import Hit


def search(
    index: Index,
    texts: Annotated[list[str] | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture to look for; repeatable.")
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option("--vector", help="Query vectors in a file, .npy, in place of words."),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Words and picture are one query, not two.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="How many hits per query.")] = 10,
    candidates: Candidates = None,
    mode: Annotated[
        Literal["two_stage", "exact", "coarse"], typer.Option(help="How to search.")
    ] = "two_stage",
    where: Annotated[
        str | None,
        typer.Option(help="A condition on metadata, such as \"year > 2000 and style == 'noto'\"."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out hits that score lower.")
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
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: query, rank, score, id, metadata.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the best pictures for sentences, pictures, both together, or vectors.

    What cannot be searched for is named on stderr and the others are answered; the exit code is 2 then.
    """
    from engine.errors import InvalidArgument
    from engine.queries.texts import named_by
    from engine.retriever import Retriever

    queries: list[Any] = [*(texts or []), *(image or [])]
    names = [str(query) for query in queries]
    if bool(queries) == (vector is not None):
        raise InvalidArgument(
            "TEXTS",
            expected="words or --image PICTURE to search for, or else --vector FILE",
            got="both" if queries else "neither",
            remedy='For example: python -m engine search INDEX "a red car".',
        )
    if together and (len(texts or []), len(image or [])) != (1, 1):
        raise InvalidArgument(
            "--together",
            expected="one text and one --image",
            got=f"{len(texts or [])} and {len(image or [])}",
            remedy='For example: search INDEX "in the rain" --image car.jpg --together.',
        )
    for text in texts or []:
        if named := named_by(text):
            raise InvalidArgument(
                "TEXTS",
                expected="words",
                got=f"{named}, {text!r:.200}",
                remedy=f"For what a picture shows: --image {text:.200}.",
            )
    asked: Any = queries
    if together:
        from engine.queries.query import Query

        names, asked = [" + ".join(names)], [Query(*queries)]
    elif vector is not None:
        asked = sample_of("--vector", vector)
        names = [f"{vector}, row {row}" for row in range(len(asked))]
    retriever = Retriever(index, checkpoint, candidates=candidates)
    result = retriever.search(
        asked,
        k,
        mode=mode,
        filter=where,
        min_score=min_score,
        duplicates=duplicates,
        on_error="report",
    )
    failed = [error for error in result.errors if error is not None]
    if failed and len(failed) == len(names):
        raise failed[0]
    timings = {name: round(1e3 * seconds, 3) for name, seconds in vars(result.timings).items()}
    answers: list[dict[str, Any]] = []
    lines = []
    for query, error, hits in zip(names, result.errors, result, strict=True):
        answers.append({"query": query, "hits": [hit._asdict() for hit in hits]})
        lines.append(visible(query))
        if error is not None:
            say("error:", error)
            answers[-1]["error"] = str(error)
        elif not as_json:
            lines += map(listed, hits)
    if as_csv and not as_json:
        typer.echo(visible(_as_csv(answers), keep="\n"), nl=False)
    else:
        show({"answers": answers, "milliseconds": timings}, as_json, "\n".join(lines))
    if failed:
        raise typer.Exit(BAD_INPUT)


def _as_csv(answers: list[dict[str, Any]]) -> str:
    """A line a hit; metadata are JSON, as columns differ from item to item."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("query", "rank", "score", "id", "metadata"))
    for answer in answers:
        for rank, hit in enumerate(answer["hits"], start=1):
            said = json_text(hit["metadata"]) if hit["metadata"] else ""
            writer.writerow((answer["query"], rank, f"{hit['score']:.6f}", hit["id"], said))
    return stream.getvalue()


def listed(hit: "Hit") -> str:
    """One line of a hit: score, id, and the first caption, whatever kind of value that is."""
    captions = (hit.metadata or {}).get("captions")
    first = captions[0] if isinstance(captions, list) and captions else captions
    said = "" if first is None or first == [] else f"  {visible(first)}"
    return f"  {hit.score:7.4f}  {visible(hit.id)}{said}"
