"""The image tower: EfficientNet-Lite0, the variant of EfficientNet without squeeze-and-excitation.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946); the
Lite variant drops squeeze-and-excitation, uses ReLU6, and keeps stem and head unscaled. `transformers`' own
EfficientNet always has squeeze-and-excitation, so its classes cannot hold these weights.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_DIM = 1280
BATCH_NORM_EPS = 1e-3  # TensorFlow's, with which the published weights were trained

# (kernel, first stride, expansion, channels in, channels out, repeats), one row a stage
STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: where it is odd, the extra row and column go last.

    The weights expect it; PyTorch's symmetric padding would shift every strided layer by a pixel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, **others: Any) -> None:
        even = kernel // 2 if stride == 1 else 0  # as much on either side: the convolution's own
        super().__init__(inputs, outputs, kernel, stride, padding=even, **others)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if self.stride[0] == 1:
            return super().forward(x)
        pads = [
            _same_padding(x.shape[axis], self.kernel_size[0], self.stride[0]) for axis in (3, 2)
        ]
        return super().forward(F.pad(x, (*pads[0], *pads[1])))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS),
    )


class Block(nn.Module):
    """Mobile inverted bottleneck: expand, depthwise, project; added to its input where shapes agree."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _conv(inputs, width, 1) if expansion != 1 else None
        self.depthwise = _conv(width, width, kernel, stride, groups=width)
        self.project = _conv(width, outputs, 1)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds_input else y


class EfficientNetLite0(nn.Module):
    """Pictures `[B, 3, H, W]` to pooled features `[B, 1280]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(
            Block(
                kernel, stride if n == 0 else 1, expansion, inputs if n == 0 else outputs, outputs
            )
            for kernel, stride, expansion, inputs, outputs, repeats in STAGES
            for n in range(repeats)
        )
        self.head = _conv(320, FEATURE_DIM, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = F.relu6(self.stem(pixel_values))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean(dim=(2, 3))
