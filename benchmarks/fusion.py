"""A fusion cross-encoder: the slow way of image-text matching that dual encoders replace.

UNITER (arXiv 1909.11740) and METER (arXiv 2111.02387) put the regions of one picture and the words of one sentence
through one transformer and ask whether they belong together; so N pictures and M sentences cost N x M passes. This
is such a model at the size of our example: over the same frozen EfficientNet-Lite0, its last map pooled to 3 x 3
regions and its 1,280 features as one more token; trained on the same pairs. For each sentence the right picture is
told from `wrong` others by a softmax, half of them the dual encoder's own mistakes.

From nothing such a model learns nearly nothing in the minutes that we have (docs/log.md). So it begins where a dual
encoder ended, as METER begins with trained towers and ALBEF (arXiv 2107.07651) with its own contrastive ones: it
has that encoder's word vectors, reads its score off a token made of the product of the pair's two fine vectors,
and, as BLIP (arXiv 2201.12086) does when it ranks, adds the dual encoder's own similarity to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from engine.checkpoints import Processor
from engine.dataset import Example
from engine.encoders.torch_encoder import CPU_IMAGES
from engine.images import read_image
from engine.model.image_tower import FEATURE_DIM, EfficientNetLite0
from engine.progress import progress

GRID = 3  # regions a side
REGION_DIM = 320  # channels of the tower's last map
PAIRS_AT_A_TIME = 8192


@dataclass(frozen=True)
class Settings:
    """Size and training; the defaults are what the comparison uses."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    max_tokens: int = 16
    steps: int = 500
    sentences: int = 64  # in a step
    wrong: int = 15  # pictures beside the right one, each sentence
    learning_rate: float = 1e-3
    dropout: float = 0.1
    alone: float = 0.5  # share of sentences that train without the similarity: it knows its training pairs by heart
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Regions:
    """What the frozen tower sees, `maps` float16 `[N, 9, 320]` and `whole` float16 `[N, 1280]`, and the dual
    encoder's `fine` vectors float32 `[N, D]`."""

    maps: Tensor
    whole: Tensor
    fine: Tensor

    def take(self, rows: Tensor) -> Regions:
        return Regions(self.maps[rows], self.whole[rows], self.fine[rows])

    def __len__(self) -> int:
        return len(self.whole)


