"""Small U-Nets that draw left lung, right lung and heart (paper, section 3).

Three independent sigmoids, because lungs and heart touch; by this project's convention the lungs
end where the heart begins. The masks leave folded (4 channels become 2 x 2 pixels), which costs no
sharpness and saves three quarters of the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets import efficientnet_lite as lite
from prescreen.study import ORGANS

#: Side of the square input in pixels; masks come out at the same size.
INPUT_SIZE = 256
WIDTHS = (16, 32, 64, 128, 128)


class Block(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU; size is kept."""

    def __init__(self, channels_in: int, channels_out: int, middle: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Segmenter(nn.Module, ABC):
    """(N, 1, s, s) pictures, 0…1 after `inputs.stretch`, to (N, 3, s, s) logits per organ.

    The order is `study.ORGANS`; s is a multiple of 32. What differs is how a picture is encoded:
    `widths` are the channels of the levels, finest first, and `deeper` those that the decoder has
    on its way up.
    """

    def __init__(self, widths: tuple[int, ...], deeper: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        below = (widths[-1], *deeper)
        rows = zip(below, widths[-2::-1], deeper, strict=False)
        self.up = nn.ModuleList(Block(deep + skip, out, out) for deep, skip, out in rows)
        self.out = nn.Conv2d(deeper[-1], 4 * len(ORGANS), 1)

    @abstractmethod
    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Features of every level, finest first: (N, widths[i], s/2^(i+1), s/2^(i+1))."""

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Logits (N, 3, s, s) from the features of `encode`."""
        x = levels[-1]
        for block, skip in zip(self.up, levels[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return functional.pixel_shuffle(cast(Tensor, self.out(x)), 2)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.decode(self.encode(pictures))


class UNet(Segmenter):
    """From scratch, 1.2 M parameters; the picture enters folded, as the masks leave."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__(widths, widths[-2::-1])
        inner = (4, *widths)
        self.down = nn.ModuleList(Block(a, b, b) for a, b in zip(inner, widths, strict=False))

    def encode(self, pictures: Tensor) -> list[Tensor]:
        x = functional.pixel_unshuffle(2.0 * pictures - 1.0, 2)
        levels = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else functional.max_pool2d(x, 2))
            levels.append(x)
        return levels


class LiteUNet(Segmenter):
    """With the stages of EfficientNet-Lite0 down to 1/32 as its encoder: 2.7 M parameters.

    Few radiographs have masks; the encoder can start from ImageNet.
    """

    def __init__(self) -> None:
        encoder = lite.Encoder(lite.LITE0, LITE_STAGES)
        super().__init__(encoder.widths, (80, 48, 24, 24))
        # by the names that runs and weights have for them
        self.stem, self.blocks = encoder.stem, encoder.blocks
        self._ends = encoder.ends

    def encode(self, pictures: Tensor) -> list[Tensor]:
        grey = ((255.0 * pictures - 127.0) / 128.0).expand(-1, 3, -1, -1)
        return lite.levels(self.stem, self.blocks, self._ends, grey)


#: The last stage of each resolution of EfficientNet-Lite0: 1/2, 1/4, 1/8, 1/16, 1/32.
LITE_STAGES = (0, 1, 2, 4, 5)
#: By the name that manifests and training runs have for them.
SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    f"unet{WIDTHS}": UNet,
    "unet_efficientnet_lite0": LiteUNet,
}


def dice(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Dice coefficient per picture and organ, (N, C) of 0…1, from (N, C, h, w) each.

    2|A∩B| / (|A| + |B|), smoothed by one pixel outside the doubled numerator so that it never
    exceeds 1 (paper, section 3.2).
    """
    overlap = (probabilities * masks).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + masks.sum(dim=(2, 3))
    return (2.0 * overlap + 1.0) / (total + 1.0)


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - mean Dice of the sigmoids: a scalar, 0 for identical masks."""
    return 1.0 - dice(torch.sigmoid(logits), masks).mean()
