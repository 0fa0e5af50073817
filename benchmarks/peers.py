"""Other searches that return the top k by inner product, for the same tensors on a GPU.

A peer is prepared once for its shapes and then called. One that is missing raises
`NotInstalled`, whose message is the command that would install it; one that does not take these
shapes raises `NotSupported`. Vectors are of unit length, so squared L2 orders as the product.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["COARSE_PEERS", "RERANK_PEERS", "NotInstalled", "NotSupported", "need", "outcome"]

Search = Callable[[], Any]
CHUNK_SCORES = 1 << 28  # scores held at a time by the chunked product


class NotInstalled(Exception):
    """The peer's package is missing; the message is the command that would install it."""


class NotSupported(Exception):
    """The peer does not take these shapes or this device; the message says why."""


def need(name: str, install: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalled(install) from error


def outcome(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives, or why there is nothing: a peer's failure is its result, not ours."""
    try:
        return measure()
    except NotInstalled as error:
        return {"not_installed": str(error)}
    except NotSupported as error:
        return {"not_supported": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a peer raises
        torch.cuda.empty_cache()
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def _chunk_best(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found, rows = torch.topk(queries @ items.T, min(k, len(items)))
    return found, rows


def _chunked(
    queries: Tensor,
    items: Tensor,
    k: int,
    chunk_best: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = _chunk_best,
) -> tuple[Tensor, Tensor]:
    """The top k of each chunk of items, and the top k of those."""
    size = max(CHUNK_SCORES // len(queries), k)
    parts = []
    for start in range(0, len(items), size):
        found, rows = chunk_best(queries, items[start : start + size], k)
        parts.append((found, rows + start))
    scores, rows = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    found, order = torch.topk(scores, min(k, scores.shape[1]))
    return found, rows.gather(1, order)


def matmul_topk(queries: Tensor, items: Tensor, k: int) -> Search:
    """torch.matmul and torch.topk, a chunk of items at a time."""
    return lambda: _chunked(queries, items, k)


def compiled_topk(queries: Tensor, items: Tensor, k: int) -> Search:
    """The same, each chunk's product and top k under torch.compile."""
    if queries.device.type != "cuda":
        raise NotSupported("torch.compile is timed on CUDA only")
    if (len(items), items.shape[1], k) != (10_000_000, 64, 128):
        raise NotSupported("compiling takes long: timed at N = 10M, d = 64, k = 128 only")
    torch.compiler.reset()
    compiled = torch.compile(_chunk_best, dynamic=False)
    return lambda: _chunked(queries, items, k, compiled)


def flashlib_knn(queries: Tensor, items: Tensor, k: int) -> Search:
    """FlashLib's fused brute-force neighbours: rows only, its quickest form."""
    module = need("flashlib.primitives.knn", "pip install --no-deps flashlib==0.4.0")
    return lambda: module.flash_knn_triton(queries[None], items[None], k)


def jax_approx_max_k(queries: Tensor, items: Tensor, k: int) -> Search:
    """jax.lax.approx_max_k over one product, jitted, at its default recall target of 0.95."""
    jax = need("jax", "pip install 'jax[cuda13]'")
    if queries.device.type == "cuda" and jax.default_backend() != "gpu":
        raise NotSupported(f"jax runs on {jax.default_backend()} here")
    if 4 * len(queries) * len(items) > 16 << 30:
        raise NotSupported("its score matrix would pass 16 GiB")
    left, right = jax.dlpack.from_dlpack(queries), jax.dlpack.from_dlpack(items)
    search = jax.jit(lambda q, x: jax.lax.approx_max_k(q @ x.T, k))
    return lambda: jax.block_until_ready(search(left, right))


def cuvs_brute_force(queries: Tensor, items: Tensor, k: int) -> Search:
    """cuVS brute force by inner product."""
    module = need("cuvs.neighbors.brute_force", "pip install cuvs-cu13 (NVIDIA's index)")
    index = module.build(items, metric="inner_product")
    return lambda: module.search(index, queries, k)


def gather_topk(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> Search:
    """items[candidates] as a tensor, a batched product, torch.topk."""

    def search() -> tuple[Tensor, Tensor]:
        scores = torch.bmm(items[candidates], queries[:, :, None])[:, :, 0]
        found, order = torch.topk(scores, min(k, candidates.shape[1]))
        return found, candidates.gather(1, order)

    return search


COARSE_PEERS = {
    "matmul + topk": matmul_topk,
    "matmul + topk, compiled": compiled_topk,
    "flashlib flash_knn": flashlib_knn,
    "jax approx_max_k": jax_approx_max_k,
    "cuvs brute_force": cuvs_brute_force,
}
RERANK_PEERS = {"gather + bmm + topk": gather_topk}
