"""Coarse vectors in fewer bits: float16, bfloat16, or int8 with one scale per index and one per query."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from engine.checks import check_one_of
from engine.index import Quantization
from kernels import coarse_topk

CoarseDtype: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]

PERCENTILE = 99.99  # of absolute values: what is above is clipped
LARGEST = 127
LEAST = 1e-30  # of a query's largest value: a query of zeros stays one
SAMPLE_VALUES = 1 << 24  # that the percentile is taken of
SAMPLE_QUERIES, DEPTH = 256, 100


def round_coarse(coarse: Tensor, dtype: CoarseDtype) -> tuple[Tensor, Quantization | None]:
    """`coarse` float `[N, d]` in another dtype; for int8 also how, with what that costs.

    int8: round(value / scale) with scale = the 99.99th percentile of absolute values / 127; larger values are
    clipped. Its recall is the share of the best 100 by `coarse` that the rounded vectors find, asked by 256 of the
    items, evenly spaced.
    """
    check_one_of("coarse_dtype", dtype, get_args(CoarseDtype))
    if dtype != "int8":
        return coarse.to(getattr(torch, dtype)), None
    values = coarse.float().abs().flatten()
    sample = values[:: -(-max(len(values), 1) // SAMPLE_VALUES)]
    reach = 0.0
    if len(sample):
        reach = float(sample.kthvalue(max(1, round(PERCENTILE / 100 * len(sample)))).values)
    scale = (reach or 1.0) / LARGEST
    rounded = to_int8(coarse, scale)
    clipped = int((values > (LARGEST + 0.5) * scale).sum())
    return rounded, Quantization(scale, clipped, _recall(coarse.float(), rounded))


def to_int8(vectors: Tensor, scale: float | Tensor) -> Tensor:
    """round(value / scale), clipped to -127...127; `scale`: one number, or `[B, 1]`."""
    return (vectors.float() / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def queries_to_int8(queries: Tensor) -> tuple[Tensor, Tensor]:
    """Queries `[B, d]` in int8, and float32 `[B, 1]` the scale of each, which takes its largest value to 127."""
    largest = torch.linalg.vector_norm(queries.float(), torch.inf, dim=1, keepdim=True)
    scales = largest.clamp_(min=LEAST).div_(LARGEST)
    return (queries / scales).round_().to(torch.int8), scales


def _recall(coarse: Tensor, rounded: Tensor) -> float:
    count = len(coarse)
    if not count:
        return 1.0
    queries = coarse[:: -(-count // SAMPLE_QUERIES)]
    k = min(DEPTH, count)
    true = coarse_topk(queries, coarse, k).rows
    found = coarse_topk(queries_to_int8(queries)[0], rounded, k).rows
    hits = (true[:, :, None] == found[:, None, :]).any(dim=2)
    return float(hits.float().mean())
