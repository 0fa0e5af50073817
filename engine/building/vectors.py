"""Vectors made elsewhere: `.npy`, `.safetensors`, and folders as clip-retrieval writes them.

| source | vectors | ids |
|---|---|---|
| `.npy` | `[N, D]`, fine | row numbers |
| `.safetensors` | `fine`, perhaps `coarse`; or `image`, perhaps `image_coarse`; or one tensor | row numbers |
| a folder with `image.npy` | that, and perhaps `image_coarse.npy` | row numbers |
| a folder with `img_emb/img_emb_0.npy`, … | those | `image_path` of `metadata/metadata_0.parquet`, … |

The other columns of that Parquet are metadata. Row numbers go on from one source to the next. Files are read a
block at a time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from engine.building.items import IdKind, Metadata, Part, Skip, Survey, file_stamp, plain
from engine.building.rows import captions_of
from engine.embeddings import Embeddings
from engine.errors import DatasetError, MissingPackage
from engine.index import Id
from engine.queries.batch import as_vectors
from engine.reading.arrow_rows import python_rows
from engine.system.files import check_regular, map_npy
from engine.system.forks import cached_property

BLOCK = 8192  # rows read at a time
PAIRS = (("fine", "coarse"), ("image", "image_coarse"))


@dataclass(frozen=True)
class VectorFile:
    """A `.npy` or `.safetensors` file, or a folder with `image.npy`; see above."""

    path: Path
    id_kind: IdKind = "int"

    @property
    def dims(self) -> tuple[int, int | None]:
        fine, coarse = self._tables
        return fine.shape[1], None if coarse is None else coarse.shape[1]

    def survey(self) -> Survey:
        file = self.path / "image.npy" if self.path.is_dir() else self.path
        return Survey(self._tables[0].shape[0], file_stamp(file))

    def parts(self, start: int, first: int) -> Iterator[Part]:
        """The rows from `start` on, a block each; row 0 has the id `first`; NaN and inf are left out."""
        fine, coarse = self._tables
        for at in range(start, fine.shape[0], BLOCK):
            end = min(at + BLOCK, fine.shape[0])
            block = Embeddings(_read(coarse, at, end), as_vectors(str(self.path), fine[at:end]))
            places = [f"{self.path}, row {row}" for row in range(at, end)]
            yield finite(block, list(range(first + at, first + end)), places, [{}] * (end - at))

    @cached_property
    def _tables(self) -> tuple[Any, Any]:
        """fine `[N, D]` and coarse `[N, d]` or None: arrays mapped from the file, or slices read from it."""
        if self.path.is_dir():
            coarse = self.path / "image_coarse.npy"
            tables = (
                _npy(self.path / "image.npy"),
                _npy(coarse) if coarse.is_file() else None,
            )
        elif self.path.suffix == ".npy":
            tables = (_npy(self.path), None)
        else:
            tables = self._safetensors()
        fine, coarse_table = tables
        if coarse_table is not None and coarse_table.shape[0] != fine.shape[0]:
            raise DatasetError(
                f"{self.path}: as many coarse rows as fine ones ({fine.shape[0]}) expected, got "
                f"{coarse_table.shape[0]}."
            )
        return tables

    def _safetensors(self) -> tuple[Any, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            check_regular(self.path)
            opened = safe_open(self.path, framework="pt")
            names = set(opened.keys())  # type: ignore[no-untyped-call]
            found = next((pair for pair in PAIRS if pair[0] in names), None)
            if found is None and len(names) == 1:
                found = (*names, "")
            if found is None:
                raise DatasetError(
                    f'{self.path}: a tensor "fine", "image", or only one tensor expected, got {sorted(names)}.'
                )
            tables = [_Stored(opened, name) for name in found if name in names]
        except (OSError, SafetensorError) as error:
            raise DatasetError(
                f"{self.path}: vectors in safetensors expected, got {error}."
            ) from None
        for table in tables:
            _check_rank(self.path, table)
        return tables[0], tables[1] if len(tables) > 1 else None


class _Stored:
    """A tensor of a safetensors file, of which slices are read."""

    def __init__(self, opened: Any, name: str) -> None:
        self._slice = opened.get_slice(name)
        self.shape = tuple(self._slice.get_shape())

    def __getitem__(self, rows: slice) -> Any:
        return self._slice[rows]


@dataclass(frozen=True)
class ClipRetrieval:
    """The folder that clip-retrieval's `inference` writes: `img_emb/*.npy` beside `metadata/*.parquet`."""

    path: Path
    id_kind: IdKind = "str"

    @property
    def dims(self) -> tuple[int, int | None]:
        return _npy(self._pairs[0][0]).shape[1], None

    def survey(self) -> Survey:
        files = [file for pair in self._pairs for file in pair]
        count = 0
        for vectors, metadata in self._pairs:
            rows = _npy(vectors).shape[0]
            with _opened(metadata) as opened:
                if opened.metadata.num_rows != rows:
                    raise DatasetError(
                        f"{metadata}: {rows:,} rows expected, one a vector, got {opened.metadata.num_rows:,}."
                    )
            count += rows
        return Survey(count, " ".join(map(file_stamp, files)))

    def parts(self, start: int, first: int) -> Iterator[Part]:  # noqa: ARG002  its rows have names
        """The rows from `start` on, a block each, file after file by number; NaN and inf are left out."""
        for vectors, metadata in self._pairs:
            fine = _npy(vectors)
            if start >= len(fine):
                start -= len(fine)
                continue
            rows = _metadata_blocks(metadata, start)
            for at in range(start, len(fine), BLOCK):
                block = as_vectors(str(vectors), fine[at : at + BLOCK])
                found = next(rows)
                numbers = range(at, at + len(block))
                names = [f"{vectors.stem}:{row}" for row in numbers]
                ids: list[Id] = [
                    str(values.get("image_path") or name)
                    for values, name in zip(found, names, strict=True)
                ]
                places = [f"{vectors}, row {row}" for row in numbers]
                yield finite(Embeddings(None, block), ids, places, [_described(v) for v in found])
            start = 0

    @cached_property
    def _pairs(self) -> list[tuple[Path, Path]]:
        """Files of vectors with those of metadata, by the number in their names."""
        numbered = {
            folder: {
                int(number[0]): file
                for file in (self.path / folder).glob(f"*{suffix}")
                if (number := re.findall(r"\d+", file.stem))
            }
            for folder, suffix in (("img_emb", ".npy"), ("metadata", ".parquet"))
        }
        vectors, metadata = numbered.values()
        if not vectors or vectors.keys() != metadata.keys():
            raise DatasetError(
                f"{self.path}: img_emb/img_emb_N.npy and metadata/metadata_N.parquet of the same numbers expected, "
                f"got {sorted(vectors)} and {sorted(metadata)}."
            )
        return [(vectors[number], metadata[number]) for number in sorted(vectors)]


