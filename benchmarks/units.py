"""Random unit vectors: the same for every seed, made a part at a time."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

PART = 1 << 18


def units(
    count: int,
    width: int,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`[count, width]` of `dtype` on `device`; int8 holds them times 127, rounded towards 0."""
    chance = torch.Generator(device=device).manual_seed(seed)
    scale = 127 if dtype == torch.int8 else 1
    made = torch.empty(count, width, dtype=dtype, device=device)
    for part in made.split(PART):
        part.copy_(
            scale * normalize(torch.randn(part.shape, generator=chance, device=device), dim=1)
        )
    return made
