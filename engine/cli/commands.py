"""The command line: `python -m engine COMMAND`. Data on stdout, talk and progress on stderr."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.cli.ending import BAD_INPUT, Commands, say
from engine.system.terminal import as_json as json_text
from engine.system.terminal import visible

if TYPE_CHECKING:
    from engine.result import Hit

app = typer.Typer(
    cls=Commands,
    help="Fast, exact-checked image-text retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# A source checkout holds it, an installed wheel does not.
EXAMPLE_CHECKPOINT = Path(__file__).parents[2] / "examples" / "checkpoint"


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


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Checkpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint", help="The encoder: a checkpoint or export directory, or a Hugging Face id."
    ),
]
Candidates = Annotated[
    int | None, typer.Option(help="How many the coarse stage keeps; default max(128, 4k).")
]


@app.command()
def index(
    sources: Annotated[
        list[str],  # as a Path, "" would be the folder one is in
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
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale given vectors to unit length.")
    ] = False,
    coarse_dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"] | None,
        typer.Option(
            help="Of a new index's coarse vectors; int8 is the smallest, and on a CPU the quickest."
        ),
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(help="Save after so many entries, or a minute: what an interruption costs."),
    ] = 65_536,
    as_json: Json = False,
) -> None:
    """Make an index of pictures or vectors, or add to one; goes on where an interrupted run stopped."""
    from engine.building import build_index
    from engine.index.manifest import MANIFEST

    try:
        report = build_index(
            sources,
            output,
            checkpoint,
            default=EXAMPLE_CHECKPOINT if EXAMPLE_CHECKPOINT.is_dir() else None,
            normalize=normalize,
            coarse_dtype=coarse_dtype,
            segment=save_every,
        )
    except KeyboardInterrupt:
        saved = "what was saved stays" if (output / MANIFEST).exists() else "nothing was saved yet"
        say(f"stopped; {saved}, and the same command goes on from there")
        raise typer.Exit(130) from None
    made_by = report.index.checkpoint
    if checkpoint is None and made_by is not None and Path(made_by.path) == EXAMPLE_CHECKPOINT:
        say("encoded by the example checkpoint, which knows drawings; name yours with --checkpoint")
    facts = _facts(report.index) | {
        "index": str(output),
        "indexed": report.indexed,
        "there_before": report.held,
        "skipped": report.skipped,
        "skipped_list": str(report.listed) if report.listed else None,
        "metadata_left_out": report.lost,
    }
    for line in report.remarks():
        say(line)
    _print(facts, as_json, f"{report.indexed:,} items indexed in {output}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="An index directory.")],
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
            lines += map(_listed, hits)
    _print({"answers": answers, "milliseconds": timings}, as_json, "\n".join(lines))
    if failed:
        raise typer.Exit(BAD_INPUT)


@app.command()
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
    images: Annotated[
        Path | None, typer.Option(help="The folder of the pictures, if not the captions file's.")
    ] = None,
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
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale given vectors to unit length.")
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out, and list, what cannot be used.")
    ] = False,
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
    from engine.evaluation.command import Request, check_outputs, counts, write_outputs

    check_outputs(output or [])
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
    _print(facts, as_json, f"{report.title}{left_out}\n\n{report.to_markdown()}")


MODEL, LOSS, RUN = "The model", "The loss", "The run"


@app.command()
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
    unfreeze: Annotated[
        bool, typer.Option("--unfreeze", help="Train the towers too, from pixels.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option(help="The folder of the pictures, if not the captions file's.")
    ] = None,
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
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out, and list, what cannot be used.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off.")
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(help="A file to keep the features of frozen towers in for the next run."),
    ] = None,
    coarse_dim: Annotated[
        int | None,
        typer.Option(help="Length of the coarse vectors: 16; 64 on CLIP.", rich_help_panel=MODEL),
    ] = None,
    fine_dim: Annotated[
        int | None,
        typer.Option(
            help="Of the fine ones: 256; on CLIP its own vectors, unchanged.", rich_help_panel=MODEL
        ),
    ] = None,
    heads: Annotated[
        Literal["own", "shared", "nested"] | None,
        typer.Option(help="How coarse vectors are made: own.", rich_help_panel=MODEL),
    ] = None,
    head_dim: Annotated[
        int | None,
        typer.Option(help="Width of the heads: 512.", rich_help_panel=MODEL),
    ] = None,
    coarse_head_dim: Annotated[
        int | None,
        typer.Option(help="Of the coarse ones: the same.", rich_help_panel=MODEL),
    ] = None,
    image_neck: Annotated[
        int | None,
        typer.Option(
            help="Length of picture features before the heads: 256; 0 as they are.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    coarse_text_dim: Annotated[
        int | None,
        typer.Option(
            help="Word vectors for coarse sentences alone: 96; 0 for none.", rich_help_panel=MODEL
        ),
    ] = None,
    text_hidden: Annotated[
        int | None, typer.Option(help="Width of the text tower: 192.", rich_help_panel=MODEL)
    ] = None,
    text_layers: Annotated[
        int | None,
        typer.Option(help="Its layers: 0, averaged word vectors.", rich_help_panel=MODEL),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="In the heads: 0.1.", rich_help_panel=MODEL)
    ] = None,
    vocabulary: Annotated[
        int, typer.Option(help="Pieces of a new tokenizer.", rich_help_panel=MODEL)
    ] = 5000,
    max_length: Annotated[
        int, typer.Option(help="Pieces of a sentence that are read.", rich_help_panel=MODEL)
    ] = 24,
    coarse_weight: Annotated[
        float, typer.Option(help="Of the coarse level.", rich_help_panel=LOSS)
    ] = 0.5,
    fine_weight: Annotated[
        float, typer.Option(help="Of the fine level.", rich_help_panel=LOSS)
    ] = 0.5,
    distillation: Annotated[
        float,
        typer.Option(help="How much coarse rankings learn from fine ones.", rich_help_panel=LOSS),
    ] = 0.0,
    sigmoid: Annotated[
        bool,
        typer.Option("--sigmoid", help="SigLIP's loss instead of CLIP's.", rich_help_panel=LOSS),
    ] = False,
    queue: Annotated[
        int, typer.Option(help="Pairs of past batches, as negatives.", rich_help_panel=LOSS)
    ] = 0,
    hard: Annotated[
        int,
        typer.Option(
            help="Concepts in the batch beside each, that are confused with it.",
            rich_help_panel=LOSS,
        ),
    ] = 0,
    mine_every: Annotated[
        int, typer.Option(help="Steps between two searches for these.", rich_help_panel=LOSS)
    ] = 200,
    steps: Annotated[int, typer.Option(help="Steps to train.", rich_help_panel=RUN)] = 1600,
    batch_size: Annotated[
        int, typer.Option(help="Concepts in a batch.", rich_help_panel=RUN)
    ] = 1024,
    accumulate: Annotated[int, typer.Option(help="Batches a step.", rich_help_panel=RUN)] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Its peak: 3e-3; 1e-3 from a checkpoint.", rich_help_panel=RUN),
    ] = None,
    tower_learning_rate: Annotated[
        float, typer.Option(help="Of unfrozen towers.", rich_help_panel=RUN)
    ] = 1e-5,
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16",
            help="Multiply in bfloat16: quicker where CPU or GPU can.",
            rich_help_panel=RUN,
        ),
    ] = False,
    views: Annotated[
        int | None,
        typer.Option(
            help="Views of a picture, the first unchanged: 3; 1 on CLIP.", rich_help_panel=RUN
        ),
    ] = None,
    phrasing: Annotated[
        bool,
        typer.Option(help="Say captions in other ways (not on CLIP).", rich_help_panel=RUN),
    ] = True,
    every: Annotated[
        int, typer.Option(help="Steps between two states and validations.", rich_help_panel=RUN)
    ] = 200,
    seed: Annotated[
        int, typer.Option(help="Of everything drawn at random.", rich_help_panel=RUN)
    ] = 0,
    as_json: Json = False,
) -> None:
    """Train a dual encoder with coarse and fine vectors on captioned pictures.

    From scratch, from our checkpoint, or as heads on a frozen CLIP or SigLIP. Ctrl-C leaves a state to --resume.
    """
    given = dict(locals())
    from engine.training.command import Request

    try:
        facts = Request.of(given).run()
    except KeyboardInterrupt as stopped:
        say(f"{stopped or 'stopped'}; the same command with --resume goes on from there")
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    for line in facts["skipped"]:
        say("left out:", line)
    left_out = f"; {len(facts['skipped'])} left out" if facts["skipped"] else ""
    text = f"{facts['pictures']:,} pictures seen{left_out}; checkpoint written to {output}"
    _print(facts, as_json, text)


@app.command()
def convert(
    pickled: Annotated[Path, typer.Argument(help="Weights as .pt or .bin.")],
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint directory, whose configuration they must fit.")
    ],
    as_json: Json = False,
) -> None:
    """Write pickled weights into a checkpoint directory as safetensors, which everything else reads."""
    from engine.checkpoints.convert import convert as run

    written = run(pickled, checkpoint)
    _print({"weights": str(written)}, as_json, f"weights written to {written}")


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="An index directory.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte, compare checksums.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What an index holds."""
    from engine.index import Index

    opened = Index.open(index)
    if verify:
        opened.verify()
    facts = _facts(opened) | ({"verified": True} if verify else {})
    _print(facts, as_json, "\n".join(f"{name}: {visible(value)}" for name, value in facts.items()))


def _facts(index: Any) -> dict[str, Any]:
    quantization = index.header.quantization
    return {
        "items": len(index),
        "coarse": f"{index.header.coarse_dim} x {index.header.coarse_dtype}",
        "fine": f"{index.header.fine_dim} x {index.header.fine_dtype}",
        "bytes": index.nbytes,
        "segments": len(index.segments),
        "deleted rows": index.row_count - len(index),
        "checkpoint": index.checkpoint.path if index.checkpoint else None,
    } | (vars(quantization) if quantization else {})


def _listed(hit: "Hit") -> str:
    """One line of a hit: score, id, and the first caption, whatever kind of value that is."""
    captions = (hit.metadata or {}).get("captions")
    first = captions[0] if isinstance(captions, list) and captions else captions
    said = "" if first is None or first == [] else f"  {visible(first)}"
    return f"  {hit.score:7.4f}  {visible(hit.id)}{said}"


def _print(facts: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json_text(facts) if as_json else visible(text, keep="\n"))
