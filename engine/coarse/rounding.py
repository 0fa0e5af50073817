"""Coarse vectors in fewer bits: float16, bfloat16, or int8 with one scale per index and one per query."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from engine.checks import check_one_of
from engine.index import Quantization
from kernels import coarse_topk

CoarseDtype: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]

PERCENTILE = 99.99  # of absolute values: what is above is clipped
LARGEST = 127
USUAL, FAR = 99.0, 3.0  # a percentile so many times smaller is tried, too
LOOKED_AT = 16_384  # rows, for the median
CENTRED = 0.7  # of the reach: around the mean it must be smaller than that to be worth an offset
MOST_CLIPPED = 1e-3  # of the values of new items; with more of them the scale is widened
LEAST = 1e-30  # of a query's largest value: a query of zeros stays one
SAMPLE_VALUES = 1 << 24  # that the percentile is taken of
SAMPLE_QUERIES, DEPTH = 256, 100


def round_coarse(coarse: Tensor, dtype: CoarseDtype) -> tuple[Tensor, Quantization | None]:
    """`coarse` float `[N, d]` in another dtype; for int8 also how, with what that costs.

    int8: round((value - offset) / scale), clipped to -127…127, with offset 0 and scale = the 99.99th percentile of
    absolute values / 127. Where vectors lie in a narrow cone, or a few values are far larger than all others, other
    choices are tried: the mean or the median as offset, the 99th percentile. To clip an axis on which all items
    agree costs nothing. The recall, by which the choice is made, is the share of the best 100 by `coarse` that the
    rounded vectors find, asked by 256 of the items, evenly spaced.
    """
    check_one_of("coarse_dtype", dtype, get_args(CoarseDtype))
    if dtype != "int8":
        return coarse.to(getattr(torch, dtype)), None
    coarse = coarse.float()
    return max((_rounded(coarse, how) for how in _choices(coarse)), key=_recall_of)


def _choices(coarse: Tensor) -> Iterator[Quantization]:
    """What is worth trying for float32 `[N, d]`; the usual one first."""
    reach = _reach(coarse)
    yield Quantization((reach or 1.0) / LARGEST, 0, 1.0)
    if len(coarse) < 2:
        return
    sample = coarse[:: -(-len(coarse) // LOOKED_AT)]
    for center in (coarse.double().mean(dim=0).float(), sample.median(dim=0).values):
        offset = tuple(center.tolist())
        around = _reach(coarse - center)
        if 0 < around < CENTRED * reach:
            yield Quantization(around / LARGEST, 0, 1.0, offset)
        usual = _reach(coarse - center, USUAL)
        if 0 < usual < around / FAR:
            yield Quantization(usual / LARGEST, 0, 1.0, offset)


def _rounded(coarse: Tensor, how: Quantization) -> tuple[Tensor, Quantization]:
    """`coarse` float32 `[N, d]` in int8, and what that costs."""
    clipped = int(((coarse - _offset(how, coarse)).abs() > (LARGEST + 0.5) * how.scale).sum())
    rounded = stored(coarse, how)
    return rounded, replace(how, clipped=clipped, recall=_recall(coarse, rounded))


def _recall_of(rounded: tuple[Tensor, Quantization]) -> float:
    return rounded[1].recall


def _reach(coarse: Tensor, percentile: float = PERCENTILE) -> float:
    """The percentile of absolute values; 0 where there are none."""
    values = coarse.abs().flatten()
    sample = values[:: -(-max(len(values), 1) // SAMPLE_VALUES)]
    if not len(sample):
        return 0.0
    return float(sample.kthvalue(max(1, round(percentile / 100 * len(sample)))).values)


def stored(coarse: Tensor, how: Quantization) -> Tensor:
    """Float coarse vectors `[N, d]` in int8."""
    return to_int8(coarse.float() - _offset(how, coarse), how.scale)


def restored(rounded: Tensor, how: Quantization) -> Tensor:
    """Float32 `[N, d]` of int8 ones."""
    return rounded.float() * how.scale + _offset(how, rounded)


def _offset(how: Quantization, like: Tensor) -> Tensor | float:
    return torch.tensor(how.offset, device=like.device) if how.offset else 0.0


def unshifted(queries: Tensor, how: Quantization) -> Tensor | float:
    """What the offset adds to every score of queries `[B, d]`: `[B, 1]`."""
    if not how.offset:
        return 0.0
    shift: Tensor = (queries.float() * _offset(how, queries)).sum(dim=1, keepdim=True)
    return shift


def beyond(coarse: Tensor, how: Quantization) -> bool:
    """Whether more than one value in a thousand of `coarse` `[N, d]` would be clipped."""
    values = (coarse.float() - _offset(how, coarse)).abs()
    return bool((values > (LARGEST + 0.5) * how.scale).float().mean() > MOST_CLIPPED)


def widened(coarse: Tensor, before: Quantization) -> Quantization:
    """The scale that fits `coarse` `[N, d]`, too, if they are found better by it than clipped by the one before."""
    reach = _reach(coarse.float() - _offset(before, coarse))
    scales = (before.scale, max(before.scale, reach / LARGEST))
    tried = [_rounded(coarse.float(), replace(before, scale=scale))[1] for scale in scales]
    best = max(tried, key=lambda how: how.recall)
    return replace(
        best, clipped=best.clipped + before.clipped, recall=min(best.recall, before.recall)
    )


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
