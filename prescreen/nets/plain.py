"""DenseNet-121 as others train it: the whole picture, one head, no attention and no masks.

For weights that a site already has: those of TorchXRayVision, of CheXNet and of plain torchvision.
Its answer is the same with and without the mask, because it knows none.
"""

from __future__ import annotations

from typing import cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets.backbones import BACKBONES
from prescreen.nets.densenet import Seen, united
from prescreen.study import LABELS

#: The architectures that a manifest may name, with the channels each network sees.
CHANNELS = {"densenet121-torchxrayvision": 1, "densenet121-imagenet": 3}
#: Channels of the last features.
FEATURES = 1024
#: TorchXRayVision's grey values reach from minus to plus this.
_REACH = 1024.0


class PlainNet(nn.Module):
    """DenseNet-121 with one linear head; takes and gives what `FindingsNet` does.

    Pictures are (N, 1, s, s), 0…1, their grey scale untouched (no `inputs.stretch`): one channel
    goes to -1024…1024, three are copies with ImageNet's mean and spread. Rows of the head whose
    label the weights do not know are zero.
    """

    #: `inputs.stretch` is not for it: it was trained on grey scales as they are.
    stretched = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.backbone = torchvision.models.densenet121(weights=None).features
        if channels == 1:
            self.backbone.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.head = nn.Linear(FEATURES, len(LABELS))

    def features(self, pictures: Tensor) -> Tensor:
        """(N, 1024, s/32, s/32) from (N, 1, s, s), after the ReLU."""
        if self.channels == 1:
            x = (2.0 * pictures - 1.0) * _REACH
        else:
            x = BACKBONES["densenet121"].three_channels(pictures)
        return torch.relu(cast(Tensor, self.backbone(x)))

    def judge(self, features: Tensor, masks: Tensor) -> Seen:
        """One answer, given as both; the masks only say where lungs and heart are."""
        grid = (features.shape[2], features.shape[3])
        logits = self.head(features.mean(dim=(2, 3)))
        found = torch.ones(len(features), dtype=torch.bool, device=features.device)
        coverage = functional.adaptive_avg_pool2d(united(masks), grid)
        return Seen(logits, logits, features, coverage, found)

    def forward(self, pictures: Tensor, masks: Tensor) -> Seen:
        return self.judge(self.features(pictures), masks)

    def activation_maps(self, features: Tensor) -> Tensor:
        """What each cell adds to the logits: (N, 14, h, w), of either sign."""
        return functional.conv2d(features, self.head.weight[:, :, None, None])

    def attention_maps(self, features: Tensor) -> Tensor:
        """Where the head found what speaks for each label: (N, 14, h, w), at least 0."""
        return self.activation_maps(features).clamp_min(0.0)
