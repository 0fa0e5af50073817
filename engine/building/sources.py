"""What a path on the command line stands for: `Pictures` to encode, or `Vectors` made elsewhere.

`engine.reading` reads either; here records get ids and metadata.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

import torch

from engine.building.blocks import Block, IdKind, Skip, finite
from engine.building.kinds import Metadata, metadata
from engine.embeddings import Embeddings
from engine.encoders import Encoder
from engine.errors import DatasetError, InvalidArgument
from engine.images import SUFFIXES
from engine.index import Id, Index
from engine.queries.batch import as_vectors
from engine.reading.folders import Folder, SinglePicture
from engine.reading.parquet import Parquet
from engine.reading.records import CAPTIONS, Fault, Record, captions_of
from engine.reading.sources import (
    TABLES,
    captions_files,
    nested_captions,
    of_suffix,
    opened_table,
    prefix_of,
)
from engine.reading.sources import Source as PictureSource
from engine.reading.tars import Tar
from engine.reading.vectors import BLOCK, ClipRetrieval, Table, vector_tables
from engine.system.forks import cached_property

KINDS = ("a folder", *TABLES, ".tar", ".npy", ".safetensors", *SUFFIXES)
PAIRS = (("fine", "coarse"), ("image", "image_coarse"))  # names of tables of vectors


@dataclass(frozen=True)
class Survey:
    """What is known of a source before it is read.

    count: how many records it has, for the progress bar.
    stamp: differs where the source has changed since.
    """

    count: int
    stamp: str


@dataclass(frozen=True)
class Pictures:
    """Records with pictures. Records of one picture that stand together are joined.

    prefix: what ids begin with; the folder's name where several folders are indexed together, else "".
    """

    source: PictureSource
    prefix: str = ""

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def id_kind(self) -> IdKind:
        named = isinstance(self.source, Parquet) and self.source.integer_names
        return "int" if named else "str"

    def survey(self) -> Survey:
        """Tables are read for it, as records are joined, and names are what a folder is known by."""
        if isinstance(self.source, Folder):
            names, count = blake2b(digest_size=16), 0
            for record in replace(self.source, captioned=False).records():
                names.update(record.name.encode(errors="surrogateescape") + b"\0")
                count += 1
            return Survey(count, names.hexdigest())
        if isinstance(self.source, Parquet) and not self.source.by_path:
            return Survey(self.source.count(), file_stamp(self.path))
        return Survey(sum(1 for _ in self.records()), file_stamp(self.path))

    def records(self, start: int = 0) -> Iterator[Record]:
        """From number `start` on, in the source's order. Their names are ids, their values metadata."""
        if isinstance(self.source, Parquet) and not self.source.by_path:
            return (self._joined([record]) for record in self.source.records(start))
        runs = groupby(self.source.records(), lambda record: record.picture or record.place)
        return islice((self._joined(list(run)) for _, run in runs), start, None)

    def _joined(self, run: list[Record]) -> Record:
        first = run[0]
        in_folder = self.source.by_path or isinstance(self.source, Folder)
        captions = [text for record in run for text in record.captions]
        return replace(
            first,
            name=f"{self.prefix}{first.name}" if in_folder else first.name,
            captions=(),
            values=metadata(first.values, captions),
        )


@dataclass(frozen=True)
class Vectors:
    """Vectors: of a file or a folder with `image.npy`, whose ids are row numbers; or of clip-retrieval.

    Row numbers go on from one source to the next.
    """

    path: Path

    @cached_property
    def named(self) -> ClipRetrieval | None:
        """The source where its vectors have names, else None."""
        return ClipRetrieval(self.path) if (self.path / "img_emb").is_dir() else None

    @property
    def id_kind(self) -> IdKind:
        return "int" if self.named is None else "str"

    @property
    def dims(self) -> tuple[int, int | None]:
        """Fine and coarse."""
        if self.named is not None:
            return self.named.dim, None
        fine, coarse = self._tables
        return fine.dim, None if coarse is None else coarse.dim

    def survey(self) -> Survey:
        if self.named is not None:
            files = [file for pair in self.named.files for file in pair]
            return Survey(self.named.count(), " ".join(map(file_stamp, files)))
        file = self.path / "image.npy" if self.path.is_dir() else self.path
        return Survey(len(self._tables[0]), file_stamp(file))

    def blocks(self, start: int, first: int) -> Iterator[Block]:
        """The rows from `start` on; NaN and inf are left out. `first` is the id of row 0 where it has no names."""
        if self.named is not None:
            yield from self._named_blocks(self.named, start)
            return
        fine, coarse = self._tables
        for at in range(start, len(fine), BLOCK):
            end = min(at + BLOCK, len(fine))
            block = Embeddings(_read(coarse, at, end), as_vectors(str(self.path), fine[at:end]))
            places = [f"{self.path}, row {row}" for row in range(at, end)]
            yield finite(block, list(range(first + at, first + end)), places, [{}] * (end - at))

    def _named_blocks(self, source: ClipRetrieval, start: int) -> Iterator[Block]:
        for found in source.blocks(start):
            rows = range(found.start, found.start + len(found.values))
            ids: list[Id] = [
                str(values.get("image_path") or f"{found.file.stem}:{row}")
                for values, row in zip(found.values, rows, strict=True)
            ]
            places = [f"{found.file}, row {row}" for row in rows]
            fine = as_vectors(str(found.file), found.vectors)
            yield finite(Embeddings(None, fine), ids, places, list(map(_about, found.values)))

    @cached_property
    def _tables(self) -> tuple[Table, Table | None]:
        """Fine `[N, D]`, and coarse `[N, d]` where there are any."""
        tables = vector_tables(self.path, PAIRS[1])
        fine_name, coarse_name = next((pair for pair in PAIRS if pair[0] in tables), ("", ""))
        if len(tables) == 1:
            (fine_name,) = tables
        if fine_name not in tables:
            expected = 'a tensor "fine", "image", or only one tensor'
            fault = Fault(expected, f"{sorted(tables)!r:.200}", "Rename the tensor of the vectors.")
            raise fault.at(self.path)
        fine = tables[fine_name].checked()
        coarse = tables.get(coarse_name) if len(tables) > 1 else None
        if coarse is not None and len(coarse.checked()) != len(fine):
            fault = Fault(
                f"as many coarse rows as fine ones ({len(fine)})",
                f"{len(coarse)}",
                "Save both anew.",
            )
            raise fault.at(self.path)
        return fine, coarse


