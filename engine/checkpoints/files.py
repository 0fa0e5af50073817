"""The files of a checkpoint directory: where it is, which kind it is, whether they are there, and their hash."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from engine.checks import check_path, may_be_hub_id
from engine.errors import CheckpointError

Kind = Literal["hivlp", "clip", "siglip", "open_clip"]
Padding = Literal["longest", "max_length"]  # of sentences: `Processor` says which is which

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
# Where image size, mean, std and interpolation stand; a whole processor, saved by transformers 5, has the second.
PREPROCESSOR, WHOLE_PROCESSOR = "preprocessor_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OLDER_TOKENIZERS = ("vocab.json", "merges.txt", "spiece.model", "tokenizer.model")
TOKENIZER_EXTRAS = ("added_tokens.json", "special_tokens_map.json")
ADAPTER = "adapter_config.json"  # of PEFT, which transformers would apply where peft is installed
LARGEST_JSON = 1 << 28  # bytes; a tokenizer of 250,000 pieces has 34 MB

SAVE_AGAIN = "Save the checkpoint again with model.save_pretrained and processor.save_pretrained."

SHARD = re.compile(r"[^/\\\0]+\.safetensors")


def locate(checkpoint: str | Path) -> Path:
    """The directory of a checkpoint: itself, or for "owner/name" the Hugging Face hub's, fetched if need be.

    Of a repository on the hub only safetensors, JSON and tokenizer files are fetched, never a pickle.
    """
    directory = check_path("checkpoint", checkpoint)
    if directory.is_dir():
        return directory
    if may_be_hub_id(checkpoint):
        return _from_hub(str(checkpoint))
    raise CheckpointError(
        str(directory),
        expected="a checkpoint directory",
        got="a file" if directory.exists() else "nothing",
        remedy="Give the path of one.",
    )


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        fetched = snapshot_download(
            repository, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0].removeprefix("Got: ")
        raise CheckpointError(
            repository,
            expected="a checkpoint directory, or a repository on the Hugging Face hub that can be reached",
            got=f"no such directory, and from the hub: {reason}",
            remedy="Give a directory, or fetch the repository where there is a network.",
        ) from None
    return Path(fetched)


def kind_of(directory: Path) -> Kind:
    """Which kind of checkpoint a directory holds, by its configuration; CheckpointError where it is none."""
    if not (directory / CONFIG).is_file():
        if (directory / OPEN_CLIP_CONFIG).is_file():
            return "open_clip"
        inside = next(checkpoints_in(directory), None)
        raise CheckpointError(
            str(directory),
            expected="a checkpoint",
            got=f"no {CONFIG} and no {OPEN_CLIP_CONFIG}",
            remedy=f"Give the one inside: {inside}"
            if inside
            else "Save the model with save_pretrained, or give another directory.",
        )
    model_type = read_json(directory / CONFIG).get("model_type")
    for kind in ("hivlp", "clip", "siglip"):
        if model_type == kind:
            return kind
    if model_type == "siglip2":
        raise CheckpointError(
            str(directory / CONFIG),
            expected="SigLIP 2 of a fixed resolution",
            got="its NaFlex variant (model_type 'siglip2'), whose image tower takes patches of varying number "
            "instead of pictures",
            remedy="Take a fixed-resolution checkpoint, whose model_type is 'siglip'.",
        )
    raise CheckpointError(
        str(directory / CONFIG),
        expected="model_type 'hivlp', 'clip' or 'siglip'",
        got=repr(model_type),
        remedy="Give engine.Retriever the embeddings of other models.",
    )


def checkpoints_in(root: Path, depth: int = 2) -> Iterator[Path]:
    """The directories below `root` that hold a checkpoint by their configuration; links are not followed."""
    try:
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.is_symlink())
    except OSError:
        return  # one that may not be read
    for folder in folders:
        if any((folder / name).is_file() for name in (CONFIG, OPEN_CLIP_CONFIG)):
            yield folder
        elif depth > 1:
            yield from checkpoints_in(folder, depth - 1)


def check_files(directory: Path, kind: Kind) -> None:
    """Every file that a checkpoint of this kind needs is there, no link leads elsewhere, all JSON can be read."""
    if (directory / ADAPTER).is_file():
        raise CheckpointError(
            str(directory / ADAPTER),
            expected="weights with no adapter beside them",
            got="one",
            remedy="Merge it into them (model.merge_and_unload(), then save_pretrained), or move it away.",
        )
    config, weights = (CONFIG, (WEIGHTS, WEIGHTS_INDEX))
    if kind == "open_clip":
        config, weights = (OPEN_CLIP_CONFIG, (OPEN_CLIP_WEIGHTS, WEIGHTS))
    needed = [(config,), weights, *processor_needs(kind)]
    missing = [names[0] for names in needed if not any((directory / n).is_file() for n in names)]
    if not missing:
        for name in deciding_files(directory):
            _check_place(directory, name)
            if name.endswith(".json"):
                read_json(directory / name)
        return
    remedy = SAVE_AGAIN
    if weights[0] in missing and (pickles := _pickles(directory)):
        remedy = (
            f"{pickles[0].name} is a pickle, which is read only on request: "
            f"python -m engine convert {pickles[0]} {directory}"
        )
    raise CheckpointError(
        str(directory),
        expected=", ".join(names[0] for names in needed),
        got=f"no {' and no '.join(missing)}",
        remedy=remedy,
    )


def processor_needs(kind: Kind) -> list[tuple[str, ...]]:
    """What preprocessing needs: of each tuple, one file."""
    tokenizer = [(TOKENIZER, *OLDER_TOKENIZERS), (TOKENIZER_CONFIG,)]
    if kind == "open_clip":  # has its own way of saying how pictures are prepared
        return [(PREPROCESSOR, WHOLE_PROCESSOR, OPEN_CLIP_CONFIG), *tokenizer]
    return [(PREPROCESSOR, WHOLE_PROCESSOR), *tokenizer]


def processor_files(directory: Path) -> tuple[str, ...]:
    """The names of the files that preprocessing needs, sorted: an export holds copies of them."""
    names = [PREPROCESSOR, WHOLE_PROCESSOR, TOKENIZER, TOKENIZER_CONFIG]
    names += [*OLDER_TOKENIZERS, *TOKENIZER_EXTRAS, CONFIG, OPEN_CLIP_CONFIG]
    return tuple(sorted(name for name in names if (directory / name).is_file()))


def deciding_files(directory: Path) -> tuple[str, ...]:
    """The names of all files on which a vector depends, sorted."""
    weights = [WEIGHTS, WEIGHTS_INDEX, OPEN_CLIP_WEIGHTS]
    present = {name for name in weights if (directory / name).is_file()}
    return tuple(sorted({*present, *shards(directory), *processor_files(directory)}))


def weight_files(directory: Path) -> tuple[str, ...]:
    """The names of the files that hold the weights of a model of transformers' form: one, or several."""
    return shards(directory) or (WEIGHTS,)


