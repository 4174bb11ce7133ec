"""The network that a manifest names, with its weights: the one place where the name counts."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from prescreen.errors import WeightsError
from prescreen.nets import densenet, inputs, plain, unet, weights
from prescreen.nets.backbones import BACKBONES

N = TypeVar("N", bound=nn.Module)

#: Whatever judges findings: `features`, `judge` and the two kinds of maps are all that is asked.
Classifier = densenet.FindingsNet | plain.PlainNet

#: The names that `Manifest.architecture` may have for the findings.
FINDINGS = (*BACKBONES, *plain.CHANNELS)


def classifier_of(loaded: weights.Weights) -> Classifier:
    """The network of the findings with these weights, for inference; WeightsError if unknown."""
    return ready(_empty_classifier(loaded.manifest), loaded)


def segmenter_of(loaded: weights.Weights) -> unet.Segmenter:
    """The network that draws lungs and heart, with these weights; WeightsError if unknown."""
    name = loaded.manifest.architecture
    if name not in unet.SEGMENTERS:
        raise WeightsError(
            f"lungs_heart.json: the architecture {name!r} is not known to this version "
            f"(known: {', '.join(unet.SEGMENTERS)}). {weights.REINSTALL}"
        )
    return ready(unet.SEGMENTERS[name](), loaded)


def _empty_classifier(manifest: weights.Manifest) -> Classifier:
    name = manifest.architecture
    if name in plain.CHANNELS:
        return plain.PlainNet(plain.CHANNELS[name])
    if name in FINDINGS:
        return densenet.FindingsNet(_switches(manifest))
    raise WeightsError(
        f"findings.json: the architecture {name!r} is not known to this version "
        f"(known: {', '.join(FINDINGS)}). {weights.REINSTALL}"
    )


def _switches(manifest: weights.Manifest) -> densenet.Switches:
    try:
        return densenet.Switches(**{"backbone": manifest.architecture, **manifest.switches})
    except TypeError as error:
        raise WeightsError(
            f"findings.json: unknown switch ({error}). {weights.REINSTALL}"
        ) from error


def ready(network: N, loaded: weights.Weights) -> N:
    """The network with these weights, for inference, or WeightsError."""
    state = {k: v for k, v in network.state_dict().items() if v.dtype.is_floating_point}
    found = weights.fitting(loaded, {k: tuple(v.shape) for k, v in state.items()})
    tensors = {k: torch.from_numpy(v) for k, v in found.items()}
    network.load_state_dict(tensors, strict=False)  # batch counters are not shipped
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return network


def pictures(squares: Tensor, size: int, network: nn.Module | None = None) -> Tensor:
    """What a network sees of common squares (N, 1, 512, 512): (N, 1, size, size), 0…1."""
    resized = inputs.resized(squares, size)
    stretched = getattr(network, "stretched", True)
    seen = inputs.stretch(resized) if stretched else resized
    return seen.contiguous(memory_format=torch.channels_last)
