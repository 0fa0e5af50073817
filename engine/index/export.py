"""The vectors of an index in files of other tools: NumPy, Parquet, FAISS."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidArgument, MissingPackage, storing
from engine.index.index import Index

AT_A_TIME = 8192  # rows


def export_vectors(index: Index, output: Path, which: Literal["fine", "coarse"] = "fine") -> int:
    """Write the vectors `which` of all items to `output`, which must not be there: `.npy`, `.parquet`, `.faiss`.

    float16 stays so in `.npy`; bfloat16 and int8 become float32 of their values, int8's offset included. `.parquet`
    has the columns "id", "vector" and "metadata" (JSON). `.faiss` is an IndexFlatIP, with the scores of exact
    mode. Beside `.npy` and `.faiss`, `OUTPUT.ids.txt` has an id a line, text as JSON. How many there are.
    """
    writers = {".npy": _npy, ".parquet": _parquet, ".faiss": _faiss}
    write = writers.get(output.suffix.lower())
    if write is None:
        raise InvalidArgument(
            "output",
            expected=f"a file of kind {', '.join(writers)}",
            got=repr(output.suffix or "no suffix"),
            remedy="Name it by one of these suffixes.",
        )
    listing = output.with_name(f"{output.name}.ids.txt")
    for file in (output, listing):
        if file.exists():
            raise InvalidArgument(
                "output",
                expected="a file that is not there yet",
                got=str(file),
                remedy="Remove it, or choose another name.",
            )
    draft = output.with_name(f".{output.name}.draft")
    with storing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(index, draft, which)
            if write is not _parquet:
                with listing.open("x", encoding="utf-8") as stream:
                    for ids, _, _ in _blocks(index, which):
                        stream.writelines(f"{json.dumps(id)}\n" for id in ids)
            draft.replace(output)
        except BaseException:
            listing.unlink(missing_ok=True)
            raise
        finally:
            draft.unlink(missing_ok=True)
    return len(index)


def _blocks(
    index: Index, which: str
) -> Iterator[tuple[list[Any], NDArray[Any], NDArray[np.int64]]]:
    """Ids, vectors and rows of items, some at a time."""
    first = 0
    quantization = index.header.quantization
    for segment in index.segments:
        kept = np.flatnonzero(segment.live())
        for start in range(0, len(kept), AT_A_TIME):
            rows = kept[start : start + AT_A_TIME]
            vectors = np.asarray((segment.fine if which == "fine" else segment.coarse)[rows])
            if vectors.dtype == np.uint16:  # bfloat16: the upper bits of float32
                vectors = (vectors.astype(np.uint32) << 16).view(np.float32)
            elif vectors.dtype == np.int8 and quantization is not None:
                vectors = vectors.astype(np.float32) * np.float32(quantization.scale)
                if quantization.offset:
                    vectors += np.array(quantization.offset, np.float32)
            yield index.ids_at(rows + first), vectors, rows + first
        first += len(segment)


def _width(index: Index, which: str) -> int:
    return index.header.fine_dim if which == "fine" else index.header.coarse_dim


def _npy(index: Index, draft: Path, which: str) -> None:
    half = which == "fine" and index.header.fine_dtype == "float16"
    half = half or (which == "coarse" and index.header.coarse_dtype == "float16")
    dtype = np.float16 if half else np.float32
    shape = (len(index), _width(index, which))
    with draft.open("xb") as stream:
        np.lib.format.write_array_header_1_0(
            stream,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            },
        )
        for _, vectors, _ in _blocks(index, which):
            stream.write(np.ascontiguousarray(vectors, dtype).tobytes())


def _parquet(index: Index, draft: Path, which: str) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingPackage.of("pyarrow", "metadata", "Writing Parquet") from None
    from engine.system.json_values import json_value

    schema = pa.schema(
        [
            ("id", pa.string() if index.holds_strings else pa.int64()),
            ("vector", pa.list_(pa.float32(), _width(index, which))),
            ("metadata", pa.string()),
        ]
    )
    with parquet.ParquetWriter(draft, schema) as writer:
        for ids, vectors, rows in _blocks(index, which):
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
            said = [index.metadata_at(int(row)) for row in rows]
            texts = [None if about is None else json.dumps(json_value(about)) for about in said]
            lists = pa.FixedSizeListArray.from_arrays(flat, _width(index, which))
            writer.write_table(
                pa.table([pa.array(ids), lists, pa.array(texts, pa.string())], schema=schema)
            )


def _faiss(index: Index, draft: Path, which: str) -> None:
    try:
        import faiss
    except ModuleNotFoundError:
        raise MissingPackage.of("faiss-cpu", "bench", "Writing a FAISS index") from None
    flat = faiss.IndexFlatIP(_width(index, which))
    for _, vectors, _ in _blocks(index, which):
        flat.add(np.ascontiguousarray(vectors, np.float32))
    faiss.write_index(flat, str(draft))
