"""The fusion cross-encoder: padding does not change a score, and it learns which words belong to which picture."""

from pathlib import Path

import pytest
import torch

from benchmarks.fusion import FusionModel, Regions, Settings, score_pairs, train_fusion
from engine.dataset import Example
from engine.training.tokenizer import train_tokenizer

WORDS = ["cat", "dog", "sun", "tree", "fish", "boat", "rose", "drum"]
SMALL = Settings(width=32, layers=1, heads=2, steps=120, sentences=16, wrong=5, learning_rate=3e-3)


def regions_of(count: int) -> Regions:
    chance = torch.Generator().manual_seed(0)
    maps = torch.randn(count, 9, 320, generator=chance).half()
    return Regions(maps, torch.randn(count, 1280, generator=chance).half())


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer(WORDS * 3, 60, 16)


@torch.inference_mode()
def test_a_score_depends_on_its_own_pair_only(tokenizer: object) -> None:
    torch.manual_seed(0)
    model = FusionModel(len(tokenizer), SMALL).eval()  # type: ignore[arg-type]
    captions = ["cat", "dog sun tree fish boat", "rose drum"]
    every = score_pairs(model, regions_of(7), captions, tokenizer, SMALL)  # type: ignore[arg-type]
    assert every.shape == (3, 7)
    for row, caption in enumerate(captions):
        alone = score_pairs(model, regions_of(7), [caption], tokenizer, SMALL)  # type: ignore[arg-type]
        torch.testing.assert_close(alone[0], every[row], atol=0.02, rtol=0.02)  # bfloat16 products
    candidates = torch.tensor([[6, 0], [3, 3], [1, 5]])
    some = score_pairs(model, regions_of(7), captions, tokenizer, SMALL, candidates)  # type: ignore[arg-type]
    torch.testing.assert_close(some, every.gather(1, candidates), atol=0.02, rtol=0.02)


def test_it_learns_which_words_belong_to_which_picture(tokenizer: object) -> None:
    regions = regions_of(len(WORDS))
    examples = [Example(Path(f"{word}.png"), (word,), word) for word in WORDS]
    others = torch.tensor([[n for n in range(8) if n != row] for row in range(8)])
    model = train_fusion(regions, examples, others, tokenizer, SMALL)  # type: ignore[arg-type]
    scores = score_pairs(model, regions, WORDS, tokenizer, SMALL)  # type: ignore[arg-type]
    assert scores.argmax(dim=1).tolist() == list(range(8))
