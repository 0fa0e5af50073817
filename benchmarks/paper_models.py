"""The models that `benchmarks.paper` times: transformers of BERT-base's size with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.rows import Row
from benchmarks.timing import percentiles, take_turns

if TYPE_CHECKING:
    from transformers import BertModel

REGIONS, REGION, WORDS = 36, 2048, 16  # of a picture, numbers in each, of a sentence


@dataclass(frozen=True)
class Size:
    """Of a transformer; the default is BERT-base's."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30_522


BASE = Size()


def bert(size: Size) -> BertModel:
    """With random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, intermediate_size=size.inner,
    )  # fmt: skip
    tower: BertModel = BertModel(config).eval()
    return tower


class Fusion(nn.Module):
    """Regions `[P, 36, width]` and words int64 `[P, 16]` of P pairs to their scores `[P]`."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tower = bert(size)
        self.score = nn.Linear(size.width, 1)

    def forward(self, regions: Tensor, words: Tensor) -> Tensor:
        embedded = self.tower.get_input_embeddings()(words)
        states = self.tower(inputs_embeds=torch.cat([embedded, regions], dim=1))
        scores: Tensor = self.score(states.pooler_output)[:, 0]
        return scores


class TextEncoder(nn.Module):
    """Words int64 `[B, 16]` to unit vectors `[B, width]`."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tower = bert(size)

    def forward(self, words: Tensor) -> Tensor:
        return normalize(self.tower(input_ids=words).last_hidden_state[:, 0], dim=1)


class ImageEncoder(nn.Module):
    """Regions `[B, 36, 2048]` to unit vectors `[B, width]`."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.project = nn.Linear(REGION, size.width)
        self.tower = bert(size)

    def forward(self, regions: Tensor) -> Tensor:
        states = self.tower(inputs_embeds=self.project(regions))
        return normalize(states.last_hidden_state[:, 0], dim=1)


def some_words(count: int, size: Size) -> Tensor:
    return torch.randint(size.vocabulary, (count, WORDS))


def pairs_of(count: int, size: Size) -> tuple[Tensor, Tensor]:
    """What the fusion model is given."""
    return torch.randn(count, REGIONS, size.width), some_words(count, size)


def ready(model: nn.Module, given: Sequence[Tensor], dtype: str) -> Callable[[], Any]:
    """A call of the model in another dtype."""
    kind: torch.dtype = getattr(torch, dtype)
    cast = copy.deepcopy(model).to(kind)
    inputs = [x.to(kind) if x.is_floating_point() else x for x in given]
    return torch.inference_mode()(partial(cast, *inputs))


def in_both_dtypes(model: nn.Module, given: Sequence[Tensor], seconds: float) -> Row:
    """Milliseconds of a call in float32 and in bfloat16, in turns; `ms` are those of the faster, `dtype`."""
    runs = {dtype: ready(model, given, dtype) for dtype in ("float32", "bfloat16")}
    found = {
        dtype: percentiles(times) for dtype, times in take_turns(runs, seconds=seconds).items()
    }
    faster = min(found, key=lambda dtype: found[dtype]["p50"])
    return {"dtype": faster, "ms": found[faster], "dtypes": found}
