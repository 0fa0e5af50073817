"""The command line: `python -m engine COMMAND`. Data on stdout, talk and progress on stderr."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    help="Fast, exact-checked image-text retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXAMPLE_CHECKPOINT = Path(__file__).parent.parent / "examples" / "checkpoint"

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
    folder: Annotated[Path, typer.Argument(help="Pictures: JPEG, PNG, WebP, in any sub-folders.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the index.")],
    checkpoint: Checkpoint = EXAMPLE_CHECKPOINT,
    as_json: Json = False,
) -> None:
    """Encode the pictures of a folder into an index that `search` can ask."""
    from engine.building import index_folder
    from engine.encoders import open_encoder

    retriever = index_folder(folder, open_encoder(checkpoint))
    retriever.save(output)
    facts = _facts(retriever.index) | {"index": str(output)}
    _print(facts, as_json, f"{facts['items']:,} pictures indexed in {output}")


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
    checkpoint: Annotated[
        Path | None, typer.Option(help="The encoder; default: the one the index remembers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the best pictures for sentences, pictures, or both."""
    from engine.errors import InvalidArgument
    from engine.retriever import Retriever

    queries = [*(texts or []), *(image or [])]
    if not queries:
        raise InvalidArgument(
            "TEXTS",
            expected="words or --image PICTURE to search for",
            got="neither",
            remedy='For example: python -m engine search INDEX "a red car".',
        )
    retriever = Retriever(index, checkpoint, candidates=candidates)
    result = retriever.search(queries, k, mode=mode)
    timings = {name: round(1e3 * seconds, 3) for name, seconds in vars(result.timings).items()}
    answers, lines = [], []
    for query, hits in zip(queries, result.to_list(), strict=True):
        answers.append({"query": str(query), "hits": hits})
        lines.append(str(query))
        lines += [f"  {hit['score']:7.4f}  {hit['id']}{_caption(hit)}" for hit in hits]
    _print({"answers": answers, "milliseconds": timings}, as_json, "\n".join(lines))


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
        typer.echo(f"left out: {line}", err=True)
    left_out = f"; {len(facts['skipped'])} left out" if facts["skipped"] else ""
    _print(facts, as_json, f"{report.title}{left_out}\n\n{report.to_markdown()}")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A folder with captions.jsonl.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the checkpoint.")],
    image_weights: Annotated[
        Path, typer.Option(help="EfficientNet-Lite0 weights, as safetensors.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Train on the train part of this split.")
    ] = None,
    coarse_dim: Annotated[int, typer.Option(help="Length of the coarse vectors.")] = 32,
    fine_dim: Annotated[int, typer.Option(help="Length of the fine vectors.")] = 256,
    steps: Annotated[int, typer.Option(help="Batches to train on.")] = 1600,
    batch_size: Annotated[int, typer.Option(help="Concepts in a batch.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 2e-3,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bfloat16: quicker where the CPU or GPU can.")
    ] = False,
    views: Annotated[int, typer.Option(help="Views of each picture, the first unchanged.")] = 3,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    features: Annotated[
        Path | None, typer.Option(help="A file to keep the image features in for the next run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a dual encoder with coarse and fine vectors on captioned pictures."""
    from engine.dataset import read_dataset
    from engine.training import Settings
    from engine.training import train as run

    settings = Settings(
        coarse_dim=coarse_dim,
        fine_dim=fine_dim,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        bf16=bf16,
        views=views,
        seed=seed,
    )
    facts = run(read_dataset(dataset, split, "train"), output, image_weights, settings, features)
    _print(facts, as_json, f"{facts['pictures']:,} pictures seen; checkpoint written to {output}")


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
    facts = _facts(opened) | {"verified": verify}
    _print(facts, as_json, "\n".join(f"{name}: {value}" for name, value in facts.items()))


def _facts(index: Any) -> dict[str, Any]:
    return {
        "items": len(index),
        "coarse": f"{index.header.coarse_dim} x {index.header.coarse_dtype}",
        "fine": f"{index.header.fine_dim} x {index.header.fine_dtype}",
        "bytes": index.nbytes,
        "checkpoint": index.checkpoint.path if index.checkpoint else None,
    }


def _caption(hit: dict[str, Any]) -> str:
    captions = (hit["metadata"] or {}).get("captions")
    return f"  {captions[0]}" if captions else ""


def _print(facts: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(facts, ensure_ascii=False) if as_json else text)
