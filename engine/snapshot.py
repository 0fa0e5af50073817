"""`Snapshot`: an index with its vectors on the search device. A search reads one; a change swaps in another."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.embeddings import Embeddings
from engine.errors import InvalidArgument
from engine.index import Index
from engine.reduction import SETTLED, learn_reduction

NORMS_AT_A_TIME = 1 << 16  # items


@dataclass(frozen=True, eq=False)
class Snapshot:
    """coarse `[N, d]`, fine `[N, D]`, reduction `[D, d]` or None: those of `index`, as tensors.

    live: bool `[N]`, which rows are not deleted; None where all are there.
    """

    index: Index
    coarse: Tensor
    fine: Tensor
    reduction: Tensor | None
    live: Tensor | None

    @classmethod
    def of(cls, index: Index, device: torch.device) -> "Snapshot":
        reduction = index.reduction
        return cls(
            index,
            torch.from_numpy(index.coarse).to(device),
            torch.from_numpy(index.fine).to(device),
            None if reduction is None else torch.from_numpy(reduction).to(device),
            None if index.live is None else torch.from_numpy(index.live).to(device),
        )

    @cached_property
    def coarse_norm(self) -> float | None:
        """No coarse vector is longer: `coarse_topk`'s promise, None where it has no use for one."""
        if self.coarse.is_cuda:
            return None
        parts = self.coarse.split(NORMS_AT_A_TIME)
        longest = [torch.linalg.vector_norm(part.float(), dim=1).max() for part in parts]
        return float(torch.stack(longest).max()) * 1.01 if len(self.coarse) else 0.0

    def visible(self, mask: Tensor | None) -> Tensor | None:
        """bool `[N]` or `[B, N]` on the device: what `mask` allows and is not deleted; None = everything."""
        if mask is None:
            return self.live
        mask = mask.to(self.coarse.device)
        return mask if self.live is None else mask & self.live

    @property
    def learns(self) -> bool:
        """Whether the next items may still change the reduction: the index made it, and is small."""
        own = self.index.checkpoint is not None and self.reduction is not None
        return own and len(self.index) < SETTLED

    def learned_with(self, fine: Tensor) -> "Snapshot":
        """This snapshot, its reduction learned from its items and from `fine` `[B, D]`, which may follow."""
        reduction = learn_reduction(
            torch.cat([self.fine.cpu().float(), fine.cpu().float()]), self.coarse.shape[1]
        )
        return Snapshot.of(self.index.reduced(reduction.numpy()), self.fine.device)

    def project(self, vectors: Embeddings, *, coarse_too: bool) -> Embeddings:
        """`vectors` as the index stores its items: its scale, dtype and device, checked after the cast.

        Coarse vectors that are wanted and were not given come from the index's reduction.
        """
        coarse, fine = vectors.coarse, vectors.fine
        if not len(fine):  # an empty batch has no dims of its own
            return Embeddings(self.coarse[:0], self.fine[:0])
        _check_dims("batch", fine, self.fine)
        if self.index.normalize:
            fine = F.normalize(fine, dim=1)
            coarse = None if coarse is None else F.normalize(coarse, dim=1)
        fine = fine.to(self.fine.device, self.fine.dtype)
        _check_finite("batch", fine)
        if not coarse_too:
            return Embeddings(None, fine)
        if coarse is None and self.reduction is not None:
            coarse = fine.float() @ self.reduction
        if coarse is None:
            raise InvalidArgument(
                "batch",
                expected="coarse and fine vectors, as this index has no reduction from fine to coarse",
                got="fine vectors only",
                remedy='Pass engine.Embeddings(coarse, fine), or search with mode="exact".',
            )
        _check_dims("batch.coarse", coarse, self.coarse)
        if len(coarse) != len(fine):
            raise InvalidArgument(
                "batch.coarse",
                expected=f"as many rows as batch.fine ({len(fine)})",
                got=f"{len(coarse)}",
                remedy="Give both vectors of the same queries.",
            )
        coarse = coarse.to(self.coarse.device, self.coarse.dtype)
        _check_finite("batch.coarse", coarse)
        return Embeddings(coarse, fine)


def _check_dims(name: str, vectors: Tensor, items: Tensor) -> None:
    if vectors.shape[1] != items.shape[1]:
        raise InvalidArgument(
            name,
            expected=f"vectors of {items.shape[1]} dims, as the index has",
            got=f"{vectors.shape[1]} dims",
            remedy="Encode them with the encoder that made the index.",
        )


def _check_finite(name: str, vectors: Tensor) -> None:
    bad = ~vectors.isfinite().all(dim=1)
    if bad.any():
        raise InvalidArgument(
            name,
            expected=f"finite values once stored as {str(vectors.dtype).removeprefix('torch.')}",
            got=f"NaN or inf in row {int(bad.int().argmax())}",
            remedy="Mend or leave out that row.",
        )
