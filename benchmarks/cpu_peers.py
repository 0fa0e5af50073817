"""Other whole searches on the CPU, and ours: vectors in, the best k rows out, by inner product of unit vectors.

A method is built once over its items and then asked with growing effort, the number or numbers that trade time for
recall; exact ones have one effort, None. What is missing raises `NotInstalled`. FAISS's transforms are built for
squared L2, which orders unit vectors as the inner product does, because its PCA subtracts a mean that an inner
product would feel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import THREADS
from benchmarks.peers import need
from engine import Retriever
from engine.coarse.rounding import CoarseDtype

Effort = Any  # None, an int, or a tuple of ints; what it means is in Method.effort
Ask = Callable[[Tensor, Effort], Tensor]  # queries float32 [B, D] -> rows int64 [B, K]

K = 10
SHORTLISTS = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 1024)


class Built(NamedTuple):
    """What answers, and the bytes that it keeps in memory."""

    ask: Ask
    nbytes: int


class Method(NamedTuple):
    """One way to search. organises: builds a graph or clusters, which costs time for every change."""

    name: str
    effort: str
    efforts: Sequence[Effort]
    build: Callable[[Tensor], Built]
    organises: bool = False


def ours(dims: int, dtype: CoarseDtype) -> Callable[[Tensor], Built]:
    """`engine.Retriever` over float16 fine vectors, at its defaults but for the coarse ones."""

    def build(items: Tensor) -> Built:
        retriever = Retriever.from_embeddings(items.half(), coarse_dim=dims, coarse_dtype=dtype)
        stored = sum(s.coarse.nbytes + s.fine.nbytes for s in retriever.index.segments)

        def ask(queries: Tensor, shortlist: Effort) -> Tensor:
            return retriever.search(queries, K, candidates=shortlist).rows

        return Built(ask, stored)

    return build


def faiss_flat(items: Tensor) -> Built:
    faiss = _faiss()
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    return Built(lambda queries, _: _found(index.search(queries.numpy(), K)[1]), items.nbytes)


def faiss_refined(description: str) -> Callable[[Tensor], Built]:
    """FAISS's index of that description, refined by the whole vectors.

    Effort: candidates, or (lists visited, candidates). Put together here: the factory's own "PCA64,…,RFlat" refines
    by the vectors that PCA has shortened.
    """

    def build(items: Tensor) -> Built:
        faiss = _faiss()
        lists = 4096 if len(items) >= 500_000 else 1024
        base = faiss.index_factory(items.shape[1], description.format(lists=lists), faiss.METRIC_L2)
        refined, space = faiss.IndexRefineFlat(base), faiss.ParameterSpace()
        refined.train(items.numpy())
        refined.add(items.numpy())

        def ask(queries: Tensor, effort: Effort) -> Tensor:
            visited, shortlist = effort if isinstance(effort, tuple) else (None, effort)
            if visited is not None:
                space.set_index_parameter(base, "nprobe", visited)
            refined.k_factor = shortlist / K
            return _found(refined.search(queries.numpy(), K)[1])

        return Built(ask, faiss.serialize_index(refined).nbytes)

    return build


def faiss_hnsw(items: Tensor) -> Built:
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(items.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(items.numpy())

    def ask(queries: Tensor, effort: Effort) -> Tensor:
        index.hnsw.efSearch = effort
        return _found(index.search(queries.numpy(), K)[1])

    return Built(ask, faiss.serialize_index(index).nbytes)


def usearch_exact(items: Tensor) -> Built:
    module = need("usearch.index", "pip install usearch")
    kept = items.numpy()

    def ask(queries: Tensor, _: Effort) -> Tensor:
        found = module.search(
            kept, queries.numpy(), K, module.MetricKind.IP, exact=True, threads=THREADS
        )
        return _found(found.keys.reshape(len(queries), -1))

    return Built(ask, items.nbytes)


def usearch_hnsw(items: Tensor) -> Built:
    module = need("usearch.index", "pip install usearch")
    index = module.Index(ndim=items.shape[1], metric="ip", dtype="f16")
    index.add(torch.arange(len(items)).numpy(), items.numpy(), threads=THREADS)

    def ask(queries: Tensor, effort: Effort) -> Tensor:
        index.expansion_search = effort
        found = index.search(queries.numpy(), K, threads=THREADS)
        return _found(found.keys.reshape(len(queries), -1))

    return Built(ask, int(index.memory_usage))


def matmul_topk(dtype: torch.dtype) -> Callable[[Tensor], Built]:
    def build(items: Tensor) -> Built:
        kept = items.to(dtype)
        return Built(lambda queries, _: (queries.to(dtype) @ kept.T).topk(K).indices, kept.nbytes)

    return build


def semantic_search(items: Tensor) -> Built:
    util = need("sentence_transformers.util", "pip install sentence-transformers")

    def ask(queries: Tensor, _: Effort) -> Tensor:
        found = util.semantic_search(queries, items, top_k=K, score_function=util.dot_score)
        return torch.tensor([[hit["corpus_id"] for hit in hits] for hits in found])

    return Built(ask, items.nbytes)


def _faiss() -> Any:
    faiss = need("faiss", "pip install faiss-cpu")
    faiss.omp_set_num_threads(THREADS)
    return faiss


def _found(rows: Any) -> Tensor:
    return torch.from_numpy(rows.astype("int64"))


METHODS = (
    Method("ours, 64-d int8", "candidates", SHORTLISTS, ours(64, "int8")),
    Method("ours, 48-d int8", "candidates", SHORTLISTS, ours(48, "int8")),
    Method("ours, 80-d int8", "candidates", SHORTLISTS, ours(80, "int8")),
    Method("ours, 64-d bfloat16", "candidates", SHORTLISTS, ours(64, "bfloat16")),
    Method("FAISS flat", "", (None,), faiss_flat),
    Method("FAISS PCA64,Flat,RFlat", "candidates", SHORTLISTS, faiss_refined("PCA64,Flat")),
    Method("FAISS PCA64,SQ8,RFlat", "candidates", SHORTLISTS, faiss_refined("PCA64,SQ8")),
    Method("FAISS PCA48,SQ8,RFlat", "candidates", SHORTLISTS, faiss_refined("PCA48,SQ8")),
    Method("FAISS PCA80,SQ8,RFlat", "candidates", SHORTLISTS, faiss_refined("PCA80,SQ8")),
    Method("torch matmul + topk, float32", "", (None,), matmul_topk(torch.float32)),
    Method("torch matmul + topk, bfloat16", "", (None,), matmul_topk(torch.bfloat16)),
    Method("sentence-transformers", "", (None,), semantic_search),
    Method("usearch exact", "", (None,), usearch_exact),
    Method(
        "FAISS PCA64,IVF,Flat,RFlat", "lists, candidates",
        ((8, 128), (16, 256), (32, 256), (64, 512), (128, 512), (256, 1024)),
        faiss_refined("PCA64,IVF{lists},Flat"), organises=True,
    ),
    Method("FAISS HNSW32", "efSearch", (16, 32, 64, 128, 256, 512, 1024), faiss_hnsw, organises=True),
    Method("usearch HNSW", "expansion", (16, 32, 64, 128, 256, 512, 1024), usearch_hnsw, organises=True),
)  # fmt: skip
