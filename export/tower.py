"""One tower of a checkpoint, ready to export: float32 and int32 in, float32 out, any dtype inside."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.checkpoints import Checkpoint
from engine.encoders.manifest import Dtype, Tower
from export.precision import Float32Where, lower

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class ExportedTower(nn.Module):
    """`pixel_values`, or `input_ids` and `attention_mask`, to coarse float32 `[B, d]` and fine `[B, D]`, unit rows.

    rotation: float32 `[D, d]`, for a tower with no coarse head: coarse is `fine @ rotation`, then of unit length.
    """

    def __init__(self, tower: nn.Module, dtype: Dtype, rotation: Tensor | None) -> None:
        super().__init__()
        self.tower = (
            tower.eval() if dtype == "fp32" else lower(copy.deepcopy(tower).eval(), DTYPES[dtype])
        )
        self.dtype = DTYPES[dtype]
        self.rotation = None if rotation is None else nn.Buffer(rotation)
        self.eval()

    def vectors(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's own, given float inputs of its dtype and int64 ids."""
        if self.dtype == torch.float32:
            coarse, fine = self.tower(*inputs)
        else:
            with Float32Where():
                coarse, fine = self.tower(*inputs)
        fine = fine.float()
        if coarse is None:
            assert self.rotation is not None
            coarse = F.normalize(fine @ self.rotation, dim=-1)
        return coarse.float(), fine


class ImageTower(ExportedTower):
    """Pictures, preprocessed: float32 `[B, 3, H, W]`."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.vectors(pixel_values.to(self.dtype))


class TextTower(ExportedTower):
    """Token ids and their mask: int32 `[B, T]`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.vectors(input_ids.long(), attention_mask.long())


def exported_tower(
    checkpoint: Checkpoint, tower: Tower, dtype: Dtype, rotation: Tensor | None = None
) -> ExportedTower:
    """One tower of `checkpoint`; its weights are shared where `dtype` is "fp32", else a cast copy."""
    kind: Any = ImageTower if tower == "image" else TextTower
    module: ExportedTower = kind(getattr(checkpoint, tower), dtype, rotation)
    return module
