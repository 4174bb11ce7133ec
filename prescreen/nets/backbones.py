"""The convolutional networks that attention and masked weighting can be put around.

Each takes (N, 3, s, s) and gives a grid of features, one cell for every 32 x 32 pixels. To add
one, add a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets import efficientnet_lite as lite
from prescreen.nets import unet

Triple = tuple[float, float, float]
_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255
#: Below this a square has no root that could be learnt through.
_LEAST = 1e-6
#: Pixels to a side of a cell of the coarsest stage.
_CELL = 32


@dataclass(frozen=True)
class Backbone:
    """How to build one, how many features it gives, and the grey scale it was made for.

    `groups` are the features of each of several networks beside each other, in their order: heads
    that are fitted in closed form are fitted to each, and their mean is taken.
    """

    build: Callable[[], nn.Module]
    channels: int
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD
    groups: tuple[int, ...] = ()

    def three_channels(self, pictures: Tensor) -> Tensor:
        """(N, 1, h, w), 0…1 after `inputs.stretch`, to (N, 3, h, w) with its mean and spread."""
        mean = pictures.new_tensor(self.mean).view(1, 3, 1, 1)
        std = pictures.new_tensor(self.std).view(1, 3, 1, 1)
        return (pictures - mean) / std


def _densenet121() -> nn.Module:
    features: nn.Module = torchvision.models.densenet121(weights=None).features
    return features


def _resnet50() -> nn.Module:
    return _without_head(torchvision.models.resnet50(weights=None))


def _resnet18() -> nn.Module:
    return _without_head(torchvision.models.resnet18(weights=None))


def _without_head(whole: nn.Module) -> nn.Module:
    return nn.Sequential(*list(whole.children())[:-2])


def _lite(build: Callable[[], nn.Module], channels: int, groups: tuple[int, ...] = ()) -> Backbone:
    grey = (_LITE_MEAN,) * 3, (_LITE_STD,) * 3
    return Backbone(build, channels, *grey, groups)


#: Whose stages `Stages` can look at: how they are built, and which of them.
_ENCODERS = {
    "lite0": (lite.LITE0, tuple(range(len(lite.LITE0)))),
    "lite2": (lite.LITE2, tuple(range(len(lite.LITE2)))),
    "drawing": (lite.LITE0, unet.LITE_STAGES),
}


class Stages(nn.Module):
    """Every stage of several encoders side by side, as features of either sign.

    (N, 3, s, s), grey levels as EfficientNet-Lite takes them, to (N, sum(groups), s/32, s/32): of
    what the finer stages see the mean over each cell of the coarsest and, with `spread`, its root
    mean square. What lies deepest is made for the thousand things of ImageNet; radiographs differ
    in what lies before. `drawing` is the encoder of the network that draws lungs and heart.
    """

    def __init__(self, encoders: tuple[str, ...], spread: bool) -> None:
        super().__init__()
        self._encoders, self._spread = encoders, spread
        for name in encoders:
            self.add_module(name, lite.Encoder(*_ENCODERS[name]))

    @staticmethod
    def groups(encoders: tuple[str, ...], spread: bool) -> tuple[int, ...]:
        """How many features there are of each encoder: means, and then root mean squares."""
        each = [sum(lite.widths(*_ENCODERS[name])) for name in encoders]
        return tuple(width for width in each for _ in range(1 + spread))

    def forward(self, pictures: Tensor) -> Tensor:
        found: list[Tensor] = []
        for name in self._encoders:
            # known beforehand, not read off a level: torch 2.6 could not trace that
            cells = [_CELL // stride for stride in lite.strides(*_ENCODERS[name])]
            levels = list(zip(self.get_submodule(name)(pictures), cells, strict=True))
            found += [functional.avg_pool2d(x, cell) for x, cell in levels]
            if self._spread:
                squares = [functional.avg_pool2d(x * x, cell) for x, cell in levels]
                found += [mean.clamp_min(_LEAST).sqrt() for mean in squares]
        return torch.cat(found, dim=1)


def _stages(*encoders: str, spread: bool) -> Backbone:
    groups = Stages.groups(encoders, spread)
    return _lite(lambda: Stages(encoders, spread), sum(groups), groups)


BACKBONES: dict[str, Backbone] = {
    "densenet121": Backbone(_densenet121, 1024),
    "resnet50": Backbone(_resnet50, 2048),
    "resnet18": Backbone(_resnet18, 512),
    "efficientnet_lite0": _lite(lambda: lite.EfficientNetLite(lite.LITE0), lite.CHANNELS),
    "efficientnet_lite2": _lite(lambda: lite.EfficientNetLite(lite.LITE2), lite.CHANNELS),
    "efficientnet_lite0+2": _lite(lite.SideBySide, 2 * lite.CHANNELS),
    "efficientnet_lite0+drawing": _stages("lite0", "drawing", spread=True),
    "efficientnet_lite0+2+drawing": _stages("lite0", "lite2", "drawing", spread=False),
}
