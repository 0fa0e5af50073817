"""From what users search with (text, images, vectors, a mix of them) to one batch of embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.encoders import Encoder, encode_all
from engine.errors import InvalidArgument
from engine.images import is_image
from engine.query import Query, weighted_sum

Batch: TypeAlias = Any  # what `Retriever.search` accepts; its docstring lists the kinds

EXPECTED = (
    "text (str), an image (PIL.Image, Path or encoded bytes), engine.Query, a list of these, "
    "fine embeddings [B, D], or engine.Embeddings(coarse, fine)"
)


def embed(
    batch: Batch, open_encoder: Callable[[], Encoder], *, encoders_coarse: bool = True
) -> Embeddings:
    """Vectors float `[B, D]` of every query, and coarse ones `[B, d]` where they are known.

    `open_encoder` is called only if there is something to encode. `encoders_coarse` is false for an index with a
    reduction: an encoder's coarse vectors are no coordinates there. Raises InvalidArgument naming the query.
    """
    if isinstance(batch, Embeddings):
        coarse = None if batch.coarse is None else as_vectors("batch.coarse", batch.coarse)
        return Embeddings(coarse, as_vectors("batch.fine", batch.fine))
    if isinstance(batch, (Tensor, np.ndarray)):
        return Embeddings(None, as_vectors("batch", batch))
    if isinstance(batch, (str, bytes, Path, Query)) or is_image(batch):
        batch = [batch]
    if not isinstance(batch, Sequence):
        raise InvalidArgument(
            "batch",
            expected=EXPECTED,
            got=type(batch).__name__,
            remedy="Put the queries in a list.",
        )
    return _embed_list(batch, open_encoder, encoders_coarse)


@dataclass
class _Sorted:
    """What is to be encoded together, each with its place in the batch and its weight there."""

    texts: list[tuple[int, float, str]] = field(default_factory=list)
    images: list[tuple[int, float, Any]] = field(default_factory=list)
    vectors: list[tuple[int, float, Tensor]] = field(default_factory=list)

    def put(self, place: int, query: Any, weight: float = 1.0) -> None:
        """Raises InvalidArgument for what is no query."""
        if isinstance(query, Query):
            for part, share in zip((query.text, query.image), query.weights, strict=True):
                if part is not None:
                    self.put(place, part, share)
        elif isinstance(query, str):
            self.texts.append((place, weight, _checked_text(place, query)))
        elif isinstance(query, (bytes, Path)) or is_image(query):
            self.images.append((place, weight, query))
        elif isinstance(query, (Tensor, np.ndarray)) and query.ndim == 1:
            self.vectors.append((place, weight, as_vectors(f"batch[{place}]", query)[0]))
        else:
            raise InvalidArgument(
                f"batch[{place}]",
                expected="str, PIL.Image, Path, encoded bytes, engine.Query, or a fine embedding [D]",
                got=type(query).__name__,
                remedy="A batch of vectors is one array [B, D], not a list of lists.",
            )


@dataclass(frozen=True)
class _Encoded:
    """Vectors, and of each the place in the batch and the weight there."""

    places: list[int]
    weights: list[float]
    vectors: Embeddings


def _embed_list(
    batch: Sequence[Any], open_encoder: Callable[[], Encoder], encoders_coarse: bool
) -> Embeddings:
    """Encode texts together and images together, then put every vector back in its query's place."""
    found = _Sorted()
    for place, query in enumerate(batch):
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
    for encodable in (found.texts, found.images):
        if encodable:
            places, weights, items = map(list, zip(*encodable, strict=True))
            encoded = encode_all(open_encoder(), items)
            if not encoders_coarse:
                encoded = Embeddings(None, encoded.fine)
            parts.append(_Encoded(places, weights, encoded))
    if not parts:
        return Embeddings(None, torch.empty(0, 0))
    return _summed(parts, {p for p, query in enumerate(batch) if isinstance(query, Query)})


def _summed(parts: list[_Encoded], combined: set[int]) -> Embeddings:
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

    def joined(tensors: list[Tensor], fine: bool) -> Tensor:
        rows = torch.cat(tensors)[order]
        if not combined:
            return rows
        groups = ((place, places == place) for place in range(int(places[-1]) + 1))
        return torch.stack(
            [
                weighted_sum(rows[own], weights[own], fine=fine)
                if place in combined
                else rows[own][0]
                for place, own in groups
            ]
        )

    fine = joined([part.vectors.fine.float() for part in parts], True)
    coarse = [part.vectors.coarse for part in parts]
    if any(part is None for part in coarse):
        return Embeddings(None, fine)  # the index derives them all by its reduction
    return Embeddings(joined([part for part in coarse if part is not None], False), fine)


def _checked_text(place: int, text: str) -> str:
    if not text.strip():
        raise InvalidArgument(
            f"batch[{place}]",
            expected="words to search for",
            got=repr(text),
            remedy="Leave it out.",
        )
    return text


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
    # np.array copies: a read-only or negatively strided array cannot be shared with torch.
    tensor = torch.from_numpy(np.array(vectors)) if isinstance(vectors, np.ndarray) else vectors
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise InvalidArgument(
            name, expected="real numbers", got=str(tensor.dtype), remedy="Convert it to float32."
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
