"""From what users search with (text, images, vectors, a mix of them) to one batch of embeddings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.encoders import Encoder, encode_all
from engine.errors import InvalidArgument
from engine.images import is_image

Batch: TypeAlias = Any  # what `Retriever.search` accepts; its docstring lists the kinds

EXPECTED = (
    "text (str), an image (PIL.Image, Path or encoded bytes), a list of these, fine embeddings [B, D], "
    "or engine.Embeddings(coarse, fine)"
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
    if isinstance(batch, (str, bytes, Path)) or is_image(batch):
        batch = [batch]
    if not isinstance(batch, Sequence):
        raise InvalidArgument(
            "batch",
            expected=EXPECTED,
            got=type(batch).__name__,
            remedy="Put the queries in a list.",
        )
    return _embed_list(batch, open_encoder, encoders_coarse)


def _embed_list(
    batch: Sequence[Any], open_encoder: Callable[[], Encoder], encoders_coarse: bool
) -> Embeddings:
    """Encode texts together and images together, then put every vector back in its query's place."""
    texts: dict[int, Any] = {}
    images: dict[int, Any] = {}
    vectors: dict[int, Tensor] = {}
    for place, query in enumerate(batch):
        if isinstance(query, str):
            texts[place] = _checked_text(place, query)
        elif isinstance(query, (bytes, Path)) or is_image(query):
            images[place] = query
        elif isinstance(query, (Tensor, np.ndarray)) and query.ndim == 1:
            vectors[place] = as_vectors(f"batch[{place}]", query)[0]
        else:
            raise InvalidArgument(
                f"batch[{place}]",
                expected="str, PIL.Image, Path, encoded bytes, or a fine embedding [D]",
                got=type(query).__name__,
                remedy="A batch of vectors is one array [B, D], not a list of lists.",
            )
    parts: list[tuple[list[int], Embeddings]] = []
    if vectors:
        widths = {len(vector) for vector in vectors.values()}
        if len(widths) > 1:
            raise InvalidArgument(
                "batch",
                expected="embeddings of one length",
                got=f"lengths {sorted(widths)}",
                remedy="Give each query the index's fine dims.",
            )
        parts.append((list(vectors), Embeddings(None, torch.stack(list(vectors.values())))))
    for encodable in (texts, images):
        if encodable:
            encoded = encode_all(open_encoder(), list(encodable.values()))
            if not encoders_coarse:
                encoded = Embeddings(None, encoded.fine)
            parts.append((list(encodable), encoded))
    if not parts:
        return Embeddings(None, torch.empty(0, 0))
    return _interleaved(parts)


def _interleaved(parts: list[tuple[list[int], Embeddings]]) -> Embeddings:
    order = torch.tensor([place for places, _ in parts for place in places]).argsort()
    widths = {part.fine.shape[1] for _, part in parts}
    if len(widths) > 1:
        raise InvalidArgument(
            "batch",
            expected="embeddings as long as the encoder's",
            got=f"lengths {sorted(widths)}",
            remedy="Give vectors of this index's own encoder.",
        )
    fine = torch.cat([part.fine.float() for _, part in parts])[order]
    coarse = [part.coarse for _, part in parts]
    if any(part is None for part in coarse):
        return Embeddings(None, fine)  # the index derives them all by its reduction
    return Embeddings(torch.cat([part for part in coarse if part is not None])[order], fine)


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
