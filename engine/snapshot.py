"""`Snapshot`: an index with its vectors where they are searched. A search reads one; a change swaps in another."""

from dataclasses import dataclass, field
from functools import reduce
from math import isfinite

import torch
from torch import Tensor

from engine.captured import Captured
from engine.embeddings import Embeddings, longest_of, unit
from engine.errors import InvalidArgument
from engine.fine import FineVectors, Tier
from engine.forks import cached_property
from engine.index import Index
from engine.index.mapping import Mapping, mappings_of
from engine.reduction import SETTLED, learn_reduction, reduced
from engine.resident import Resident, as_array
from engine.rounding import queries_to_int8, round_coarse
from kernels import TopK, coarse_topk
from kernels.dispatch import choose_backend


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Of `index`, on the search device: coarse `[N, d]`, the fine vectors, the reduction `[D, d]` or None.

    live: bool `[N]`, which rows are not deleted; None where all are there.
    known_norm: no coarse vector among so many first rows is longer than that.
    captured: by (B, C, k), two-stage searches that are CUDA graphs.
    """

    index: Index
    resident: Resident
    fine: FineVectors
    reduction: Tensor | None
    live: Tensor | None
    known_norm: tuple[int, float] = (0, 0.0)
    captured: dict[tuple[int, int, int], Captured] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        index: Index,
        device: torch.device,
        tier: Tier,
        before: "Snapshot | None" = None,
    ) -> "Snapshot":
        """`before`: a snapshot of what `index` was before a change; the rows of both need not be copied."""
        head = index.header
        same_rows = 0 if before is None else index.rows_shared(before.index)
        resident = Resident.of(
            [segment.coarse for segment in index.segments],
            head.coarse_dim,
            head.coarse_dtype,
            device,
            before=before.resident if before else None,
            same_rows=same_rows,
        )
        fine = before.fine if before else None
        return cls(
            index,
            resident,
            FineVectors.of(index, tier, device, before=fine, same_rows=same_rows),
            None if index.reduction is None else torch.from_numpy(index.reduction).to(device),
            None if index.live is None else torch.from_numpy(index.live).to(device),
            before.norm_so_far if before and resident.begins_with(before.resident) else (0, 0.0),
        )

    @property
    def coarse(self) -> Tensor:
        """`[N, d]` in the stored dtype, on the search device."""
        return self.resident.tensor

    @property
    def norm_so_far(self) -> tuple[int, float]:
        """How many first rows were looked at, and the length that none of them exceeds."""
        looked = "_longest" in self.__dict__
        return self._longest if looked else self.known_norm

    @cached_property
    def _mappings(self) -> tuple[Mapping, ...]:
        """The file of the coarse vectors, where they are searched in place: on a CPU, of one segment."""
        segments = self.index.segments
        in_place = self.coarse.device.type == "cpu" and len(segments) == 1
        return mappings_of([segments[0].coarse]) if in_place else ()

    @cached_property
    def _longest(self) -> tuple[int, float]:
        rows, longest = self.known_norm
        return len(self.coarse), longest_of(self.coarse[rows:], longest)

    def find_candidates(self, queries: Tensor, k: int, mask: Tensor | None, backend: str) -> TopK:
        """The best k rows by the coarse vectors; queries `[B, d]` as `project` makes them.

        Where the index holds int8, scores are products of integers: `scaled` makes coarse scores of them.
        """
        for mapping in self._mappings:
            mapping.check()
        longest = 1.01 * self._longest[1]  # rounding
        max_norm = longest if isfinite(longest) else None
        if self.index.header.quantization is not None:
            queries, _ = queries_to_int8(queries)
        return coarse_topk(queries, self.coarse, k, mask=mask, max_norm=max_norm, backend=backend)

    def scaled(self, queries: Tensor, found: TopK) -> TopK:
        """What `find_candidates` found, with coarse scores."""
        quantization = self.index.header.quantization
        if quantization is None:
            return found
        _, scales = queries_to_int8(queries)
        return TopK(found.scores * scales * quantization.scale, found.rows)

    def capture(self, queries: Embeddings, k: int, candidates: int, backend: str) -> None:
        """Make CUDA graphs of both stages, for two-stage searches of as many queries that no filter narrows.

        queries: any, as `project` makes them. Does nothing without Triton, or where fine vectors lie elsewhere.
        """
        coarse = queries.coarse
        assert coarse is not None
        if not coarse.is_cuda or not len(coarse) or self.fine.tier != "device":
            return
        chosen = choose_backend(backend, candidates, coarse, self.coarse, coarse=True)
        key = len(coarse), candidates, k
        if chosen != "triton" or key in self.captured:
            return
        self.captured[key] = Captured(
            lambda asked: self.find_candidates(asked, candidates, self.live, backend),
            lambda asked, rows: self.fine.rerank(asked, rows, k, backend),
            queries,
        )

    def visible(self, mask: Tensor | None) -> Tensor | None:
        """bool `[N]` or `[B, N]` on the device: what `mask` allows and is not deleted; None = everything."""
        if mask is None:
            return self.live
        mask = mask.to(self.coarse.device)
        return mask if self.live is None else mask & self.live

    def learns_from(self, count: int) -> bool:
        """Whether so many items more change the reduction: the index made it, is small, and passes a power of two.

        So what it was learned from is more than half of the items, and pictures that come one at a time, of which
        each would make it anew, are quickly added. The numbers alone decide: opening the index changes nothing.
        """
        own = self.index.checkpoint is not None and self.reduction is not None
        held = len(self.index)
        return own and held < SETTLED and (held + count).bit_length() > held.bit_length()

    def relearned(self, fine: Tensor) -> Index:
        """The index, its reduction learned from its items and from `fine` `[B, D]`, which may follow."""
        items = torch.from_numpy(self.index.fine).float()
        matrix = learn_reduction(torch.cat([items, fine.cpu().float()]), self.coarse.shape[1])
        coarse, quantization = reduced(items, matrix), self.index.header.quantization
        if quantization is None:
            coarse = coarse.to(self.coarse.dtype)
        elif len(items):  # else those that follow decide
            every = torch.cat([coarse, reduced(fine.cpu(), matrix)])
            rounded, quantization = round_coarse(every, "int8")
            coarse = rounded[: len(items)]
        parts = coarse.split([len(segment) for segment in self.index.segments])
        return self.index.reduced(matrix.numpy(), [as_array(part) for part in parts], quantization)

    def project(
        self, vectors: Embeddings, *, coarse_too: bool, items: bool = False, check: bool = True
    ) -> Embeddings:
        """`vectors` as the index stores its items: its scale, dtype and device; check: that they are finite then.

        Coarse vectors that are wanted and were not given come from the index's reduction: of queries, or of
        `items`, which are stretched. Where the index holds int8, they stay float32 here.
        """
        coarse, fine = vectors.coarse, vectors.fine
        head, device = self.index.header, self.coarse.device
        coarse_dtype = torch.float32 if head.quantization else self.coarse.dtype
        fine_dtype = getattr(torch, head.fine_dtype)
        if not len(fine):  # an empty batch has no dims of its own
            return Embeddings(
                torch.empty(0, head.coarse_dim, dtype=coarse_dtype, device=device),
                torch.empty(0, head.fine_dim, dtype=fine_dtype, device=device),
            )
        _check_dims("batch", fine, head.fine_dim)
        if head.normalize:
            fine = unit(fine)
            coarse = None if coarse is None else unit(coarse)
        fine = fine.to(device, fine_dtype)
        if not coarse_too:
            return check_finite(Embeddings(None, fine)) if check else Embeddings(None, fine)
        derived = coarse is None and self.reduction is not None
        if coarse is None and self.reduction is not None:
            coarse = reduced(fine, self.reduction) if items else fine.float() @ self.reduction
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
        projected = Embeddings(coarse.to(device, coarse_dtype), fine)
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
