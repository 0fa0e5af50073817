"""Pictures with captions, read from what people have: one list of `Example` whatever the source.

| source | what it is |
|---|---|
| a folder | its `captions.jsonl`, `captions.csv`, `captions.tsv` or `captions.parquet`; else its `*.tar` |
| `.jsonl`, `.csv`, `.tsv`, `.parquet` | a captions file, one row a picture or a caption: see `tables` |
| `.tar` | one WebDataset shard: see `tars` |
| `.json` | `dataset_flickr30k.json`, `dataset_coco.json`: see `karpathy` |

A row of a captions file; in JSON lines and Parquet "captions" may be a list, and "splits" a mapping:

    {"image": "noto/1f600.webp", "captions": ["grinning face", …], "concept": "1f600",
     "splits": {"style": "test", "concept": "train"}, …}

`image` is relative to the folder of pictures; rows with the same one are joined. `concept` says what is shown:
pictures of one concept answer each other's captions; by default every picture is its own. `splits` gives the
part it plays in each named split, `split` its part in the one split that has no name.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from engine.dataset.examples import Example, Member, Picture, Record, Skipped, gather, mended
from engine.dataset.karpathy import karpathy
from engine.dataset.tables import comma_separated, json_lines, parquet
from engine.dataset.tars import tars
from engine.errors import DatasetError

__all__ = ["CAPTIONS", "Example", "Member", "Picture", "Skipped", "mended", "read_dataset"]

CAPTIONS = "captions.jsonl"
_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".tsv": comma_separated,
    ".parquet": parquet,
    ".json": karpathy,
    ".tar": lambda shard: tars([shard]),
}


def read_dataset(
    source: str | Path,
    split: str | None = None,
    part: str | None = None,
    *,
    images: str | Path | None = None,
    check_images: bool = True,
    skipped: Skipped | None = None,
) -> list[Example]:
    """The pictures of `source` with their captions, in its order; only one part of one split, if asked.

    Args:
        source: a folder or file, as in the table above.
        split: a named split, or None for the one without a name that Karpathy's files and a column `split` have.
        part: "train", "test", … of it. Where `split` is None and the source has no split, all are returned.
            COCO's "restval" counts as "train".
        images: the folder of the pictures; default: where the captions file is.
        check_images: whether the pictures must be there; not needed by those who have their vectors.
        skipped: what has no picture or an empty caption is left out and noted here, a line each. None = an error.

    Raises DatasetError naming file and line where something is missing or of another form.
    """
    source = Path(source)
    folder = Path(images) if images is not None else source if source.is_dir() else source.parent
    examples = gather(_records(source), folder, split, part, check_images, skipped)
    if not examples:
        of_split = "" if split is None else f" in split {split!r}"
        asked = "pictures" + ("" if part is None else f" of part {part!r}{of_split}")
        left_out = f" that can be used; {len(skipped)} were left out" if skipped else ""
        raise DatasetError(f"{source}: {asked} expected, found none{left_out}.")
    return examples


def _records(source: Path) -> Iterable[Record]:
    if source.is_dir():
        files = [source / f"captions{suffix}" for suffix in _READERS if suffix != ".tar"]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            shards = sorted(source.glob("*.tar"))
            if shards:
                return tars(shards)
            raise DatasetError(
                f"{source}: a captions file expected (captions.jsonl, .csv, .tsv, .parquet, or *.tar), found none."
            )
        return _READERS[file.suffix](file)
    if source.suffix not in _READERS:
        raise DatasetError(
            f"{source}: a folder or a file of kind {', '.join(_READERS)} expected, got {source.suffix or 'none'!r}."
        )
    if not source.is_file():
        raise DatasetError(f"{source}: a captions file expected, found none.")
    return _READERS[source.suffix](source)
