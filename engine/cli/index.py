"""`index`: make an index of pictures or vectors, or add to one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.cli.ending import STOPPED, say
from engine.cli.options import Json, Normalize
from engine.cli.output import facts_of, show

# A source checkout holds it, an installed wheel does not.
EXAMPLE_CHECKPOINT = Path(__file__).parents[2] / "examples" / "checkpoint"


def index(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of pictures, captions files, Parquet, WebDataset tars, or vectors: .npy, .safetensors, "
            "folders as clip-retrieval writes them."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The index to make, or add to.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The encoder: a checkpoint or export directory; default: the index's own, or a checkout's example."
        ),
    ] = None,
    normalize: Normalize = False,
    coarse_dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"] | None,
        typer.Option(
            help="Of a new index's coarse vectors; int8 is the smallest, and on a CPU the quickest."
        ),
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(help="Save after so many records, or a minute: what an interruption costs."),
    ] = 65_536,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="A pattern of names or paths in folders to pass over: 'drafts', '*_small.jpg'; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an index of pictures or vectors, or add to one; goes on where an interrupted run stopped."""
    from engine.building import build_index
    from engine.checks import check_count
    from engine.index.manifest import MANIFEST

    try:
        report = build_index(
            sources,
            output,
            checkpoint,
            default=EXAMPLE_CHECKPOINT if EXAMPLE_CHECKPOINT.is_dir() else None,
            normalize=normalize,
            coarse_dtype=coarse_dtype,
            segment=check_count("save_every", save_every),
            exclude=exclude or [],
        )
    except KeyboardInterrupt:
        saved = "what was saved stays" if (output / MANIFEST).exists() else "nothing was saved yet"
        say(f"stopped; {saved}, and the same command goes on from there")
        raise typer.Exit(STOPPED) from None
    made_by = report.index.checkpoint
    fresh = checkpoint is None and len(report.index) == report.indexed
    if fresh and made_by is not None and Path(made_by.path) == EXAMPLE_CHECKPOINT:
        say("encoded by the example checkpoint, which knows drawings; name yours with --checkpoint")
    facts = facts_of(report.index) | {
        "index": str(output),
        "indexed": report.indexed,
        "there_before": report.held,
        "skipped": report.skipped,
        "skipped_list": str(report.listed) if report.listed else None,
        "metadata_left_out": report.lost,
        "noted": report.noted,
    }
    for line in report.remarks():
        say(line)
    show(facts, as_json, f"{report.indexed:,} items indexed in {output}")
