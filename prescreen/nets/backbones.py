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

Triple = tuple[float, float, float]
_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


@dataclass(frozen=True)
class Backbone:
    """How to build one, how many features it gives, and the grey scale it was made for."""

    build: Callable[[], nn.Module]
    channels: int
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD

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


def _lite(build: Callable[[], nn.Module], channels: int) -> Backbone:
    return Backbone(build, channels, mean=(_LITE_MEAN,) * 3, std=(_LITE_STD,) * 3)


class Trio(nn.Module):
    """EfficientNet-Lite0 and -Lite2, and DenseNet-121 on the same picture at 0.7 of its side.

    (N, 3, s, s), grey levels as EfficientNet-Lite takes them, to (N, 3584, s/32, s/32), none
    negative: DenseNet's coarser grid is drawn out to that of the others.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lites, self.dense = lite.SideBySide(), _densenet121()
        mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
        shift = ((_LITE_MEAN - mean) / std).view(1, 3, 1, 1)
        self.register_buffer("scale", (_LITE_STD / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        fine = self.lites(pictures)
        small = functional.interpolate(pictures, scale_factor=0.7, mode="bilinear")
        coarse = torch.relu(self.dense(small * self.scale + self.shift))
        drawn_out = functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        return torch.cat([fine, drawn_out], dim=1)


BACKBONES: dict[str, Backbone] = {
    "densenet121": Backbone(_densenet121, 1024),
    "resnet50": Backbone(_resnet50, 2048),
    "resnet18": Backbone(_resnet18, 512),
    "efficientnet_lite0": _lite(lambda: lite.EfficientNetLite(lite.LITE0), lite.CHANNELS),
    "efficientnet_lite2": _lite(lambda: lite.EfficientNetLite(lite.LITE2), lite.CHANNELS),
    "efficientnet_lite0+2": _lite(lite.SideBySide, 2 * lite.CHANNELS),
    "efficientnet_lite0+2+densenet121": _lite(Trio, 2 * lite.CHANNELS + 1024),
}
