"""From what users search with (text, images, vectors, a mix of them) to one batch of embeddings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checks import Column, check_list
from engine.embeddings import Embeddings
from engine.encoders import CHUNK, Encoder, encode_all
from engine.errors import ImageError, InvalidArgument
from engine.images import is_image, read_image
from engine.queries.query import Query, weighted_sum
from engine.queries.texts import checked_text
from engine.result import Failures

if TYPE_CHECKING:
    from PIL.Image import Image

# What `Retriever.search` accepts; its docstring says what each is.
One: TypeAlias = Union[str, bytes, Path, Query, "Image"]
Several: TypeAlias = Sequence[One | Tensor | NDArray[Any]] | Column
Batch: TypeAlias = One | Embeddings | Tensor | NDArray[Any] | Several

EXPECTED = (
    "text (str), an image (PIL.Image, Path or encoded bytes), engine.Query, a list of these, "
    "fine embeddings [B, D], or engine.Embeddings(coarse, fine)"
)


def embed(
    batch: Batch,
    open_encoder: Callable[[], Encoder],
    *,
    encoders_coarse: bool = True,
    failed: Failures | None = None,
) -> Embeddings:
    """Vectors float `[B, D]` of every query, and coarse ones `[B, d]` where they are known.

    `open_encoder` is called only if there is something to encode. `encoders_coarse` is false for an index with a
    reduction: an encoder's coarse vectors are no coordinates there. Raises InvalidArgument naming the query; into
    `failed`, where it is given, goes what is wrong with single ones, and only the others have vectors.
    """
    if isinstance(batch, Embeddings):
        coarse = None if batch.coarse is None else as_vectors("batch.coarse", batch.coarse)
        return _finite_ones(Embeddings(coarse, as_vectors("batch.fine", batch.fine)), failed)
    if isinstance(batch, (Tensor, np.ndarray)) and not _holds_text(batch):
        return _finite_ones(Embeddings(None, as_vectors("batch", batch)), failed)
    is_one = isinstance(batch, (str, bytes, Path, Query)) or is_image(batch)
    queries = [batch] if is_one else check_list("batch", batch, expected=EXPECTED)
    return _embed_list(queries, open_encoder, encoders_coarse, failed)


def _holds_text(batch: Any) -> bool:
    """Whether an array is one of strings, of NumPy's own kinds or Python's."""
    if not isinstance(batch, np.ndarray) or batch.ndim != 1:
        return False
    return batch.dtype.kind in "UT" or (
        batch.dtype.kind == "O" and all(isinstance(entry, str) for entry in batch[:1])
    )


def _finite_ones(vectors: Embeddings, failed: Failures | None) -> Embeddings:
    """`vectors`, less those that hold NaN or inf where somebody asks for them in `failed`; else later checks do."""
    if failed is None:
        return vectors
    good = vectors.fine.isfinite().all(dim=1)
    if vectors.coarse is not None and len(vectors.coarse) == len(good):
        good &= vectors.coarse.isfinite().all(dim=1)
    for place in (~good).nonzero()[:, 0].tolist():
        failed[place] = _no_number(place)
    coarse = None if vectors.coarse is None else vectors.coarse[good]
    return Embeddings(coarse, vectors.fine[good]) if failed else vectors


Placed: TypeAlias = tuple[
    int, float, Any
]  # the place in the batch, the weight there, and what is there


@dataclass
class _Sorted:
    """What is to be encoded together, each with its place in the batch and its weight there."""

    texts: list[Placed] = field(default_factory=list)
    images: list[Placed] = field(default_factory=list)
    vectors: list[tuple[int, float, Tensor]] = field(default_factory=list)

    def put(self, place: int, query: Any, weight: float = 1.0) -> None:
        """Raises InvalidArgument for what is no query."""
        if isinstance(query, Query):
            if query.text is not None:
                text = checked_text(f"batch[{place}]", query.text, forced=True)
                self.texts.append((place, query.weights[0], text))
            if query.image is not None:
                self.put(place, query.image, query.weights[1])
        elif isinstance(query, str):
            self.texts.append((place, weight, checked_text(f"batch[{place}]", query)))
        elif isinstance(query, (bytes, Path)) or is_image(query):
            self.images.append((place, weight, query))
        elif isinstance(query, (Tensor, np.ndarray)) and query.ndim == 1:
            vector = as_vectors(f"batch[{place}]", query)[0]
            if not bool(vector.isfinite().all()):
                raise _no_number(place)
            self.vectors.append((place, weight, vector))
        else:
            raise InvalidArgument(
                f"batch[{place}]",
                expected="str, PIL.Image, Path, encoded bytes, engine.Query, or a fine embedding [D]",
                got=type(query).__name__,
                remedy="A batch of vectors is one array [B, D], not a list of lists.",
            )


def _no_number(place: int) -> InvalidArgument:
    return InvalidArgument(
        f"batch[{place}]",
        expected="finite values",
        got="NaN or inf",
        remedy="Mend or leave out that query.",
    )


@dataclass(frozen=True)
class _Encoded:
    """Vectors, and of each the place in the batch and the weight there."""

    places: list[int]
    weights: list[float]
    vectors: Embeddings


def _embed_list(
    batch: Sequence[Any],
    open_encoder: Callable[[], Encoder],
    encoders_coarse: bool,
    failed: Failures | None,
) -> Embeddings:
    """Encode texts together and images together, then put every vector back in its query's place."""
    found = _Sorted()
    for place, query in enumerate(batch):
        with _failing(place, failed):
            found.put(place, query)
    parts: list[_Encoded] = []
    if found.vectors:
        places, weights, vectors = map(list, zip(*found.vectors, strict=True))
        widths = {len(vector) for vector in vectors}
        if len(widths) > 1:
            raise InvalidArgument(
                "batch",
                expected="embeddings of one length",
                got=f"lengths {sorted(widths)}",
                remedy="Give each query the index's fine dims.",
            )
        parts.append(_Encoded(places, weights, Embeddings(None, torch.stack(vectors))))
    images = [found.images] if failed is None else _readable(found.images, failed)
    for encodable in (found.texts, *images):
        if encodable:
            places, weights, items = map(list, zip(*encodable, strict=True))
            encoded = encode_all(open_encoder(), items)
            if not encoders_coarse:
                encoded = Embeddings(None, encoded.fine)
            parts.append(_Encoded(places, weights, encoded))
    if not parts:
        return Embeddings(None, torch.empty(0, 0))
    combined = {p for p, query in enumerate(batch) if isinstance(query, Query)}
    return _summed(parts, combined, failed)


