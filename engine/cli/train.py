"""`train`: a dual encoder, on captioned pictures."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.checks import may_be_hub_id
from engine.cli.ending import STOPPED, say
from engine.cli.options import Images, Json, Skip, check_there, with_options_of
from engine.cli.output import show
from engine.training.settings import Settings


@with_options_of(Settings)
def train(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder with captions or tars, a captions file, dataset_coco.json, …"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the checkpoint.")],
    image_weights: Annotated[
        Path | None,
        typer.Option(help="Start from scratch, on EfficientNet-Lite0 weights in safetensors."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Or start from a checkpoint: go on with ours, or learn heads on CLIP's or SigLIP's towers."
        ),
    ] = None,
    images: Images = None,
    split: Annotated[
        str | None, typer.Option(help="Train on the train part of this split.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Keep the weights of the best AR (coarse, then fine over 32) on this part, such as val, "
            "or on this share of the concepts, such as 0.05."
        ),
    ] = None,
    skip: Skip = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off.")
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(help="A file to keep the features of frozen towers in for the next run."),
    ] = None,
    as_json: Json = False,
    **chosen: Any,
) -> None:
    """Train a dual encoder with coarse and fine vectors on captioned pictures.

    From scratch, from our checkpoint, or as heads on a frozen CLIP or SigLIP. Ctrl-C leaves a state to --resume.
    """
    settings = Settings(**chosen)
    check_there("source", source, "captioned pictures")
    if checkpoint and not image_weights and not may_be_hub_id(checkpoint):
        check_there("checkpoint", checkpoint, "a checkpoint directory")
    if image_weights and not checkpoint:
        check_there("image_weights", image_weights, "EfficientNet-Lite0 weights in safetensors")
    from engine.training.command import train_on

    try:
        facts = train_on(
            source,
            output,
            settings,
            images=images,
            split=split,
            validation=validation,
            skip=skip,
            image_weights=image_weights,
            checkpoint=checkpoint,
            features=features,
            resume=resume,
        )
    except KeyboardInterrupt as stopped:
        say(f"{stopped or 'stopped'}; the same command with --resume goes on from there")
        raise typer.Exit(STOPPED) from None
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    for line in facts["skipped"]:
        say("left out:", line)
    left_out = f"; {len(facts['skipped'])} left out" if facts["skipped"] else ""
    text = f"{facts['pictures']:,} pictures seen{left_out}; checkpoint written to {output}"
    show(facts, as_json, text)