@dataclass(frozen=True)
class Broken:
    """A source of which nothing can be read: one record that says so."""

    path: Path
    why: str

    def survey(self) -> Survey:
        return Survey(1, self.why)

    def blocks(self, start: int, first: int) -> Iterator[Block]:  # noqa: ARG002  as `Vectors` has it
        """It."""
        skipped = [Skip(str(self.path), str(self.path), self.why)]
        return islice([Block(taken=1, skipped=skipped)], start, None)


Source: TypeAlias = Pictures | Vectors | Broken


def open_sources(paths: Sequence[Path], exclude: tuple[str, ...] = ()) -> list[Source]:
    """The sources that `paths` stand for; nothing of them is read yet.

    A folder is one with `img_emb` (clip-retrieval's), with `image.npy`, with a captions file, or of pictures, whose
    folders may have captions files; where there is no picture in it, its `.tar` or `.parquet` files, each a
    source. Where several folders are given, their ids begin with the folder's name. `exclude` as `Folder` has it.

    Raises DatasetError for what is not there or is of no known kind.
    """
    folders = [path for path in paths if path.is_dir()]
    names = [path.resolve().name for path in folders]
    if len(set(names)) < len(names):
        fault = Fault(
            "folders of different names, as ids begin with them",
            f"{sorted(names)}",
            "Give the folder above them.",
        )
        raise fault.at("sources")
    several = len(folders) > 1
    return [source for path in paths for source in _open(path, several, exclude)]


def origin(source: Source) -> Path:
    """What the ids of a source are relative to: a folder, or the file that holds its pictures."""
    path = source.path.resolve()
    by_path = isinstance(source, Pictures) and source.source.by_path
    return path.parent if by_path else path


def _open(path: Path, several: bool, exclude: tuple[str, ...] = ()) -> list[Source]:
    if path.is_dir():
        return _open_folder(path, f"{path.resolve().name}/" if several else "", exclude)
    if not path.exists():
        fault = Fault("a folder or file to index", "nothing", "Mend the path.")
        raise fault.at(path)
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return [Pictures(Tar(path))]
    if suffix in (".npy", ".safetensors"):
        return [Vectors(path)]
    if suffix in SUFFIXES:
        return [Pictures(SinglePicture(path))]
    if suffix in TABLES:
        return [Pictures(opened_table(path))]
    fault = Fault(", ".join(KINDS), repr(suffix or "no suffix"), "Convert it to one of these.")
    raise fault.at(path)


def _open_folder(path: Path, prefix: str, exclude: tuple[str, ...]) -> list[Source]:
    if (path / "img_emb").is_dir() or (path / "image.npy").is_file():
        return [Vectors(path)]
    if files := captions_files(path):
        return [Pictures(opened_table(file), prefix) for file in files]
    nested = [opened_table(file) for file in nested_captions(path)]
    tables: list[Source] = [Pictures(one, f"{prefix}{prefix_of(one, path)}") for one in nested]
    read = [folder for one in nested for folder in (one.path.parent, one.folder) if folder]
    covered = frozenset(_within(path, one) for one in read if one.is_relative_to(path))
    folder = Pictures(Folder(path, exclude, covered=covered), prefix)
    if any(record.picture is not None for record in folder.source.records()):
        return [*tables, folder]
    files = of_suffix(path, ".tar") or of_suffix(path, ".parquet")
    if tables:
        return tables
    if not files and next(folder.source.records(), None) is not None:
        return [folder]  # which says why there is none
    if not files:
        fault = Fault(f"images ({', '.join(SUFFIXES[:4])}, …)", "none", "Give another folder.")
        raise fault.at(path)
    return [source for file in files for source in _open(file, False)]


def _within(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


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
        if isinstance(source, Vectors):
            if expected is not None and source.dims != expected:
                fault = Fault(
                    f"fine and coarse vectors of {expected} dims, as those of {by}",
                    f"{source.dims}",
                    "Index them apart.",
                )
                raise fault.at(source.path)
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


def file_stamp(file: Path) -> str:
    """Length and time of the last change."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _about(values: dict[str, Any]) -> Metadata:
    """What is said of a vector, its name and captions aside."""
    others = {name: said for name, said in values.items() if name not in (*CAPTIONS, "image_path")}
    return metadata(others, list(captions_of(values)[0]))


def _read(table: Table | None, start: int, end: int) -> torch.Tensor | None:
    return None if table is None else as_vectors("coarse", table[start:end])
