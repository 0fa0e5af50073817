"""`Projection`: vectors as an index stores its own; coarse ones are made where none were given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import isfinite

import torch
from torch import Tensor

from engine.coarse.reduction import reduced
from engine.embeddings import Embeddings, unit
from engine.errors import InvalidArgument
from engine.index.manifest import Header


@dataclass(frozen=True, eq=False)
class Projection:
    """Into the vectors of an index with `header` on `device`; reduction: float32 `[D, d]` there, or None."""

    header: Header
    reduction: Tensor | None
    device: torch.device

    def queries(
        self, vectors: Embeddings, *, coarse_too: bool = True, check: bool = True
    ) -> Embeddings:
        """Of queries `[B, D]`; where the index holds int8, coarse ones are float32 here.

        coarse_too: coarse vectors are wanted; those that were not given come from the index's reduction.
        check: that all are finite once cast, which waits for a GPU.
        """

        def derived(fine: Tensor, reduction: Tensor) -> Tensor:
            return fine.float() @ reduction

        return self._projected(vectors, derived, coarse_too, check)

    def items(self, vectors: Embeddings) -> Embeddings:
        """Of items `[N, D]`, checked; coarse vectors that were not given are stretched to the fine ones' length."""
        return self._projected(vectors, reduced, True, True)

    def samples(self, count: int) -> Embeddings:
        """`count` random queries, the same each time; zeros would tie with every item."""
        chance = torch.Generator().manual_seed(0)
        dims = self.header.coarse_dim, self.header.fine_dim
        return Embeddings(*(torch.randn(count, dim, generator=chance) for dim in dims))

    def _projected(
        self,
        vectors: Embeddings,
        derive: Callable[[Tensor, Tensor], Tensor],
        coarse_too: bool,
        check: bool,
    ) -> Embeddings:
        coarse, fine, head = vectors.coarse, vectors.fine, self.header
        coarse_dtype = getattr(torch, "float32" if head.quantization else head.coarse_dtype)
        fine_dtype = getattr(torch, head.fine_dtype)
        if not len(fine):  # an empty batch has no dims of its own
            return Embeddings(
                torch.empty(0, head.coarse_dim, dtype=coarse_dtype, device=self.device),
                torch.empty(0, head.fine_dim, dtype=fine_dtype, device=self.device),
            )
        _check_dims("batch", fine, head.fine_dim)
        if head.normalize:
            fine = unit(fine)
            coarse = None if coarse is None else unit(coarse)
        fine = fine.to(self.device, fine_dtype)
        if not coarse_too:
            return check_finite(Embeddings(None, fine)) if check else Embeddings(None, fine)
        derived = coarse is None and self.reduction is not None
        if coarse is None and self.reduction is not None:
            coarse = derive(fine, self.reduction)
        if coarse is None:
            raise InvalidArgument(
                "batch",
                expected="coarse and fine vectors, as this index has no reduction from fine to coarse",
                got="fine vectors only",
                remedy='Pass engine.Embeddings(coarse, fine), or search with mode="exact".',
            )
        _check_dims("batch.coarse", coarse, head.coarse_dim)
        if len(coarse) != len(fine):
            raise InvalidArgument(
                "batch.coarse",
                expected=f"as many rows as batch.fine ({len(fine)})",
                got=f"{len(coarse)}",
                remedy="Give both vectors of the same queries.",
            )
        projected = Embeddings(coarse.to(self.device, coarse_dtype), fine)
        return check_finite(projected, derived=derived) if check else projected


def check_finite(vectors: Embeddings, *, derived: bool = False) -> Embeddings:
    """`vectors`, if no NaN or inf is in them; else InvalidArgument. Waits for a GPU.

    derived: the coarse ones come from the fine ones, and hold what NaN and inf those do.
    """
    fine, coarse = vectors.fine, vectors.coarse
    if not _surely_finite(
        *(part for part in (coarse, None if derived else fine) if part is not None)
    ):
        _check_finite("batch", fine)
        if coarse is not None:
            _check_finite("batch.coarse", coarse)
    return vectors


def _check_dims(name: str, vectors: Tensor, dims: int) -> None:
    if vectors.shape[1] != dims:
        raise InvalidArgument(
            name,
            expected=f"vectors of {dims} dims, as the index has",
            got=f"{vectors.shape[1]} dims",
            remedy="Encode them with the encoder that made the index.",
        )


def _check_finite(name: str, vectors: Tensor) -> None:
    if _surely_finite(vectors):
        return
    bad = ~vectors.isfinite().all(dim=1)
    if bad.any():
        raise InvalidArgument(
            name,
            expected=f"finite values once stored as {str(vectors.dtype).removeprefix('torch.')}",
            got=f"NaN or inf in row {int(bad.int().argmax())}",
            remedy="Mend or leave out that row.",
        )


def _surely_finite(*vectors: Tensor) -> bool:
    """A sum is finite only if all its terms are: the quick way to know of most batches."""
    return isfinite(float(reduce(torch.add, (part.sum(dtype=torch.float32) for part in vectors))))
