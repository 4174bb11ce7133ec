"""What a preset stands for where the options of `train.findings` are left empty."""

from __future__ import annotations

from dataclasses import replace

from prescreen.nets import densenet
from prescreen.nets.backbones import BACKBONES
from train import teacher
from train.data import DataError

#: Heads in closed form: what the presets do that start from a network which sees well already.
PROBE = "probe:320x1"
#: Epochs of the labels at the resolution of the paper's rows. The paper says 50, its code 30.
_EPOCHS = {"code": 30}
_EPOCHS_OF_THE_PAPER = 50
#: The presets that are ours.
_OURS = ("regions", "stages")


def switches(preset: str, backbone: str) -> densenet.Switches:
    """The preset's, around the backbone that is named; around its own if none is. DataError."""
    if preset not in densenet.PRESETS:
        known = ", ".join(densenet.PRESETS)
        raise DataError(f"preset: {preset!r} is none of {known}")
    if backbone and backbone not in BACKBONES:
        raise DataError(f"backbone: {backbone!r} is none of {', '.join(BACKBONES)}")
    chosen = densenet.PRESETS[preset]
    return replace(chosen, backbone=backbone or chosen.backbone)


def start(backbone: str) -> str:
    """`imagenet` where a package has such weights of the backbone, else `none`."""
    return "imagenet" if backbone.removesuffix("+drawing") in teacher.PUBLISHED else "none"


def schedule(preset: str, start: str) -> str:
    """Closed form for ours where they start from something; for all others epochs of the labels."""
    if preset in _OURS and start != "none":
        return PROBE
    return f"label:{densenet.INPUT_SIZE}x{_EPOCHS.get(preset, _EPOCHS_OF_THE_PAPER)}"