class FusionModel(nn.Module):
    """Pairs of a picture and a sentence to one score each, higher = they belong together.

    words: the dual encoder's word vectors, float32 `[vocabulary, E]`; fine_dim: D of its fine vectors.
    """

    def __init__(self, words: Tensor, fine_dim: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.words = nn.Sequential(
            nn.Embedding.from_pretrained(words.clone(), freeze=False),
            nn.LayerNorm(words.shape[1]),
            nn.Linear(words.shape[1], width),
        )
        self.places = nn.Parameter(0.02 * torch.randn(settings.max_tokens, width))
        self.regions = nn.Sequential(nn.LayerNorm(REGION_DIM), nn.Linear(REGION_DIM, width))
        self.region_places = nn.Parameter(0.02 * torch.randn(GRID * GRID, width))
        self.whole = nn.Sequential(nn.LayerNorm(FEATURE_DIM), nn.Linear(FEATURE_DIM, width))
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 4 * width, settings.dropout, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.transformer = nn.TransformerEncoder(
            layer, settings.layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.agreement = nn.Linear(fine_dim, width)  # no LayerNorm: it would take away the sum
        self.score = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.tensor(math.log(20.0)))  # of the similarity, its logarithm
        nn.init.zeros_(self.score.weight)  # at first it ranks as the dual encoder does
        nn.init.zeros_(self.score.bias)

    def picture_tokens(self, regions: Regions) -> Tensor:
        """`[N, 10, width]`: the whole picture first, then its regions."""
        maps = self.regions(regions.maps.float()) + self.region_places
        return torch.cat([self.whole(regions.whole.float())[:, None], maps], dim=1)

    def forward(
        self,
        pictures: Tensor,
        ids: Tensor,
        mask: Tensor,
        images: Tensor,
        texts: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """Picture tokens `[P, 10, width]`, token ids and mask `[P, T]`, fine vectors `[P, D]` of both sides, and
        float32 `[P]` what their similarity counts: scores `[P]`."""
        words = self.words(ids) + self.places[: ids.shape[1]]
        product = images * texts
        agreement = self.agreement(product * product.shape[1])[:, None]  # of unit vectors
        states = torch.cat([agreement, pictures, words], dim=1)
        hidden = F.pad(mask == 0, (states.shape[1] - mask.shape[1], 0))
        states = self.transformer(states, src_key_padding_mask=hidden)
        scores: Tensor = self.score(states[:, 0])[:, 0].float()
        return scores + kept * self.scale.exp() * product.sum(dim=1)


@torch.inference_mode()
def look(
    tower: EfficientNetLite0, processor: Processor, examples: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """Every picture's `maps` and `whole`, once, by the frozen tower."""
    maps, whole = [], []
    with progress("regions", len(examples)) as advance:
        for start in range(0, len(examples), CPU_IMAGES):
            some = examples[start : start + CPU_IMAGES]
            x = processor.pixels([read_image(example.image) for example in some])
            x = F.relu6(tower.stem(x))
            for block in tower.blocks:
                x = block(x)
            maps.append(F.adaptive_avg_pool2d(x, GRID).flatten(2).transpose(1, 2).half())
            whole.append(F.relu6(tower.head(x)).mean(dim=(2, 3)).half())
            advance(len(some))
    return torch.cat(maps), torch.cat(whole)


def train_fusion(
    regions: Regions,
    examples: Sequence[Example],
    confused: Tensor,
    texts: Tensor,
    words: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
) -> FusionModel:
    """Train on the pairs of `examples`.

    confused: int64 `[N, H]`; for each picture, H others that its caption is mistaken for.
    texts: the dual encoder's fine vectors float32 `[M, D]` of all captions, those of one picture together.
    words: its word vectors.
    """
    torch.manual_seed(settings.seed)
    chance = torch.Generator().manual_seed(settings.seed)
    model = FusionModel(words, texts.shape[1], settings)
    captions = [caption for example in examples for caption in example.captions]
    counts = torch.tensor([len(example.captions) for example in examples])
    first = counts.cumsum(0) - counts
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    concepts = {name: n for n, name in enumerate(dict.fromkeys(e.concept for e in examples))}
    shown = torch.tensor([concepts[example.concept] for example in examples])
    model.train()
    with progress("fusion", settings.steps) as advance:
        for _ in range(settings.steps):
            right = torch.randint(len(examples), (settings.sentences,), generator=chance)
            pictures = torch.cat([right[:, None], _wrong(right, confused, settings, chance)], dim=1)
            drawn = first[right] + (torch.rand(len(right), generator=chance) * counts[right]).long()
            ids, mask = _tokens(tokenizer, [captions[row] for row in drawn], settings)
            some, each = regions.take(pictures.flatten()), pictures.shape[1]
            kept = (torch.rand(len(right), generator=chance) >= settings.alone).float()
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(
                    model.picture_tokens(some),
                    ids.repeat_interleave(each, 0),
                    mask.repeat_interleave(each, 0),
                    some.fine,
                    texts[drawn].repeat_interleave(each, 0),
                    kept.repeat_interleave(each),
                )
            scores = scores.view_as(pictures)
            same = shown[pictures] == shown[right][:, None]  # other pictures of the same thing
            same[:, 0] = False
            loss = -scores.masked_fill(same, -torch.inf).log_softmax(dim=1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
    return model.eval()


def _wrong(right: Tensor, confused: Tensor, settings: Settings, chance: torch.Generator) -> Tensor:
    """`[B, wrong]` pictures: half drawn from those that the sentence is mistaken for, the rest from all."""
    hard = settings.wrong // 2
    of_the_confused = torch.randint(confused.shape[1], (len(right), hard), generator=chance)
    anyone = torch.randint(len(confused), (len(right), settings.wrong - hard), generator=chance)
    return torch.cat([confused[right].gather(1, of_the_confused), anyone], dim=1)


@torch.inference_mode()
def score_pairs(
    model: FusionModel,
    regions: Regions,
    captions: Sequence[str],
    texts: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    candidates: Tensor | None = None,
) -> Tensor:
    """Scores float32 `[M, N]` of all pairs, or `[M, C]` of each caption with its `candidates` int64 `[M, C]`.

    texts: the dual encoder's fine vectors float32 `[M, D]` of the captions.
    """
    ids, mask = _tokens(tokenizer, captions, settings)
    tokens = model.picture_tokens(regions)
    width = len(regions) if candidates is None else candidates.shape[1]
    scores = torch.empty(len(captions), width)
    at_a_time = max(1, PAIRS_AT_A_TIME // width)
    with progress("scoring pairs", len(captions)) as advance:
        for start in range(0, len(captions), at_a_time):
            some = slice(start, min(start + at_a_time, len(captions)))
            count = some.stop - some.start
            rows = (
                torch.arange(len(regions)).expand(count, -1)
                if candidates is None
                else candidates[some]
            )
            length = int(mask[some].sum(dim=1).max())
            with torch.autocast("cpu", torch.bfloat16):
                found = model(
                    tokens[rows.flatten()],
                    ids[some, :length].repeat_interleave(width, 0),
                    mask[some, :length].repeat_interleave(width, 0),
                    regions.fine[rows.flatten()],
                    texts[some].repeat_interleave(width, 0),
                    torch.ones(rows.numel()),
                )
            scores[some] = found.view(count, width)
            advance(count)
    return scores


def _tokens(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], settings: Settings
) -> tuple[Tensor, Tensor]:
    found = tokenizer(
        list(captions),
        padding=True, truncation=True, max_length=settings.max_tokens, return_tensors="pt",
    )  # fmt: skip
    return found["input_ids"], found["attention_mask"]
