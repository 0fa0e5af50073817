"""The independent oracle of both searches in NumPy, and the cases they are tried on.

Nothing here calls `kernels`: scores come from float64 products, the bits from a float32 sum by
halves written once more, the order from a stable sort.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import kernels

T = TypeVar("T")
Array = npt.NDArray[np.generic]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "float8_e4m3fn": torch.float8_e4m3fn,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _backend_params() -> list[object]:
    reason = kernels.available_backends()["triton"]
    skip = [pytest.mark.skip(reason=f"triton: {reason}")] if reason != "ok" else []
    return ["torch", pytest.param("triton", marks=skip)]


BACKENDS = _backend_params()


@dataclass(frozen=True)
class Limits:
    """How many cases a backend is tried on, and how large: the interpreter is slow."""

    share: float
    batch: int
    items: int
    width: int
    k: int


LIMITS = {
    "torch": Limits(share=1.0, batch=9, items=400, width=256, k=500),
    "triton": Limits(share=0.08, batch=3, items=300, width=72, k=130),
}
if DEVICE == "cuda":
    LIMITS["triton"] = Limits(share=0.5, batch=40, items=5000, width=256, k=4096)


def crowd(backend: str, dtype: str) -> tuple[int, int]:
    """Queries and items for "alone or among many": 257 queries, which the interpreter is given
    for one dtype only (it takes them one by one)."""
    if backend == "torch" or DEVICE == "cuda":
        return 257, 3000
    return (257 if dtype == "float16" else 17), 300  # more items than are scanned directly


# ------------------------------------------------------------------ the oracle


def exact_scores(queries: Array, items: Array) -> npt.NDArray[np.float64]:
    """[B, N] float64."""
    return queries.astype(np.float64) @ items.astype(np.float64).T


def fixed_order_scores(queries: Array, items: Array, integer: bool) -> npt.NDArray[np.float32]:
    """[B, N] float32, the bits the contract promises: a padded sum by halves, or int64 sums."""
    if integer:
        total = queries.astype(np.int64) @ items.astype(np.int64).T
        return total.astype(np.float32)
    size = 1
    while size < queries.shape[1]:
        size *= 2
    terms = np.zeros((len(queries), len(items), size), np.float32)
    terms[:, :, : queries.shape[1]] = queries.astype(np.float32)[:, None] * items.astype(np.float32)
    while terms.shape[2] > 1:
        terms = terms[:, :, : terms.shape[2] // 2] + terms[:, :, terms.shape[2] // 2 :]
    return terms[:, :, 0] + np.float32(0)


def ranked(
    scores: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The best k columns of [B, N] scores, score descending, row ascending, padded."""
    batch, count = scores.shape
    best = np.full((batch, k), -np.inf, np.float32)
    rows = np.full((batch, k), -1, np.int64)
    for b in range(batch):
        hits = [n for n in range(count) if allowed[b, n] and scores[b, n] > -np.inf]
        hits.sort(key=lambda n: (-scores[b, n], n))
        rows[b, : len(hits[:k])] = hits[:k]
        best[b, : len(hits[:k])] = scores[b, hits[:k]]
    return best, rows


def assert_same(
    found: kernels.TopK, scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> None:
    """Equal rows and equal bits of the scores; otherwise the first place that differs."""
    assert found.scores.dtype == torch.float32
    assert found.rows.dtype == torch.int64
    assert tuple(found.rows.shape) == rows.shape
    assert tuple(found.scores.shape) == scores.shape
    got_rows, got_bits = found.rows.cpu().numpy(), found.scores.cpu().numpy().view(np.int32)
    wrong = np.argwhere((got_rows != rows) | (got_bits != scores.view(np.int32)))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {rows.size} places differ, first at [query, place] {list(at)}: "
            f"row {got_rows[at]} with {found.scores[at].item()!r}, "
            f"expected row {rows[at]} with {scores[at]!r}"
        )


# ------------------------------------------------------------------ the cases


