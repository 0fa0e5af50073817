"""`evaluate`: recall on captioned pictures."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.checks import may_be_hub_id
from engine.cli.ending import say
from engine.cli.options import Images, Json, Normalize, Skip, check_there
from engine.cli.output import show


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint or export directory, or vectors (.safetensors, folder of .npy)."
        ),
    ],
    dataset: Annotated[
        Path,
        typer.Option(help="A folder with captions or tars, a captions file, dataset_coco.json, …"),
    ],
    images: Images = None,
    split: Annotated[str | None, typer.Option(help="A split named in the captions file.")] = None,
    part: Annotated[
        str, typer.Option(help="The part of it that asks; all, where there is no split.")
    ] = "test",
    pool: Annotated[
        Literal["part", "all"],
        typer.Option(help="Search that part, or all of the data set (the 31K and 123K pools)."),
    ] = "part",
    captions: Annotated[
        Literal["all", "first"], typer.Option(help="Take all captions of a picture, or the first.")
    ] = "all",
    candidates: Annotated[
        str, typer.Option(help="How many the coarse stage keeps: each of a list such as 8,16,32.")
    ] = "32",
    dims: Annotated[
        str,
        typer.Option(help="Coarse dims at which to try PCA and truncation too, such as 4,8,16."),
    ] = "",
    folds: Annotated[
        int, typer.Option(help="The mean over so many equal parts: 5 for COCO 1K.")
    ] = 1,
    normalize: Normalize = False,
    skip: Skip = False,
    save_vectors: Annotated[
        Path | None,
        typer.Option(help="Keep the vectors in this .safetensors file, to evaluate again."),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--output", help="Also write .json, .md, or a plot (.png, …); repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recall on captioned pictures, both directions, by way of searching."""
    if not may_be_hub_id(source):
        check_there("source", source, "a checkpoint or export directory, or vectors")
    check_there("dataset", dataset, "captioned pictures")
    from engine.evaluation.command import Request, check_outputs, counts, write_outputs

    check_outputs(output or [], save_vectors)
    request = Request(
        source=source,
        dataset=dataset,
        images=images,
        split=split,
        part=part,
        pool=pool,
        captions=captions,
        candidates=counts("candidates", candidates),
        dims=counts("dims", dims),
        folds=folds,
        normalize=normalize,
        skip=skip,
        save_vectors=save_vectors,
    )
    facts, report = request.measure()
    write_outputs(facts, report, output or [])
    for line in facts["skipped"]:
        say("left out:", line)
    left_out = f"; {len(facts['skipped'])} left out" if facts["skipped"] else ""
    show(facts, as_json, f"{report.title}{left_out}\n\n{report.to_markdown()}")
