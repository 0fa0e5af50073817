"""Captions as tokens, each said in several ways, made once: tokenising 1,024 captions takes some 60 ms of CPU."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoints import Processor
from engine.progress import progress
from engine.training.phrasing import phrase

WAYS = 16  # of saying a caption, beside the one that is written
AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class Sentences:
    """ids int32 and mask bool `[M, ways, T]`: way 0 is the caption as it is written."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, captions: Sequence[str], processor: Processor, *, phrasing: bool, seed: int
    ) -> "Sentences":
        """Tokenise `captions`; with `phrasing` in `WAYS` other ways too, drawn by `seed`."""
        ways = 1 + WAYS if phrasing else 1
        shape = (len(captions) * ways, processor.max_tokens)
        ids, mask = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, dtype=torch.bool)
        chance = random.Random(seed)
        said = [
            phrase(caption, chance) if way else caption
            for caption in captions
            for way in range(ways)
        ]
        with progress("tokenising captions", len(said)) as advance:
            for start in range(0, len(said), AT_A_TIME):
                tokens = processor.tokens(said[start : start + AT_A_TIME])
                some, width = tokens["input_ids"].shape
                ids[start : start + some, :width] = tokens["input_ids"].int()
                mask[start : start + some, :width] = tokens["attention_mask"].bool()
                # What stands beyond a shorter part's width is padding, by whatever id the tokenizer pads with.
                ids[start : start + some, width:] = processor.tokenizer.pad_token_id
                advance(some)
        return cls(ids.reshape(len(captions), ways, -1), mask.reshape(len(captions), ways, -1))

    def draw(self, count: int, chance: np.random.Generator) -> NDArray[np.int64]:
        """Which way to say each of `count` captions: one of the others, where there are any."""
        ways = self.ids.shape[1]
        return chance.integers(1, ways, count) if ways > 1 else np.zeros(count, dtype=np.int64)

    def tokens(
        self, rows: NDArray[np.int64], ways: NDArray[np.int64], *, cut: bool
    ) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` int64 `[B, T]`; `cut` to the longest sentence of the batch, or not."""
        at = (torch.from_numpy(rows), torch.from_numpy(ways))
        ids, mask = self.ids[at], self.mask[at]
        width = int(mask.any(dim=0).sum()) if cut else mask.shape[1]
        return {
            "input_ids": ids[:, :width].long(),
            "attention_mask": mask[:, :width].long(),
        }
