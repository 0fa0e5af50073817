"""What both searches refuse. Nothing is computed or changed here."""

from __future__ import annotations

import math
import operator
from numbers import Real

import torch
from torch import Tensor

from kernels.errors import InvalidArgument

__all__ = ["check_coarse", "check_rerank", "describe"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)


def check_coarse(
    queries: Tensor, items: Tensor, k: int, mask: Tensor | None, max_norm: float | None
) -> int:
    """Refuse what breaks `coarse_topk`'s contract; returns k as an int."""
    _check_vectors(queries, items)
    k = _check_k(k)
    _check_max_norm(max_norm)
    if mask is not None:
        _check_mask(mask, queries, items)
    return k


def check_rerank(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> int:
    """Refuse what breaks `rerank_topk`'s contract; returns k as an int."""
    _check_vectors(queries, items, host_items=True)
    k = _check_k(k)
    _check_candidates(candidates, queries, items)
    return k


def describe(value: object) -> str:
    """A tensor as `float32[3, 64] on cpu`; anything else by its type."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{_name(value.dtype)}{list(value.shape)} on {value.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tensor(name: str, value: object, expected: str) -> None:
    if not isinstance(value, Tensor):
        raise InvalidArgument(
            name,
            expected=expected,
            got=describe(value),
            remedy="Convert it with torch.as_tensor(...).",
        )
    if value.layout != torch.strided:
        raise InvalidArgument(
            name,
            expected=f"a dense tensor, {expected}",
            got=f"layout {value.layout}",
            remedy="Convert it with .to_dense().",
        )


def _check_vectors(queries: Tensor, items: Tensor, *, host_items: bool = False) -> None:
    for name, value, shape in (("queries", queries, "[B, d]"), ("items", items, "[N, d]")):
        _check_tensor(name, value, f"a tensor {shape}")
        if value.ndim != 2:
            raise InvalidArgument(
                name,
                expected=f"two axes {shape}",
                got=describe(value),
                remedy="One vector is a batch of one: vector[None, :].",
            )
        if value.dtype not in DTYPES:
            raise InvalidArgument(
                name,
                expected="dtype " + ", ".join(_name(dtype) for dtype in DTYPES),
                got=describe(value),
                remedy="Cast it, for instance with .float().",
            )
    if queries.shape[1] != items.shape[1] or queries.shape[1] == 0:
        raise InvalidArgument(
            "queries",
            expected=f"[B, d] with the same d >= 1 as items {list(items.shape)}",
            got=describe(queries),
            remedy="Encode queries and items with the same head.",
        )
    if queries.dtype != items.dtype:
        raise InvalidArgument(
            "queries",
            expected=f"the dtype of items, {_name(items.dtype)}",
            got=describe(queries),
            remedy="Cast the queries with .to(items.dtype).",
        )
    pinned = host_items and items.device.type == "cpu" and items.is_pinned()
    if queries.device != items.device and not pinned:
        raise InvalidArgument(
            "queries",
            expected=f"the device of items, {items.device}",
            got=describe(queries),
            remedy="Move one of them with .to(...)"
            + (", or pin the items with .pin_memory()." if host_items else "."),
        )
    _check_finite(queries)


def _check_finite(queries: Tensor) -> None:
    """Only on the CPU: reading values on a GPU would stop its stream."""
    if queries.device.type != "cpu" or queries.dtype == torch.int8:
        return
    values = queries.float()
    if math.isfinite(float(values.sum())):
        return  # a sum is finite only if all its terms are
    finite = values.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise InvalidArgument(
            "queries",
            expected="finite values",
            got=f"NaN or inf in row {row}",
            remedy="Drop that query, or see why its encoder overflows.",
        )


def _check_k(k: int) -> int:
    try:
        number = -1 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = -1
    if number < 1:
        raise InvalidArgument(
            "k",
            expected="an int >= 1",
            got=repr(k),
            remedy="k may exceed the number of items: the rest is padded.",
        )
    return number


def _check_max_norm(max_norm: float | None) -> None:
    if max_norm is None:
        return
    if not isinstance(max_norm, Real) or not 0 <= max_norm < math.inf:
        raise InvalidArgument(
            "max_norm",
            expected="None or a finite number >= 0, at least the norm of every item",
            got=repr(max_norm),
            remedy="Leave it out where the norms are not known.",
        )


def _check_mask(mask: Tensor, queries: Tensor, items: Tensor) -> None:
    batch, count = queries.shape[0], items.shape[0]
    shapes = f"[N] = [{count}] or [B, N] = [{batch}, {count}]"
    _check_tensor("mask", mask, f"a bool tensor {shapes}")
    if mask.dtype != torch.bool:
        raise InvalidArgument(
            "mask",
            expected="dtype bool, True = may be returned",
            got=describe(mask),
            remedy="Compare first, for instance mask != 0.",
        )
    if tuple(mask.shape) not in ((count,), (batch, count)):
        raise InvalidArgument(
            "mask",
            expected=f"shape {shapes}",
            got=describe(mask),
            remedy="Give one flag per item, or one per query and item.",
        )
    if mask.device != items.device:
        raise InvalidArgument(
            "mask",
            expected=f"the device of items, {items.device}",
            got=describe(mask),
            remedy="Move it with .to(items.device).",
        )


def _check_candidates(candidates: Tensor, queries: Tensor, items: Tensor) -> None:
    batch, count = queries.shape[0], items.shape[0]
    _check_tensor("candidates", candidates, f"an int64 tensor [B, C] with B = {batch}")
    if candidates.ndim != 2 or candidates.shape[0] != batch:
        raise InvalidArgument(
            "candidates",
            expected=f"shape [B, C] with B = {batch}",
            got=describe(candidates),
            remedy="Give one list of rows per query, padded with -1.",
        )
    if candidates.dtype != torch.int64:
        raise InvalidArgument(
            "candidates",
            expected="dtype int64",
            got=describe(candidates),
            remedy="Cast it with .long().",
        )
    if candidates.device != queries.device:
        raise InvalidArgument(
            "candidates",
            expected=f"the device of queries, {queries.device}",
            got=describe(candidates),
            remedy="Move it with .to(queries.device).",
        )
    if candidates.device.type == "cpu" and candidates.numel():
        low, high = (int(value) for value in torch.aminmax(candidates))
        if low < -1 or high >= count:
            raise InvalidArgument(
                "candidates",
                expected=f"rows from -1 (none) to N - 1 = {count - 1}",
                got=f"row {low if low < -1 else high}",
                remedy="Take rows from a search of the same items.",
            )
