"""`FineVectors`: the fine vectors of a snapshot on the search device, in host memory, or mapped from files."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engine.embeddings import as_tensor, longest_of
from engine.index import Index
from engine.index.manifest import Array
from engine.index.mapping import Mapping, mapping_of, mappings_of
from engine.system.forks import cached_property
from engine.tiers.resident import Resident
from kernels import TopK, coarse_topk, rerank_topk
from kernels.backends import choose_backend
from kernels.topk import best_hits, no_hits

Tier: TypeAlias = Literal["device", "host", "disk"]

GATHERED_BYTES = 1 << 27  # of vectors brought to the device at a time


@dataclass(frozen=True, eq=False)
class FineVectors:
    """Tensors `[n, D]` that hold all N rows between them: one on the device or pinned, or one a segment in place.

    resident: where there is one tensor that grows.
    arrays: what the tensors in place were made of, to know them again.
    """

    tier: Tier
    dim: int
    parts: tuple[Tensor, ...]
    device: torch.device
    resident: Resident | None = None
    arrays: tuple[Array, ...] = ()

    @classmethod
    def of(
        cls,
        index: Index,
        tier: Tier,
        device: torch.device,
        *,
        before: "FineVectors | None" = None,
        same_rows: int = 0,
    ) -> "FineVectors":
        """Those of `index`. `before`: of an index whose first `same_rows` rows are the same."""
        arrays = [segment.fine for segment in index.segments]
        head = index.header
        if tier == "device" or (device.type != "cpu" and tier == "host"):
            resident = Resident.of(
                arrays,
                head.fine_dim,
                head.fine_dtype,
                device if tier == "device" else torch.device("cpu"),
                before=before.resident if before else None,
                same_rows=same_rows,
                pinned=tier == "host",
            )
            return cls(tier, head.fine_dim, (resident.tensor,), device, resident)
        known = (
            {} if before is None else dict(zip(map(id, before.arrays), before.parts, strict=True))
        )
        if tier == "disk":
            for array in arrays:
                _read_alone(array)  # else each row read brings its neighbours along
        parts = tuple(
            known[id(array)]
            if id(array) in known
            else as_tensor(np.array(array) if tier == "host" and mapping_of(array) else array)
            for array in arrays
        )
        return cls(tier, head.fine_dim, parts, device, arrays=tuple(arrays))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def rerank(self, queries: Tensor, candidates: Tensor, k: int, backend: str) -> TopK:
        """`kernels.rerank_topk`: queries `[B, D]` and candidates `[B, C]` on the search device.

        Off the device, the candidates' vectors are gathered, each once and in ascending order, so that ties keep
        theirs; at most 128 MiB at a time, for as many queries as that allows.
        """
        self._check_files()
        whole = self.parts[0] if len(self.parts) == 1 else None
        if whole is not None and self._reaches(whole, queries, candidates, k, backend):
            return rerank_topk(queries, whole, candidates, k, backend=backend)
        best = no_hits(len(queries), k, queries.device)
        row_bytes = queries.element_size() * self.dim
        step = max(1, GATHERED_BYTES // (row_bytes * max(1, candidates.shape[1])))
        for first in range(0, len(queries), step):
            block = slice(first, first + step)
            asked = candidates[block]
            rows = torch.unique(asked[asked >= 0].cpu())  # ascending
            items = self._gathered(rows, queries).to(self.device)
            rows = rows.to(self.device)
            places = torch.where(asked >= 0, torch.searchsorted(rows, asked), -1)
            found = rerank_topk(queries[block], items, places, k, backend=backend)
            best.scores[block] = found.scores
            hit = found.rows >= 0
            best.rows[block][hit] = rows[found.rows[hit]]
        return best

    def scan(self, queries: Tensor, k: int, mask: Tensor | None, backend: str) -> TopK:
        """The best k of all rows that the mask allows, as `kernels.coarse_topk` finds them; 128 MiB at a time."""
        self._check_files()
        best = no_hits(len(queries), k, queries.device)
        for first, piece in self._pieces():
            allowed = None if mask is None else mask[..., first : first + len(piece)]
            found = coarse_topk(
                queries, piece, k, mask=allowed, max_norm=self._max_norm, backend=backend
            )
            if len(piece) == self._count:
                return found
            rows = torch.where(found.rows >= 0, found.rows + first, -1)
            scores = torch.cat((best.scores, found.scores), dim=1)
            # Rows of later pieces are higher, so equal scores stand in ascending order.
            best = best_hits(scores, torch.cat((best.rows, rows), dim=1), k)
        return best

    def _check_files(self) -> None:
        for mapping in self._mappings:
            mapping.check()

    @cached_property
    def _mappings(self) -> tuple[Mapping, ...]:
        return mappings_of(self.arrays) if self.tier == "disk" else ()

    @cached_property
    def _max_norm(self) -> float | None:
        """What no vector is longer than, where finding that out takes no longer than a search: on a GPU."""
        if self.tier != "device" or self.device.type != "cuda":
            return None
        longest = 1.01 * longest_of(self.parts[0])  # rounding
        return longest if isfinite(longest) else None

    @property
    def _count(self) -> int:
        return sum(map(len, self.parts))

    def _reaches(
        self, whole: Tensor, queries: Tensor, candidates: Tensor, k: int, backend: str
    ) -> bool:
        """Whether the search device can read `whole` where it is: Triton reads pinned memory."""
        if whole.device == queries.device:
            return True
        return (
            whole.is_pinned() and choose_backend(backend, k, queries, whole, candidates) == "triton"
        )

    def _gathered(self, rows: Tensor, like: Tensor) -> Tensor:
        """The vectors of ascending rows, int64 on the CPU; none is a tensor such as `like`."""
        found, first = [like.new_empty(0, self.dim, device="cpu")], 0
        for part in self.parts:
            low, high = torch.searchsorted(rows, torch.tensor([first, first + len(part)])).tolist()
            if high > low:
                found.append(part.index_select(0, rows[low:high] - first))
            first += len(part)
        return torch.cat(found)

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Every part on the search device, with its first row; one that lies elsewhere, piece by piece."""
        first = 0
        for number, part in enumerate(self.parts):
            step = len(part)
            if self.tier == "disk" or part.device != self.device:
                step = max(1, GATHERED_BYTES // part[:1].nbytes)
            for start in range(0, len(part), step):
                if self.tier == "disk":
                    _read_ahead(self.arrays[number], start, start + step)
                yield first + start, part[start : start + step].to(self.device)
            first += len(part)


def _read_alone(array: Array) -> None:
    mapping = mapping_of(array)
    if mapping is not None:
        mapping.advise(mmap.MADV_RANDOM)


def _read_ahead(array: Array, first: int, last: int) -> None:
    mapping = mapping_of(array)
    if mapping is not None:
        row_bytes = array[:1].nbytes
        mapping.advise(mmap.MADV_WILLNEED, first * row_bytes, last * row_bytes)
