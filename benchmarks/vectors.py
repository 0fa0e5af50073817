"""Vectors to search: real ones made many, and clusters. Both are float32 rows of unit length, the same every time.

Random directions are the hardest vectors there are, and nobody has them: all their dims matter alike. Those of
pictures lie near each other in few directions, which every method here lives on.

    real        the bundled pictures as the example's image tower sees them (1,280 features, rotated to D dims by
                their own singular vectors). Every eighth picture asks; the others, n of them, are made N: the
                items beyond the n themselves are
                    r_i + u (r_j - r_i) + (r_a - r_b) / 2,    scaled to length 1,
                with r_j and r_b among the eight nearest of r_i and r_a, u uniform in [0, 1/2): points between
                neighbours, moved by what differs between other neighbours
    clusters    a normal mixture: N / 256 centres, standard deviation of dim j ∝ (1 + j)^-½, points about them half
                as wide; queries are further points
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.machine import ROOT
from engine.checkpoints import open_checkpoint
from engine.dataset import read_dataset
from engine.model import HiVLPModel
from engine.training.features import cached_features, features_key, picture_features
from kernels import coarse_topk

Kind: TypeAlias = Literal["real", "clusters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXAMPLES = ROOT / "examples"
FEATURES = ROOT / "build" / "benchmarks" / "features.safetensors"
EVERY = 8  # one picture of so many asks
NEAREST = 8
PART = 1 << 16  # items made at a time
CLUSTER = 256


def vectors(kind: Kind, count: int, width: int, queries: int) -> tuple[Tensor, Tensor]:
    """Items `[count, width]` and `[queries, width]`, unit rows; the first 533 real queries are pictures."""
    made = {"real": _real, "clusters": clusters}[kind]
    return made(count, width, queries)


def _real(count: int, width: int, queries: int) -> tuple[Tensor, Tensor]:
    seen = normalize(picture_vectors(), dim=1)
    seen = normalize(seen @ torch.linalg.svd(seen, full_matrices=False).Vh[:width].T, dim=1)
    asks = torch.arange(len(seen)) % EVERY == 0
    return enlarged(seen[~asks], count, seed=0), enlarged(seen[asks], queries, seed=1)


def picture_vectors(file: Path = FEATURES) -> Tensor:
    """Features of the bundled pictures, float32 `[n, 1280]`; computed once, about a minute."""
    examples = read_dataset(EXAMPLES / "pictures", None, None)
    model = HiVLPModel.from_pretrained(
        EXAMPLES / "checkpoint", dtype=torch.float32, trust_remote_code=False
    )
    processor = open_checkpoint(EXAMPLES / "checkpoint").processor
    features = cached_features(
        file, features_key(examples, "efficientnet-lite0", 1, 0), len(examples),
        lambda first, last: picture_features(model, processor, examples[first:last], 1, 0),
    )  # fmt: skip
    return features[:, 0].float()


def enlarged(seen: Tensor, count: int, seed: int) -> Tensor:
    """`count` unit rows from those seen, which come first; see the head of this file."""
    generator = torch.Generator().manual_seed(seed)
    near = coarse_topk(seen, seen, NEAREST + 1).rows[:, 1:]
    made = torch.empty(count, seen.shape[1])
    made[: len(seen)] = seen[:count]
    for start in range(len(seen), count, PART):
        size = min(PART, count - start)
        one, other = (torch.randint(len(seen), (size,), generator=generator) for _ in range(2))
        steps = [
            near[rows, torch.randint(NEAREST, (size,), generator=generator)]
            for rows in (one, other)
        ]
        between = torch.rand(size, 1, generator=generator) / 2
        moved = seen[one] + between * (seen[steps[0]] - seen[one])
        made[start : start + size] = normalize(moved + (seen[other] - seen[steps[1]]) / 2, dim=1)
    return made


def clusters(
    count: int, width: int, queries: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Made on `device`, where they stay: the same every time on one kind of device, not across kinds."""
    made = points(count, width, device=device)(count + queries)
    return made[:count], made[count:]


def points(
    count: int,
    width: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Callable[[int], Tensor]:
    """What draws the next so many points, `[n, width]`, of the clusters that `count` items have."""
    generator = torch.Generator(device).manual_seed(2)
    normal = partial(torch.randn, generator=generator, device=device)
    spread = (1 + torch.arange(width, device=device)) ** -0.5
    centres = spread * normal(max(count // CLUSTER, 1), width)

    def drawn(number: int) -> Tensor:
        made = torch.empty(number, width, device=device, dtype=dtype)
        for part in made.split(PART):
            near = torch.randint(len(centres), (len(part),), generator=generator, device=device)
            off = spread / 2 * normal(len(part), width)
            part.copy_(normalize(centres[near] + off, dim=1))
        return made

    return drawn