def finite(vectors: Embeddings, ids: list[Id], places: list[str], metadata: list[Metadata]) -> Part:
    """A part of these rows, less those that hold NaN or inf, which it lists."""
    good = vectors.fine.isfinite().all(dim=1)
    coarse = vectors.coarse
    if coarse is not None:
        good &= coarse.isfinite().all(dim=1)
    if good.all():
        return Part(len(ids), ids, vectors, metadata, places=places)
    kept = good.nonzero().flatten().tolist()
    lost = (~good).nonzero().flatten().tolist()
    return Part(
        len(ids),
        [ids[row] for row in kept],
        Embeddings(None if coarse is None else coarse[kept], vectors.fine[kept]),
        [metadata[row] for row in kept],
        [Skip(ids[row], places[row], "finite values expected, got NaN or inf") for row in lost],
        places=[places[row] for row in kept],
    )


def normalized(vectors: Embeddings) -> Embeddings:
    """Both scaled to unit length."""
    coarse = vectors.coarse
    return Embeddings(
        None if coarse is None else F.normalize(coarse.float(), dim=1),
        F.normalize(vectors.fine.float(), dim=1),
    )


def _read(table: Any, start: int, end: int) -> torch.Tensor | None:
    return None if table is None else as_vectors("coarse", table[start:end])


def _npy(file: Path) -> Any:
    array = map_npy(file)
    _check_rank(file, array)
    return array


def _check_rank(file: Path, table: Any) -> None:
    if len(table.shape) != 2 or not table.shape[1]:
        raise DatasetError(f"{file}: vectors of shape [N, D] expected, got {list(table.shape)}.")


def _opened(file: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise MissingPackage.of("pyarrow", "evaluate", "Reading Parquet") from None
    try:
        check_regular(file)
        return ParquetFile(file)
    except (OSError, ArrowException) as error:
        raise DatasetError(f"{file}: metadata in Parquet expected, got {error}.") from None


def _metadata_blocks(file: Path, start: int) -> Iterator[list[dict[str, Any]]]:
    """The rows from `start` on, `BLOCK` at a time, whatever the file's row groups."""
    held: list[dict[str, Any]] = []
    with _opened(file) as opened:
        for batch in opened.iter_batches(BLOCK):
            held += python_rows(batch.slice(start))
            start = max(start - len(batch), 0)
            while len(held) >= BLOCK:
                yield held[:BLOCK]
                held = held[BLOCK:]
    if held:
        yield held


def _described(values: dict[str, Any]) -> Metadata:
    captions = captions_of(values)
    named = {n: v for n, v in values.items() if n not in ("image_path", "caption", "captions")}
    return plain(named) | ({"captions": captions} if captions else {})