@dataclass(frozen=True)
class Case:
    """One search, as numbers; `tensors()` builds it, always the same."""

    dtype: str
    batch: int
    items: int
    width: int
    k: int
    values: str  # "integers" | "floats" | "spread"
    ties: float  # share of items that copy another one
    mask: str  # "none" | "row" | "query" | "few" | "nothing"
    strides: str  # "plain" | "columns" | "steps" | "shifted"
    candidates: int
    seed: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """queries, items, mask on the device under test."""
        rng = np.random.default_rng(self.seed)
        queries = self._vectors(rng, self.batch)
        items = self._vectors(rng, self.items)
        copies = rng.random(self.items) < self.ties
        if self.items:
            items[copies] = items[rng.integers(0, self.items, copies.sum())]
            items[rng.random(self.items) < 0.05] = 0
        mask = self._mask(rng)
        return (
            self._lay_out(torch.from_numpy(queries).to(DTYPES[self.dtype])),
            self._lay_out(torch.from_numpy(items).to(DTYPES[self.dtype])),
            None if mask is None else self._lay_out(torch.from_numpy(mask)),
        )

    def rows(self) -> Tensor:
        """candidates [B, C]: duplicates, -1 and any order."""
        rng = np.random.default_rng(self.seed + 1)
        rows = rng.integers(-1, max(self.items, 0), (self.batch, self.candidates))
        return self._lay_out(torch.from_numpy(rows.astype(np.int64)))

    def _vectors(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
        shape = (count, self.width)
        if self.values == "integers" or self.dtype == "int8":
            high = 4 if self.values == "integers" else 128  # exact in every dtype
            return rng.integers(-high, high, shape).astype(np.float32)
        vectors = rng.standard_normal(shape).astype(np.float32)
        if self.values == "spread":  # norms over many orders of magnitude, some columns too
            vectors *= np.exp2(rng.integers(-8, 9, (count, 1))).astype(np.float32)
            vectors *= np.exp2(rng.integers(-3, 4, (1, self.width))).astype(np.float32)
            vectors = np.clip(vectors, -400, 400)
        return vectors

    def _mask(self, rng: np.random.Generator) -> npt.NDArray[np.bool_] | None:
        if self.mask == "none":
            return None
        shape = (self.batch, self.items) if self.mask in ("query", "few") else (self.items,)
        share = {"row": 0.6, "query": 0.5, "few": 0.03, "nothing": 0.0}[self.mask]
        return rng.random(shape) < share

    def _lay_out(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(DEVICE)
        if self.strides == "plain":
            return tensor
        if self.strides == "columns":
            return tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
        if self.strides == "steps":  # every second entry of a wider, longer tensor
            wide = torch.zeros([2 * size + 1 for size in tensor.shape], dtype=tensor.dtype)
            view = wide.to(DEVICE)[tuple(slice(1, None, 2) for _ in tensor.shape)]
            view.copy_(tensor)
            return view
        padded = torch.zeros((*tensor.shape[:-1], tensor.shape[-1] + 3), dtype=tensor.dtype)
        view = padded.to(DEVICE)[..., 3:]  # rows that start at odd addresses
        view.copy_(tensor)
        return view


def cases(limits: Limits) -> st.SearchStrategy[Case]:
    """Odd sizes more often than even ones; k from 1 past N."""

    def sizes(high: int, low: int = 0) -> st.SearchStrategy[int]:
        odd = [n for n in (0, 1, 2, 7, 8, 63, 64, 65, 129, 255, 1000) if low <= n <= high]
        return st.sampled_from(odd) | st.integers(low, high)

    return st.builds(
        Case,
        dtype=st.sampled_from(sorted(DTYPES)),
        batch=sizes(limits.batch),
        items=sizes(limits.items),
        width=sizes(limits.width, low=1),
        k=sizes(limits.k, low=1),
        values=st.sampled_from(["integers", "floats", "spread"]),
        ties=st.sampled_from([0.0, 0.3, 0.9]),
        mask=st.sampled_from(["none", "none", "row", "query", "few", "nothing"]),
        strides=st.sampled_from(["plain", "plain", "columns", "steps", "shifted"]),
        candidates=sizes(limits.k),
        seed=st.integers(0, 2**31),
    )


def try_cases(backend: str, count: int, check: Callable[[Case], None]) -> None:
    """Run `check` on `count` cases, or a share of them where the backend is slow."""
    limits = LIMITS[backend]
    run_cases(cases(limits), round(count * limits.share), check)


def run_cases(strategy: st.SearchStrategy[T], count: int, check: Callable[[T], None]) -> None:
    """Run `check` on `count` values of the strategy, the same ones every time."""
    settings(
        max_examples=max(1, count),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(given(strategy)(check))()


def assert_ordinary(scores: torch.Tensor, rows: torch.Tensor) -> None:
    """A result may be written to, and trained with: neither may be done to what inference mode made."""
    best = float(scores[0, 0])
    weight = torch.ones((), device=scores.device, requires_grad=True)
    (scores[0, 0] * weight).backward()
    assert weight.grad is not None
    assert float(weight.grad) == best
    scores.add_(1.0)
    rows.add_(1)
    assert float(scores[0, 0]) == best + 1.0