def _readable(images: list[Placed], failed: Failures) -> Iterator[list[Placed]]:
    """The images, read, as many at a time as are encoded together; those that cannot be read go into `failed`."""
    for start in range(0, len(images), CHUNK):
        read = []
        for place, weight, image in images[start : start + CHUNK]:
            with _failing(place, failed):
                read.append((place, weight, read_image(image)))
        yield read


@contextmanager
def _failing(place: int, failed: Failures | None) -> Iterator[None]:
    """What is wrong with one query goes into `failed`, where it is given; what cannot run here is raised."""
    try:
        yield
    except (InvalidArgument, ImageError) as error:
        if failed is None:
            raise
        failed[place] = error


def _summed(
    parts: list[_Encoded], combined: set[int], failed: Failures | None = None
) -> Embeddings:
    """A vector for each place, in order: its own, or the weighted sum of several where it is `combined`."""
    places = torch.tensor([place for part in parts for place in part.places])
    weights = torch.tensor([float(weight) for part in parts for weight in part.weights])
    order = places.argsort(stable=True)
    places, weights = places[order], weights[order]
    widths = {part.vectors.fine.shape[1] for part in parts}
    if len(widths) > 1:
        raise InvalidArgument(
            "batch",
            expected="embeddings as long as the encoder's",
            got=f"lengths {sorted(widths)}",
            remedy="Give vectors of this index's own encoder.",
        )

    asked = places.unique().tolist()  # ascending

    def joined(tensors: list[Tensor], fine: bool) -> Tensor:
        rows = torch.cat(tensors)[order]
        if not combined:
            return rows
        whole = []
        for place in asked:
            own = places == place
            whole.append(rows[own][0])
            if place in combined:
                with _failing(place, failed):
                    whole[-1] = weighted_sum(rows[own], weights[own], fine=fine)
        return torch.stack(whole)

    fine = joined([part.vectors.fine.float() for part in parts], True)
    parts_coarse = [part.vectors.coarse for part in parts]
    known = [part for part in parts_coarse if part is not None]
    # Where one lacks coarse vectors, the index derives them all by its reduction.
    coarse = joined(known, False) if len(known) == len(parts) else None
    if failed:
        good = torch.tensor([place not in failed for place in asked])
        fine, coarse = fine[good], None if coarse is None else coarse[good]
    return Embeddings(coarse, fine)


def as_vectors(name: str, vectors: Any) -> Tensor:
    """A float tensor `[B, D]` of an array or tensor `[B, D]` or `[D]`; float16 and float32 stay as they are."""
    if not isinstance(vectors, (Tensor, np.ndarray)):
        raise InvalidArgument(
            name,
            expected="a tensor or array [B, D]",
            got=type(vectors).__name__,
            remedy="Convert it with numpy.asarray(…, dtype=numpy.float32).",
        )
    if isinstance(vectors, np.ndarray) and vectors.dtype.kind not in "fiu":
        raise InvalidArgument(
            name,
            expected="real numbers",
            got=f"dtype {vectors.dtype}",
            remedy="Convert it to float32.",
        )
    if isinstance(vectors, np.ndarray):
        if np.ma.is_masked(vectors):
            raise InvalidArgument(
                name,
                expected="all values",
                got="masked ones",
                remedy="Fill or leave out their rows.",
            )
        # Torch knows neither another byte order nor longer numbers. np.array copies: a read-only or negatively
        # strided array cannot be shared.
        wide = vectors.dtype.kind == "f" and vectors.dtype.itemsize > 8
        dtype = np.dtype(np.float64) if wide else vectors.dtype.newbyteorder("=")
        tensor = torch.from_numpy(np.array(vectors, dtype=dtype))
    else:
        tensor = vectors
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.is_quantized:
        raise InvalidArgument(
            name, expected="real numbers", got=str(tensor.dtype), remedy="Convert it to float32."
        )
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        raise InvalidArgument(
            name,
            expected="a dense tensor that holds values",
            got="one that is nested" if tensor.is_nested else f"{tensor.layout} on {tensor.device}",
            remedy="Convert it with .to_dense(), or pad it.",
        )
    if tensor.ndim == 1:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim != 2:
        raise InvalidArgument(
            name,
            expected="shape [B, D]",
            got=f"shape {list(tensor.shape)}",
            remedy="Give one row per query.",
        )
    if tensor.dtype not in (torch.float16, torch.float32):
        tensor = tensor.float()
    return tensor.detach()
