"""EfficientNet-Lite (Tan and Le, 2019, without squeeze-and-excitation), as a backbone.

The convolutions pad as the framework did that the published ImageNet weights come from, so that
those weights mean here what they meant there.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 1280
#: expansion, channels out, blocks, kernel, stride of the first block
Stages = tuple[tuple[int, int, int, int, int], ...]
LITE0: Stages = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
LITE2: Stages = (
    (1, 16, 1, 3, 1),
    (6, 24, 3, 3, 2),
    (6, 48, 3, 5, 2),
    (6, 88, 4, 3, 2),
    (6, 120, 4, 5, 1),
    (6, 208, 5, 5, 2),
    (6, 352, 1, 3, 1),
)


class SameConv(nn.Conv2d):
    """Convolution with more padding at the end than at the beginning where it is uneven."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = input.shape[-2:]
        down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        across = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        if across % 2 == 0 and down % 2 == 0:  # nearly all: no copy of what comes in
            padding = (down // 2, across // 2)
            conv = (self.stride, padding, self.dilation, self.groups)
            return functional.conv2d(input, self.weight, self.bias, *conv)
        uneven = (across // 2, across - across // 2, down // 2, down - down // 2)
        return super().forward(functional.pad(input, uneven))


def _unit(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = SameConv(a, b, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(b, eps=1e-3))


class _Block(nn.Module):
    def __init__(self, a: int, b: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = a * expansion
        self.expand = _unit(a, wide, 1) if expansion > 1 else None
        self.depthwise = _unit(wide, wide, kernel, stride, groups=wide)
        self.project = _unit(wide, b, 1)
        self.adds = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        y = self.project(functional.relu6(self.depthwise(y), inplace=True))
        return cast(Tensor, x + y if self.adds else y)


class EfficientNetLite(nn.Module):
    """(N, 3, s, s), grey levels as (255 g - 127) / 128, to feature maps (N, 1280, s/32, s/32)."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stem = _unit(3, 32, 3, 2)
        blocks, a = [], 32
        for expansion, b, repeats, kernel, stride in stages:
            for i in range(repeats):
                blocks.append(_Block(a, b, expansion, kernel, stride if i == 0 else 1))
                a = b
        self.blocks = nn.Sequential(*blocks)
        self.last = _unit(a, CHANNELS, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.blocks(functional.relu6(self.stem(pictures), inplace=True))
        return functional.relu6(cast(Tensor, self.last(x)), inplace=True)


class Encoder(nn.Module):
    """The stages of an EfficientNet-Lite, without its last convolution.

    (N, 3, s, s), grey levels as above, to what each of the stages `seen` makes of it, finest first:
    (N, widths[i], …) of either sign, halved each time that a stage halves.
    """

    def __init__(self, stages: Stages, seen: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths(stages, seen)
        #: The last block of each of them.
        self.ends = tuple(sum(stage[2] for stage in stages[: i + 1]) - 1 for i in seen)
        whole = EfficientNetLite(stages)
        self.stem = whole.stem
        self.blocks = whole.blocks[: self.ends[-1] + 1]

    def forward(self, pictures: Tensor) -> list[Tensor]:
        return levels(self.stem, self.blocks, self.ends, pictures)


def widths(stages: Stages, seen: tuple[int, ...]) -> tuple[int, ...]:
    """How many features each of the stages `seen` gives."""
    return tuple(stages[i][1] for i in seen)


def strides(stages: Stages, seen: tuple[int, ...]) -> tuple[int, ...]:
    """How many pixels to a side one feature of each of the stages `seen` stands for."""
    return tuple(2 * math.prod(stage[4] for stage in stages[: i + 1]) for i in seen)


def levels(
    stem: nn.Module, blocks: nn.Sequential, ends: tuple[int, ...], pictures: Tensor
) -> list[Tensor]:
    """What comes out of the blocks named in `ends`."""
    x = functional.relu6(stem(pictures), inplace=True)
    found = []
    for i, block in enumerate(blocks):
        x = block(x)
        if i in ends:
            found.append(x)
    return found


class SideBySide(nn.Module):
    """Lite0 and Lite2 on the same picture: (N, 3, s, s) to (N, 2560, s/32, s/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.lite0, self.lite2 = EfficientNetLite(LITE0), EfficientNetLite(LITE2)

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.lite0(pictures), self.lite2(pictures)], dim=1)