def shards(directory: Path) -> tuple[str, ...]:
    """The files that the index of weights names, where no file holds all: safetensors beside it.

    A name with a folder in it, or of another kind of file (a pickle), is refused.
    """
    index = directory / WEIGHTS_INDEX
    if (directory / WEIGHTS).is_file() or not index.is_file():
        return ()
    found = read_json(index).get("weight_map")
    names = sorted({str(name) for name in found.values()}) if isinstance(found, dict) else [""]
    for name in names:
        plain = SHARD.fullmatch(name)
        if not plain or not (directory / name).is_file():
            raise CheckpointError(
                str(index),
                expected="a weight_map to safetensors files in that directory",
                got=f"{name!r}, {'which is not there' if plain else 'another kind of name'}",
                remedy=f"{SAVE_AGAIN} Pickled weights are read by `python -m engine convert` alone.",
            )
    return tuple(names)


def _check_place(directory: Path, name: str) -> None:
    """CheckpointError where a file is a link that leads out of the directory.

    In the Hugging Face cache, files are links into the `blobs` beside the snapshots.
    """
    file, home = (directory / name).resolve(), directory.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not any(file.is_relative_to(place) for place in (home, blobs)):
        raise CheckpointError(
            str(directory / name),
            expected="a file of that directory",
            got=f"a link to {file}",
            remedy="Put the file there.",
        )


def checksum(directory: Path) -> str:
    """SHA-256 over the files that decide a vector, each name followed by its bytes."""
    digest = sha256()
    for name in deciding_files(directory):
        digest.update(name.encode())
        with (directory / name).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where it holds none, or is too large or too deep to be one."""
    try:
        if not file.is_file():  # a pipe would never end
            raise ValueError("no plain file")
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            str(file), expected="a JSON file", got=str(error), remedy="Restore it."
        ) from None
    if not isinstance(found, dict):
        raise CheckpointError(
            str(file),
            expected="a JSON object",
            got=f"a {type(found).__name__}",
            remedy="Restore it.",
        )
    return found


def _pickles(directory: Path) -> list[Path]:
    return sorted(file for suffix in ("bin", "pt", "pth") for file in directory.glob(f"*.{suffix}"))
