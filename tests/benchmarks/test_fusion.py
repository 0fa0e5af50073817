"""The fusion cross-encoder: padding does not change a score, and it learns which words belong to which picture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks.fusion import FusionModel, Regions, Settings, score_pairs, train_fusion
from engine.dataset import Example
from engine.training.tokenizer import train_tokenizer

WORDS = ["cat", "dog", "sun", "tree", "fish", "boat", "rose", "drum"]
SMALL = Settings(width=32, layers=1, heads=2, steps=240, sentences=16, wrong=5, learning_rate=1e-3)


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def regions_of(count: int) -> Regions:
    maps = rows(count, 9 * 320).view(count, 9, 320).half()
    return Regions(maps, rows(count, 1280, 1).half(), F.normalize(rows(count, 24, 2)))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(WORDS * 3, 60, 16)


@torch.inference_mode()
def test_a_score_depends_on_its_own_pair_only(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = FusionModel(rows(len(tokenizer), 16), 24, SMALL).eval()
    torch.nn.init.normal_(model.score.weight)
    regions, texts = regions_of(7), F.normalize(rows(3, 24, 3))
    captions = ["cat", "dog sun tree fish boat", "rose drum"]
    every = score_pairs(model, regions, captions, texts, tokenizer, SMALL)
    assert every.shape == (3, 7)
    for row, caption in enumerate(captions):
        alone = score_pairs(model, regions, [caption], texts[row : row + 1], tokenizer, SMALL)
        torch.testing.assert_close(alone[0], every[row], atol=0.02, rtol=0.02)  # bfloat16 products
    candidates = torch.tensor([[6, 0], [3, 3], [1, 5]])
    some = score_pairs(model, regions, captions, texts, tokenizer, SMALL, candidates)
    torch.testing.assert_close(some, every.gather(1, candidates), atol=0.02, rtol=0.02)


@torch.inference_mode()
def test_untrained_it_ranks_as_the_dual_encoder(tokenizer: Any) -> None:
    model = FusionModel(rows(len(tokenizer), 16), 24, SMALL).eval()
    regions, texts = regions_of(7), F.normalize(rows(8, 24, 3))
    scores = score_pairs(model, regions, WORDS, texts, tokenizer, SMALL)
    torch.testing.assert_close(scores, 20 * texts @ regions.fine.T, atol=1e-4, rtol=1e-4)


def test_it_learns_which_words_belong_to_which_picture(tokenizer: Any) -> None:
    """Though the dual encoder's vectors, zeros, say nothing about it."""
    regions, texts = regions_of(len(WORDS)), torch.zeros(8, 24)
    examples = [Example(Path(f"{word}.png"), (word,), word) for word in WORDS]
    others = torch.tensor([[n for n in range(8) if n != row] for row in range(8)])
    words = rows(len(tokenizer), 16)
    model = train_fusion(regions, examples, others, texts, words, tokenizer, SMALL)
    scores = score_pairs(model, regions, WORDS, texts, tokenizer, SMALL)
    assert scores.argmax(dim=1).tolist() == list(range(8))
