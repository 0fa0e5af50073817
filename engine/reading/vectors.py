"""Vectors made elsewhere: `.npy`, `.safetensors`, and folders as clip-retrieval writes them.

Only headers are read at first, then a block of rows at a time.
"""

import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.reading.parquet import opened_parquet, parquet_rows
from engine.reading.records import Fault
from engine.system.files import check_regular
from engine.system.forks import cached_property

BLOCK = 8192  # rows read at a time
NAMES = ("image", "text", "image_coarse", "text_coarse")  # of files in a folder


@dataclass(frozen=True)
class Table:
    """An array in a file. `table[start:end]` are rows of it: an array, or a tensor of a safetensors file."""

    file: Path
    rows: Any
    shape: tuple[int, ...]

    @property
    def dim(self) -> int:
        return self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Any:
        return self.rows[rows]

    def checked(self) -> "Table":
        """Itself; DatasetError where it is not vectors, `[N, D]`."""
        if len(self.shape) != 2 or not self.dim:
            fault = Fault("vectors of shape [N, D]", f"{list(self.shape)}", "Save them like that.")
            raise fault.at(self.file)
        return self


def vector_tables(path: Path, names: Sequence[str] = NAMES) -> dict[str, Table]:
    """What is in a `.npy` file, by its own name; in a `.safetensors` file; or in NAME.npy of a folder, for `names`.

    Raises DatasetError where a file is damaged.
    """
    if path.suffix.lower() == ".npy":
        return {path.stem: _npy(path)}
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    files = {name: path / f"{name}.npy" for name in names}
    return {name: _npy(file) for name, file in files.items() if file.is_file()}


def _npy(file: Path) -> Table:
    """Mapped: nothing is allocated for what its header claims."""
    try:
        check_regular(file)
        with np.errstate(over="ignore"):  # of a shape that nothing could hold; it is refused
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    # numpy parses the header as Python
    except (
        *(OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError),
        *(TypeError, OverflowError, RecursionError, MemoryError),
    ) as error:
        fault = Fault("an array of floats in .npy", str(error), "Write it with numpy.save.")
        raise fault.at(file) from None
    return Table(file, array, array.shape)


def _safetensors(file: Path) -> dict[str, Table]:
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(file)
        opened = safe_open(file, framework="pt")
        names = list(opened.keys())  # type: ignore[no-untyped-call]
        slices = {name: opened.get_slice(name) for name in names}  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        fault = Fault("vectors in safetensors", str(error), "Copy the file again.")
        raise fault.at(file) from None
    return {name: Table(file, held, tuple(held.get_shape())) for name, held in slices.items()}


@dataclass(frozen=True)
class Described:
    """Vectors `[n, D]` that stand together in `file`, from row `start` on, and what is said of each."""

    file: Path
    start: int
    vectors: Any
    values: list[dict[str, Any]]


@dataclass(frozen=True)
class ClipRetrieval:
    """The folder that clip-retrieval's `inference` writes: `img_emb/*.npy` beside `metadata/*.parquet`."""

    path: Path

    @property
    def dim(self) -> int:
        return _npy(self.files[0][0]).checked().dim

    @cached_property
    def files(self) -> list[tuple[Path, Path]]:
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
            fault = Fault(
                "img_emb/img_emb_N.npy and metadata/metadata_N.parquet of the same numbers",
                f"{sorted(vectors)} and {sorted(metadata)}",
                "Add the files that lack.",
            )
            raise fault.at(self.path)
        return [(vectors[number], metadata[number]) for number in sorted(vectors)]

    def count(self) -> int:
        """How many vectors there are; DatasetError where a file of metadata has more or fewer rows."""
        count = 0
        for vectors, metadata in self.files:
            rows = len(_npy(vectors).checked())
            with opened_parquet(metadata) as opened:
                found = opened.metadata.num_rows
            if found != rows:
                fault = Fault(f"{rows:,} rows, one a vector", f"{found:,}", "Write them anew.")
                raise fault.at(metadata)
            count += rows
        return count

    def blocks(self, start: int) -> Iterator[Described]:
        """The vectors from number `start` on, at most `BLOCK` at a time, file after file by number."""
        for file, metadata in self.files:
            table = _npy(file).checked()
            if start >= len(table):
                start -= len(table)
                continue
            rows = parquet_rows(metadata, start, most=BLOCK)
            for at in range(start, len(table), BLOCK):
                vectors = table[at : at + BLOCK]
                values: list[dict[str, Any]] = []
                for found in islice(rows, len(vectors)):
                    if isinstance(found, Fault):
                        raise found.at(f"{metadata}, row {at + len(values) + 1}")
                    values.append(found)
                yield Described(file, at, vectors, values)
            start = 0
