"""A preset is the network of a row of the paper's comparison, with a start and a schedule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from prescreen.nets import densenet
from prescreen.nets.backbones import BACKBONES
from tests import trainings
from train import augment, findings, presets
from train.data import DataError

LITE = "efficientnet_lite0+2"
LABEL = "label:224x50"
#: Preset -> backbone, start and schedule where nothing else is named.
OWN = {
    "paper": ("densenet121", "none", LABEL),
    "code": ("densenet121", "none", "label:224x30"),
    "without-masking": ("densenet121", "none", LABEL),
    "without-attention": ("densenet121", "none", LABEL),
    "chexnet": ("densenet121", "none", LABEL),
    "dcnn": ("resnet50", "none", LABEL),
    "regions": (LITE, "imagenet", "probe:320x1"),
    "stages": ("efficientnet_lite0+drawing", "imagenet", "probe:320x1"),
}


@pytest.mark.parametrize("preset", densenet.PRESETS)
def test_a_preset_names_its_network_start_and_schedule(preset: str) -> None:
    config = findings.Config(preset=preset)
    assert findings.switches_of(config) == densenet.PRESETS[preset]
    settled = findings.settled(config)
    assert (settled.backbone, settled.weights_from, settled.schedule) == OWN[preset]
    assert findings.settled(settled) == settled


def test_the_default_is_what_ships() -> None:
    assert findings.settled(findings.Config()).preset == "stages"


def test_what_is_named_goes_before_the_presets_own() -> None:
    config = findings.Config(
        preset="dcnn",
        backbone="efficientnet_lite0",
        weights_from="none",
        schedule="label:64x2",
    )
    assert findings.settled(config) == config
    assert findings.switches_of(config).backbone == "efficientnet_lite0"
    seen = findings.settled(dataclasses.replace(config, weights_from="", schedule=""))
    assert (seen.weights_from, seen.schedule) == ("imagenet", LABEL)
    blank = findings.settled(findings.Config(preset="regions", weights_from="none"))
    assert blank.schedule == LABEL, "heads in closed form would see what chance sees"


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(DataError, match="preset: 'best' is none of paper, code"):
        presets.switches("best", "")
    with pytest.raises(DataError, match="backbone: 'vit' is none of densenet121"):
        presets.switches("paper", "vit")


def one_epoch_of(config: findings.Config, folder: Path) -> tuple[findings.Student, list[float]]:
    """A student after an epoch of labels on four pictures, and its losses."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    student, average = findings.started(config), findings.started(config)
    pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32))
    paths = [folder / f"{i}.png" for i in range(4)]
    for path, pixels in zip(paths, pictures, strict=True):
        trainings.saved(path, pixels)
    train = findings.Part(paths, torch.ones(4, 14), torch.full((4, 3, 64, 64), 255).byte())
    optimiser = findings.optimiser_of(config, student)
    run = findings.Run(student, average, optimiser, train, None)
    return student, findings.one_epoch(config, run, 0, ("label", 32))


@pytest.mark.parametrize("preset", ["dcnn", "paper"])
def test_a_run_trains_the_backbone_of_its_preset(preset: str, tmp_path: Path) -> None:
    config = findings.settled(findings.Config(preset=preset, schedule="label:32x1", batch=4))
    torch.manual_seed(config.seed)
    before = findings.started(config).net.state_dict()
    student, _ = one_epoch_of(config, tmp_path)
    trained = student.net.backbone.state_dict()
    known = BACKBONES[OWN[preset][0]].build().state_dict()
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in known.items()}
    kernels = [k for k, v in trained.items() if v.ndim == 4]
    assert not any(torch.equal(trained[k], before[f"backbone.{k}"]) for k in kernels)


def test_the_unmasked_head_may_leave_the_shared_features_alone() -> None:
    torch.manual_seed(0)
    moved = {}
    for weight in (0.0, 0.5, 1.0):
        config = dataclasses.replace(trainings.CLASSIFY, dropout=0.0, unmasked_weight=weight)
        torch.manual_seed(1)
        student = findings.started(config)
        _, _, unmasked = student(torch.rand(2, 1, 64, 64), None, torch.ones(2, 3, 64, 64))
        unmasked.sum().backward()
        backbone = student.net.backbone.get_parameter("conv0.weight").grad
        head = student.net.head_unmasked.weight.grad
        assert backbone is not None and head is not None and bool(head.any())
        moved[weight] = backbone
    assert not moved[0.0].any() and moved[1.0].any()
    assert torch.allclose(moved[0.5], moved[1.0] / 2, rtol=1e-3, atol=1e-7)


def test_pictures_may_go_undistorted(tmp_path: Path) -> None:
    x, g = torch.rand(2, 1, 32, 32), torch.Generator().manual_seed(0)
    same = augment.warped(x, augment.random_grid(2, 32, g, strength=0.0))
    assert torch.allclose(augment.exposed(same, g, strength=0.0), x, atol=1e-5)
    small = findings.Config(
        preset="paper", backbone="resnet18", schedule="label:32x1", batch=4, dropout=0.0
    )
    assert small.augment == 0.5
    configs = [dataclasses.replace(findings.settled(small), augment=at) for at in (0.0, 0.0, 0.5)]
    losses = [one_epoch_of(config, tmp_path)[1] for config in configs]
    assert losses[0] == losses[1] != losses[2]
