"""What a path on the command line stands for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from engine.building.folders import Folder, SinglePicture
from engine.building.items import IdKind, Item, PictureSource, Survey
from engine.building.rows import CaptionsFile, ParquetFile
from engine.building.shards import Shard
from engine.building.vectors import ClipRetrieval, VectorFile
from engine.encoders import Encoder
from engine.errors import DatasetError, InvalidArgument
from engine.images import SUFFIXES
from engine.index import Index

VectorSource: TypeAlias = VectorFile | ClipRetrieval
Source: TypeAlias = PictureSource | VectorSource

CAPTIONS = (".jsonl", ".csv", ".tsv", ".parquet")
KINDS = ("a folder", *CAPTIONS, ".tar", ".npy", ".safetensors", *SUFFIXES)


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources that `paths` stand for; nothing of them is read yet.

    A folder is one with `img_emb` (clip-retrieval's), with `image.npy`, with a captions file, or of pictures; where
    there is no picture in it, its `.tar` or `.parquet` files, each a source. Where several folders are given, their
    ids begin with the folder's name. Raises DatasetError for what is not there or is of no known kind.
    """
    folders = [path for path in paths if path.is_dir()]
    names = [path.resolve().name for path in folders]
    if len(set(names)) < len(names):
        raise DatasetError(
            f"sources: folders of different names expected, as ids begin with them, got {sorted(names)}. "
            "Give the folder above them."
        )
    several = len(folders) > 1
    return [source for path in paths for source in _open(path, several)]


def origin(source: Source) -> Path:
    """What the ids of a source are relative to: a folder, or the file that holds its pictures."""
    path = source.path.resolve()
    by_path = isinstance(source, SinglePicture | CaptionsFile) or (
        isinstance(source, ParquetFile) and source.holds_paths
    )
    return path.parent if by_path else path


def _open(path: Path, several: bool) -> list[Source]:
    if path.is_dir():
        return _open_folder(path, f"{path.resolve().name}/" if several else "")
    if not path.exists():
        raise DatasetError(f"{path}: a folder or file to index expected, found nothing.")
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return [Shard(path)]
    if suffix in (".npy", ".safetensors"):
        return [VectorFile(path)]
    if suffix in SUFFIXES:
        return [SinglePicture(path)]
    if suffix in CAPTIONS:
        return [_table(path, "")]
    raise DatasetError(f"{path}: {', '.join(KINDS)} expected, got {suffix or 'no suffix'!r}.")


def _open_folder(path: Path, prefix: str) -> list[Source]:
    if (path / "img_emb").is_dir():
        return [ClipRetrieval(path)]
    if (path / "image.npy").is_file():
        return [VectorFile(path)]
    tables = [path / f"captions{suffix}" for suffix in CAPTIONS]
    table = next((table for table in tables if table.is_file()), None)
    if table is not None:
        return [_table(table, prefix)]
    folder = Folder(path, prefix)
    if any(item.picture is not None for item in folder.items(0)):
        return [folder]
    files = sorted(path.glob("*.tar")) or sorted(path.glob("*.parquet"))
    if not files and next(folder.items(0), None) is not None:
        return [folder]  # which says why there is none
    if not files:
        raise DatasetError(
            f"{path}: images ({', '.join(SUFFIXES)}) expected, found none. Give another folder."
        )
    return [source for file in files for source in _open(file, False)]


def _table(file: Path, prefix: str) -> Source:
    return ParquetFile(file, prefix) if file.suffix == ".parquet" else CaptionsFile(file, prefix)


@dataclass(frozen=True)
class Broken:
    """A source of which nothing can be read: one entry that says so."""

    path: Path
    why: str
    id_kind: IdKind = "str"

    def survey(self) -> Survey:
        return Survey(1, self.why)

    def items(self, start: int) -> Iterator[Item]:
        """It."""
        fault = Item(str(self.path), None, str(self.path), fault=self.why)
        return islice([fault], start, None)


def surveyed(source: Source) -> tuple[Source, Survey]:
    """`source` with what is known of it; where it cannot be read at all, a `Broken` one in its place."""
    try:
        return source, source.survey()
    except (DatasetError, OSError) as error:
        broken = Broken(source.path, str(error))
        return broken, broken.survey()


def check_dims(sources: Sequence[Source], encoder: Encoder | None) -> None:
    """Vectors of one length throughout, before hours of work end with an error."""
    expected = None if encoder is None else (encoder.fine_dim, encoder.coarse_dim)
    by = "the encoder"
    for source in sources:
        if isinstance(source, VectorSource):
            if expected is not None and source.dims != expected:
                raise DatasetError(
                    f"{source.path}: fine and coarse vectors of {expected} dims expected, as those of {by}, "
                    f"got {source.dims}."
                )
            expected, by = source.dims, str(source.path)


def id_kind(sources: Sequence[Source], known: Index | None) -> IdKind:
    """Integers if every source's ids are, else strings of them; the index's kind where it holds items."""
    kinds = {source.id_kind for source in sources if not isinstance(source, Broken)}
    kind: IdKind = "int" if kinds == {"int"} else "str"
    if known is None or not known.row_count:
        return kind
    if kind == "str" and not known.holds_strings:
        raise InvalidArgument(
            "sources",
            expected="items with integer ids, as the index has",
            got="strings",
            remedy="Name a new index.",
        )
    return "str" if known.holds_strings else "int"
