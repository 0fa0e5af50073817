"""Other searches that return the top k by inner product, for the same tensors on a GPU.

A peer is prepared once for its shapes and then called. One that is missing raises
`NotInstalled`, whose message is the command that would install it; one that does not take these
shapes raises `NotSupported`. Vectors are of unit length, so squared L2 orders as the product.

COARSE_PEERS and RERANK_PEERS stand beside one kernel each, and return what they like.
EXACT_PEERS and TWO_STAGE_PEERS stand beside the whole search: `(queries, items, k, candidates)`,
both with coarse and fine vectors, and the call returns rows int64 `[B, k]` on the device.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import replayed
from engine import Embeddings

__all__ = [
    "COARSE_PEERS",
    "COPYING_PEERS",
    "EXACT_PEERS",
    "RERANK_PEERS",
    "TWO_STAGE_PEERS",
    "NotInstalled",
    "NotSupported",
    "chunked",
    "outcome",
]

Search = Callable[[], Any]
CHUNK_SCORES = 1 << 28  # scores held at a time by the chunked product
CUVS = "pip install cuvs-cu13"
FAISS = "pip uninstall faiss-cpu; pip install faiss-gpu"


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


def chunked(
    queries: Tensor,
    items: Tensor,
    k: int,
    chunk_best: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = _chunk_best,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores and rows of the top k: of each chunk of `size` items, and then of those."""
    size = size or max(CHUNK_SCORES // len(queries), k)
    parts = []
    for start in range(0, len(items), size):
        found, rows = chunk_best(queries, items[start : start + size], k)
        parts.append((found, rows + start))
    scores, rows = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    found, order = torch.topk(scores, min(k, scores.shape[1]))
    return found, rows.gather(1, order)


def matmul_topk(queries: Tensor, items: Tensor, k: int) -> Search:
    """torch.matmul and torch.topk, a chunk of items at a time, as a CUDA graph."""
    return replayed(lambda: chunked(queries, items, k))


def compiled_topk(queries: Tensor, items: Tensor, k: int) -> Search:
    """The same, each chunk's product and top k under torch.compile."""
    if queries.device.type != "cuda":
        raise NotSupported("torch.compile is timed on CUDA only")
    if (len(items), items.shape[1], k) != (10_000_000, 64, 128):
        raise NotSupported("compiling takes long: timed at N = 10M, d = 64, k = 128 only")
    torch.compiler.reset()
    compiled = torch.compile(_chunk_best, dynamic=False)
    return lambda: chunked(queries, items, k, compiled)


def flashlib_knn(queries: Tensor, items: Tensor, k: int) -> Search:
    """FlashLib's fused brute-force neighbours: rows only `[1, B, k]`, its quickest form."""
    module = need("flashlib.primitives.knn", "pip install --no-deps flashlib==0.4.0")
    return lambda: module.flash_knn_triton(queries[None], items[None], k)


def jax_approx_max_k(queries: Tensor, items: Tensor, k: int) -> Search:
    """jax.lax.approx_max_k over one product, jitted, at its default recall target of 0.95."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # it would take 3/4 of the GPU
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
    module = need("cuvs.neighbors.brute_force", CUVS)
    index = module.build(items, metric="inner_product")
    return lambda: module.search(index, queries, k)


def gather_topk(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> Search:
    """items[candidates] as a tensor, a batched product, torch.topk."""

    def search() -> tuple[Tensor, Tensor]:
        scores = torch.bmm(items[candidates], queries[:, :, None])[:, :, 0]
        found, order = torch.topk(scores, min(k, candidates.shape[1]))
        return found, candidates.gather(1, order)

    return search


def gather_replayed(queries: Tensor, items: Tensor, candidates: Tensor, k: int) -> Search:
    """The same as a CUDA graph."""
    return replayed(gather_topk(queries, items, candidates, k))


# ------------------------------------------------------------------ the whole search


def matmul_exact(queries: Embeddings, items: Embeddings, k: int, _: int | None) -> Search:
    """torch.matmul of the fine vectors and torch.topk, as a CUDA graph: scores are rounded to float16."""
    return replayed(lambda: chunked(queries.fine, items.fine, k)[1])


def faiss_exact(queries: Embeddings, items: Embeddings, k: int, _: int | None) -> Search:
    """FAISS's GpuIndexFlatIP over the fine vectors, held as float16."""
    faiss = need("faiss", FAISS)
    if not hasattr(faiss, "GpuIndexFlatIP"):  # faiss-cpu
        raise NotInstalled(FAISS)
    need("faiss.contrib.torch_utils", FAISS)  # importing it lets FAISS take tensors
    settings = faiss.GpuIndexFlatConfig()
    settings.useFloat16 = True
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), items.fine.shape[1], settings)
    for part in items.fine.split(1 << 20):
        index.add(part.float())
    wanted = queries.fine.float()
    return lambda: index.search(wanted, k)[1]


