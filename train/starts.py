"""Where a network starts: ImageNet, a run of ours, weights that ship, or a checkpoint of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prescreen.errors import WeightsError
from prescreen.nets import architecture, densenet, unet, weights
from prescreen.nets import checkpoint as foreign
from prescreen.nets.backbones import BACKBONES
from train import checkpoint, lungs_heart, presets, teacher
from train.data import DataError

State = Mapping[str, Tensor]

#: Backbones that torchvision has too: what its names begin with, and what ours do.
_RESNET = {"conv1": "0.", "bn1": "1.", **{f"layer{k}": f"{k + 3}." for k in range(1, 5)}}
_TORCHVISION = {"densenet121": {"features": ""}, "resnet50": _RESNET, "resnet18": _RESNET}
_HEADS = ("classifier", "fc")


def begin(net: densenet.FindingsNet, source: str, drawn_by: str) -> None:
    """Put into a new network what `source` names; what that does not hold stays as it is.

    `none`, `imagenet` (and `drawn_by`, where the backbone has the encoder that draws), the last.pt
    of a run, a folder of weights that ship, or a state dict as torchvision names its tensors. A
    run and weights that ship give all they have to a network with the same switches, and their
    backbone to any other. Raises DataError, naming the file, where nothing of it fits.
    """
    if source == "imagenet":
        net.backbone.load_state_dict(published(net.switches.backbone, drawn_by))
        rounded(net.backbone)
    elif source != "none":
        part, state = _found(net, Path(source))
        part.load_state_dict({**part.state_dict(), **state})


def _found(net: densenet.FindingsNet, path: Path) -> tuple[nn.Module, State]:
    try:
        if path.is_dir():
            return _shipped(net, path)
        found = foreign.contents(path)
        if _is_run(found):
            return _of_run(net, path, found)
        return net.backbone, _of_others(path, foreign.named(path, found), net.switches.backbone)
    except WeightsError as error:
        raise DataError(f"--weights-from: {error}") from error


def ships(source: str) -> bool:
    """Whether a start is a folder of weights that ship: its batch statistics are kept."""
    return source not in ("none", "imagenet") and Path(source).is_dir()


def history(source: str) -> Mapping[str, Any] | None:
    """The config of the run that a start comes from, its own or its manifest's; None for others'.

    DataError where there is no such file or folder.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return weights.load_one(path, "findings").manifest.config
        found = foreign.contents(path)
    except WeightsError as error:
        raise DataError(f"--weights-from: {error}") from error
    config: Mapping[str, Any] | None = found["config"] if _is_run(found) else None
    return config


def _is_run(found: object) -> bool:
    return isinstance(found, Mapping) and {"config", "ema"} <= set(found)


def _of_run(
    net: densenet.FindingsNet, path: Path, saved: Mapping[str, Any]
) -> tuple[nn.Module, State]:
    config = saved["config"]
    if "preset" not in config:
        raise DataError(f"--weights-from: {path} is no run of train.findings or train.twins")
    theirs = presets.switches(config["preset"], config["backbone"])
    part, prefix = _shared(net, theirs, path)
    state = saved["ema"].items()
    return part, {k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)}


def _shared(
    net: densenet.FindingsNet, theirs: densenet.Switches, path: Path
) -> tuple[nn.Module, str]:
    """What a network with those switches can give to `net`, and the prefix of its tensors."""
    if theirs == net.switches:
        return net, "net."
    _refuse_another(theirs.backbone, net.switches.backbone, path)
    return net.backbone, "net.backbone."


def _shipped(net: densenet.FindingsNet, folder: Path) -> tuple[nn.Module, State]:
    theirs = architecture.classifier_of(weights.load_one(folder, "findings"))
    if isinstance(theirs, densenet.FindingsNet):
        part, _ = _shared(net, theirs.switches, folder)
        return part, (theirs if part is net else theirs.backbone).state_dict()
    named = "densenet121" if theirs.channels == 3 else f"densenet121 of {theirs.channels} channel"
    _refuse_another(named, net.switches.backbone, folder)
    return net.backbone, theirs.backbone.state_dict()


