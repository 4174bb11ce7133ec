"""Checkpoints as others save them, of random weights, made here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

State = dict[str, Tensor]


@functools.cache
def densenet(channels: int, outputs: int, seed: int = 5) -> Any:
    """A DenseNet-121 with weights of plausible size, named as torchvision does; leave it alone."""
    torch.manual_seed(seed)
    network = torchvision.models.densenet121(weights=None, num_classes=outputs)
    if channels != 3:
        network.features.conv0 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    if channels == 1:  # grey values reach 1024
        network.features.conv0.weight.data /= 1024.0
    return network.eval()


def torchxrayvision(thresholds: list[float] | None) -> State:
    """18 outputs, one channel, operating points as a buffer."""
    state: State = dict(densenet(1, 18).state_dict())
    if thresholds is not None:
        state["op_threshs"] = torch.tensor(thresholds)
    return state


def chexnet(outputs: int = 14) -> dict[str, Any]:
    """DataParallel around a wrapper, the names of torch 0.3, the head in a Sequential."""
    state: State = {}
    for name, tensor in densenet(3, outputs).state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        for part in ("norm", "conv"):
            for k in "12":
                if ".denselayer" in name:
                    name = name.replace(f".{part}{k}.", f".{part}.{k}.")
        state[f"module.densenet121.{name.replace('classifier.', 'classifier.0.')}"] = tensor
    return {"epoch": 7, "state_dict": state, "best_loss": 0.15}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path