def then_gather(
    shortlist: Callable[[Tensor, Tensor, int], Search], rows_of: Callable[[Any], Tensor]
) -> Callable[[Embeddings, Embeddings, int, int], Search]:
    """A coarse peer, whose result holds `rows_of` it, followed by the gather peer."""

    def prepare(queries: Embeddings, items: Embeddings, k: int, candidates: int) -> Search:
        assert queries.coarse is not None
        assert items.coarse is not None
        first = shortlist(queries.coarse, items.coarse, candidates)
        return lambda: gather_topk(queries.fine, items.fine, rows_of(first()), k)()[1]

    return prepare


def matmul_then_gather(queries: Embeddings, items: Embeddings, k: int, candidates: int) -> Search:
    """torch.matmul and torch.topk of the coarse vectors, then the gather peer, all of it one CUDA graph."""
    coarse, among = queries.coarse, items.coarse
    assert coarse is not None
    assert among is not None
    return replayed(
        lambda: gather_topk(queries.fine, items.fine, chunked(coarse, among, candidates)[1], k)()[1]
    )


def cuvs_refine(queries: Embeddings, items: Embeddings, k: int, candidates: int) -> Search:
    """cuVS brute force over the coarse vectors, and its refine over the fine ones."""
    assert queries.coarse is not None
    assert items.coarse is not None
    first = cuvs_brute_force(queries.coarse, items.coarse, candidates)
    refine = need("cuvs.neighbors", CUVS).refine

    def search() -> Tensor:
        listed = first()[1]
        _, rows = refine(items.fine, queries.fine, listed, k=k, metric="inner_product")
        return torch.as_tensor(rows, device=items.fine.device)

    return search


COARSE_PEERS = {  # those that take least of a run first
    "matmul + topk": matmul_topk,
    "cuvs brute_force": cuvs_brute_force,
    "flashlib flash_knn": flashlib_knn,
    "jax approx_max_k": jax_approx_max_k,
    "matmul + topk, compiled": compiled_topk,
}
RERANK_PEERS = {"gather + bmm + topk": gather_replayed}
EXACT_PEERS: dict[str, Callable[..., Search]] = {
    "matmul + topk": matmul_exact,
    "FAISS GpuIndexFlatIP": faiss_exact,
}
COPYING_PEERS = ("FAISS GpuIndexFlatIP",)  # hold the vectors once more, and need ours no longer
TWO_STAGE_PEERS: dict[str, Callable[..., Search]] = {
    "matmul + topk, gather": matmul_then_gather,
    "flashlib flash_knn, gather": then_gather(flashlib_knn, lambda found: found[0].long()),
    "jax approx_max_k, gather": then_gather(
        jax_approx_max_k, lambda found: torch.utils.dlpack.from_dlpack(found[1]).long()
    ),
    "cuvs brute_force, refine": cuvs_refine,
}