def _refuse_another(theirs: str, ours: str, path: Path) -> None:
    if theirs != ours:
        raise DataError(
            f"--weights-from: {path} is of the backbone {theirs}, and this network has {ours}; "
            f"choose --backbone {theirs} or another start"
        )


def _of_others(path: Path, named: State, backbone: str) -> State:
    """A state dict under the names of our backbone; the head, whatever it says, is left out."""
    if backbone not in _TORCHVISION:
        raise DataError(
            f"--weights-from: {path} is no run of ours, and of others' checkpoints those of "
            f"{', '.join(_TORCHVISION)} are understood, not of {backbone}: choose --backbone"
        )
    found = {}
    for name, tensor in named.items():
        first, _, rest = name.partition(".")
        if first not in _HEADS:
            ours = _TORCHVISION[backbone].get(first)
            found[name if ours is None else ours + rest] = tensor
    _refuse_misfits(path, found, backbone)
    return found


def _refuse_misfits(path: Path, found: State, backbone: str) -> None:
    state = BACKBONES[backbone].build().state_dict()
    wanted = {k: v for k, v in state.items() if v.dtype.is_floating_point}
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    fitting = set(wanted) & set(found)
    wrong = sorted(k for k in fitting if found[k].shape != wanted[k].shape)
    broken = sorted(k for k in fitting if not bool(torch.isfinite(found[k]).all()))
    kinds = ("lacks", missing), ("has besides", unknown), ("has in another shape", wrong)
    for what, names in (*kinds, ("has numbers that are not finite in", broken)):
        if names:
            raise DataError(
                f"--weights-from: {path} is no {backbone} of torchvision: it {what} {names[0]}; "
                "name the state dict of one, or the --backbone that it is of"
            )


# ---------------------------------------------------------------- ImageNet


def published(backbone: str, drawn_by: str) -> dict[str, Tensor]:
    """ImageNet weights for a backbone; of what draws lungs and heart in it, those of `drawn_by`."""
    together = backbone.removesuffix("+drawing")
    if together == backbone:
        return teacher.imagenet(backbone)
    drawn = drawing(drawn_by)
    if drawn.name != "unet_efficientnet_lite0":
        raise DataError(
            f"{drawn_by}: {backbone} takes the encoder of unet_efficientnet_lite0, and "
            f"this run is of {drawn.name}; name another or choose --backbone {together}"
        )
    built = BACKBONES[backbone].build()
    encoders = [name for name, _ in built.named_children() if name != "drawing"]
    states = {name: teacher.imagenet(f"efficientnet_{name}") for name in encoders}
    states["drawing"] = drawn.network.state_dict()
    state = {f"{name}.{k}": v for name, own in states.items() for k, v in own.items()}
    return {name: state[name] for name in built.state_dict() if name in state}


def rounded(backbone: nn.Module) -> None:
    """Round the kernels to what float16 holds, so that heads are fitted to what will be shipped."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.half().float()


# ---------------------------------------------------------------- lungs and heart


@dataclass(frozen=True)
class Drawing:
    """A network that draws lungs and heart, ready, its name in `unet.SEGMENTERS` and config."""

    network: unet.Segmenter
    name: str
    config: Mapping[str, Any]


def drawing(source: str) -> Drawing:
    """From the last.pt of a run, or from a folder of weights that ship. Raises DataError."""
    if not source:
        raise DataError(
            "--lungs-heart: name the last.pt of a run of train.lungs_heart, or a folder of weights"
        )
    path = Path(source)
    if path.is_dir():
        try:
            loaded = weights.load_one(path, "lungs_heart")
            network = architecture.segmenter_of(loaded)
        except WeightsError as error:
            raise DataError(f"--lungs-heart: {error}") from error
        return Drawing(network, loaded.manifest.architecture, loaded.manifest.config)
    saved = checkpoint.read(path)
    name = lungs_heart.network_of(saved["config"])
    return Drawing(lungs_heart.drawing(saved), name, saved["config"])
