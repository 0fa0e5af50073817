"""open_clip's CLIP written down from its documented structure, as an oracle: same parameter names, same results.

Checked once against open_clip_torch itself (docs/log.md); it cannot be a dependency, since it needs torchvision.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=activation(),
                c_proj=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Vision(nn.Module):
    def __init__(self, cfg: dict[str, Any], dim: int, activation: type[nn.Module]) -> None:
        super().__init__()
        width, patch = cfg["width"], cfg["patch_size"]
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        positions = (cfg["image_size"] // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.zeros(positions, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, width // cfg["head_width"], cfg["layers"], activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, dim))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """`model_cfg` to the model; `encode_image` and `encode_text` return unit rows."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        activation = QuickGELU if cfg["quick_gelu"] else nn.GELU
        text = cfg["text_cfg"]
        width = text["width"]
        self.visual = Vision(cfg["vision_cfg"], cfg["embed_dim"], activation)
        self.transformer = Transformer(width, text["heads"], text["layers"], activation)
        self.token_embedding = nn.Embedding(text["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.zeros(text["context_length"], width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, cfg["embed_dim"]))
        self.logit_scale = nn.Parameter(torch.zeros([]))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.visual(pixels), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Ids `[B, T]`, the end token being the largest of its row."""
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, mask))
        ends = x[torch.arange(len(ids)), ids.argmax(dim=-1)]
        return nn.functional.normalize(ends @ self.text_projection, dim=-1)
