"""`Snapshot`: an index with its vectors where they are searched. A search reads one; a change swaps in another."""

from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from engine.coarse.rounding import queries_to_int8, unshifted
from engine.embeddings import Embeddings, longest_of
from engine.index import Index
from engine.index.mapping import Mapping, mappings_of
from engine.system.forks import cached_property
from engine.tiers.cuda_graphs import Captured
from engine.tiers.fine import FineVectors, Tier
from engine.tiers.projection import Projection
from engine.tiers.resident import Resident
from kernels import TopK, coarse_topk
from kernels.backends import choose_backend


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The vectors of `index` on the search device, and the projection of others into them.

    live: bool `[N]`, which rows are not deleted; None where all are there.
    known_norm: no coarse vector among so many first rows is longer than that.
    captured: by (B, C, k), two-stage searches that are CUDA graphs.
    """

    index: Index
    resident: Resident
    fine: FineVectors
    projection: Projection
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
        matrix = None if index.reduction is None else torch.from_numpy(index.reduction).to(device)
        return cls(
            index,
            resident,
            FineVectors.of(index, tier, device, before=fine, same_rows=same_rows),
            Projection(head, matrix, resident.tensor.device),
            None if index.live is None else torch.from_numpy(index.live).to(device),
            before.norm_so_far if before and resident.begins_with(before.resident) else (0, 0.0),
        )

    def __str__(self) -> str:
        head = self.index.header
        coarse = f"{head.coarse_dim}x{head.coarse_dtype} ({self.coarse.nbytes:,} B)"
        fine = f"{head.fine_dim}x{head.fine_dtype} ({self.fine.nbytes:,} B, {self.fine.tier})"
        return f"N={len(self.index):,}, coarse={coarse}, fine={fine}"

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

    def find_candidates(
        self, queries: Tensor | None, k: int, mask: Tensor | None, backend: str
    ) -> TopK:
        """The best k rows by the coarse vectors; queries `[B, d]` as `projection` makes them.

        Where the index holds int8, scores are products of integers: `scaled` makes coarse scores of them.
        """
        assert queries is not None  # the projection made them
        for mapping in self._mappings:
            mapping.check()
        longest = 1.01 * self._longest[1]  # rounding
        max_norm = longest if isfinite(longest) else None
        if self.index.header.quantization is not None:
            queries, _ = queries_to_int8(queries)
        return coarse_topk(queries, self.coarse, k, mask=mask, max_norm=max_norm, backend=backend)

    def scaled(self, queries: Tensor | None, found: TopK) -> TopK:
        """What `find_candidates` found, with coarse scores."""
        quantization = self.index.header.quantization
        if quantization is None:
            return found
        assert queries is not None  # `found` was found with them
        _, scales = queries_to_int8(queries)
        scores = found.scores * scales * quantization.scale + unshifted(queries, quantization)
        return TopK(scores, found.rows)

    def capture(self, queries: Embeddings, k: int, candidates: int, backend: str) -> None:
        """Make CUDA graphs of both stages, for two-stage searches of as many queries that no filter narrows.

        queries: any, as `projection` makes them. Does nothing without Triton, or where fine vectors lie elsewhere.
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
