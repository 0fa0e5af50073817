"""What both searches refuse, and which backend runs. Nothing is computed or changed here."""

from __future__ import annotations

import math
import operator
from numbers import Real

import torch
from torch import Tensor

from kernels import _triton
from kernels.errors import BackendUnavailable, InvalidArgument
from kernels.topk import TopK

__all__ = [
    "available_backends",
    "check_coarse",
    "check_rerank",
    "choose_backend",
    "triton_max_coarse_d",
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
BACKENDS = ("auto", "torch", "triton")
TRITON_MAX_K = 4096  # the widest sort its last kernel holds


def check_coarse(
    queries: Tensor,
    items: Tensor,
    k: int,
    mask: Tensor | None,
    max_norm: float | None,
    out: TopK | None,
) -> int:
    """Refuse what breaks `coarse_topk`'s contract; returns k as an int."""
    _check_vectors(queries, items)
    k = _check_k(k)
    _check_max_norm(max_norm)
    if mask is not None:
        _check_mask(mask, queries, items)
    _check_out(out, queries, k)
    return k


def check_rerank(
    queries: Tensor, items: Tensor, candidates: Tensor, k: int, out: TopK | None
) -> int:
    """Refuse what breaks `rerank_topk`'s contract; returns k as an int."""
    _check_vectors(queries, items, host_items=True)
    k = _check_k(k)
    _check_candidates(candidates, queries, items)
    _check_out(out, queries, k)
    return k


def triton_max_coarse_d(dtype: torch.dtype) -> int:
    """The longest vectors of which its coarse kernels hold a few rows in registers."""
    return 1024 if dtype == torch.int8 else 4096


def choose_backend(backend: str, k: int, *tensors: Tensor, max_d: int | None = None) -> str:
    """`"torch"` or `"triton"`: the answer to `backend=`, or an error with every reason.

    tensors: queries, items, and the op's third. max_d: the longest vectors its kernels take.
    """
    if backend not in BACKENDS:
        raise InvalidArgument(
            "backend",
            expected='"auto", "torch" or "triton"',
            got=repr(backend),
            remedy="available_backends() says which of them run here.",
        )
    if backend == "torch" or (backend == "auto" and tensors[0].device.type != "cuda"):
        return "torch"
    reasons = list(_triton.why_not(*tensors))
    if k > TRITON_MAX_K:
        reasons.append(f"k is {k}; its kernels sort at most {TRITON_MAX_K}")
    if max_d is not None and tensors[0].shape[1] > max_d:
        reasons.append(f"d is {tensors[0].shape[1]}; its coarse kernels take at most {max_d}")
    if not reasons:
        return "triton"
    if backend == "auto":
        return "torch"
    inputs = ", ".join(_describe(tensor) for tensor in tensors) + f", k={k}"
    raise BackendUnavailable.of("triton", inputs=inputs, reasons=reasons)


def available_backends() -> dict[str, str]:
    """Every backend's name with "ok", or with why it cannot run here.

    Triton is asked about the device it would get: CUDA where there is one, else the CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = _triton.why_not(torch.empty(0, 1, device=device))
    return {"torch": "ok", "triton": "; ".join(reasons) or "ok"}


def _describe(value: object) -> str:
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
            got=_describe(value),
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
                got=_describe(value),
                remedy="One vector is a batch of one: vector[None, :].",
            )
        if value.dtype not in DTYPES:
            raise InvalidArgument(
                name,
                expected="dtype " + ", ".join(_name(dtype) for dtype in DTYPES),
                got=_describe(value),
                remedy="Cast it, for instance with .float().",
            )
    if queries.shape[1] != items.shape[1] or queries.shape[1] == 0:
        raise InvalidArgument(
            "queries",
            expected=f"[B, d] with the same d >= 1 as items {list(items.shape)}",
            got=_describe(queries),
            remedy="Encode queries and items with the same head.",
        )
    if queries.dtype != items.dtype:
        raise InvalidArgument(
            "queries",
            expected=f"the dtype of items, {_name(items.dtype)}",
            got=_describe(queries),
            remedy="Cast the queries with .to(items.dtype).",
        )
    pinned = host_items and items.device.type == "cpu" and items.is_pinned()
    if queries.device != items.device and not pinned:
        raise InvalidArgument(
            "queries",
            expected=f"the device of items, {items.device}",
            got=_describe(queries),
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
            got=_describe(mask),
            remedy="Compare first, for instance mask != 0.",
        )
    if tuple(mask.shape) not in ((count,), (batch, count)):
        raise InvalidArgument(
            "mask",
            expected=f"shape {shapes}",
            got=_describe(mask),
            remedy="Give one flag per item, or one per query and item.",
        )
    if mask.device != items.device:
        raise InvalidArgument(
            "mask",
            expected=f"the device of items, {items.device}",
            got=_describe(mask),
            remedy="Move it with .to(items.device).",
        )


def _check_candidates(candidates: Tensor, queries: Tensor, items: Tensor) -> None:
    batch, count = queries.shape[0], items.shape[0]
    _check_tensor("candidates", candidates, f"an int64 tensor [B, C] with B = {batch}")
    if candidates.ndim != 2 or candidates.shape[0] != batch:
        raise InvalidArgument(
            "candidates",
            expected=f"shape [B, C] with B = {batch}",
            got=_describe(candidates),
            remedy="Give one list of rows per query, padded with -1.",
        )
    if candidates.dtype != torch.int64:
        raise InvalidArgument(
            "candidates",
            expected="dtype int64",
            got=_describe(candidates),
            remedy="Cast it with .long().",
        )
    if candidates.device != queries.device:
        raise InvalidArgument(
            "candidates",
            expected=f"the device of queries, {queries.device}",
            got=_describe(candidates),
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


def _check_out(out: TopK | None, queries: Tensor, k: int) -> None:
    if out is None:
        return
    if not (isinstance(out, tuple) and len(out) == 2):
        raise InvalidArgument(
            "out",
            expected="a TopK of scores and rows",
            got=_describe(out),
            remedy="Pass TopK(scores, rows).",
        )
    shape = (queries.shape[0], k)
    for name, value, dtype in zip(
        ("scores", "rows"), out, (torch.float32, torch.int64), strict=True
    ):
        _check_tensor(f"out.{name}", value, f"a tensor {list(shape)}")
        if (
            tuple(value.shape) != shape
            or value.dtype != dtype
            or value.device != queries.device
            or not value.is_contiguous()
        ):
            raise InvalidArgument(
                f"out.{name}",
                expected=f"contiguous {_name(dtype)}{list(shape)} on {queries.device}",
                got=_describe(value),
                remedy="Allocate it with torch.empty(...) of that shape and dtype.",
            )
