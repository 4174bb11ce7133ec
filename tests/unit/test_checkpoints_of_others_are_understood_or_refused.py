"""Checkpoints of TorchXRayVision, CheXNet and torchvision come in; what is wrong is named."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prescreen.errors import WeightsError
from prescreen.nets import plain
from prescreen.nets.checkpoint import XRV_LABELS, Checkpoint, Meaning, read
from prescreen.nets.densenet import Seen
from prescreen.study import LABELS
from tests.checkpoints import chexnet, densenet, saved, torchxrayvision

#: Operating points by output; the 14th (Hernia) was never trained, nor were the last four.
POINTS = [0.1 + 0.02 * k for k in range(13)] + [float("nan")] * 5


def network_of(found: Checkpoint) -> plain.PlainNet:
    network = plain.PlainNet(plain.CHANNELS[found.architecture])
    tensors = {k: torch.from_numpy(v) for k, v in found.tensors.items()}
    missing = network.load_state_dict(tensors, strict=False)
    assert all(k.endswith("num_batches_tracked") for k in missing.missing_keys)
    return network.eval()


@torch.inference_mode()
def answers(network: plain.PlainNet, pictures: torch.Tensor) -> torch.Tensor:
    seen: Seen = network(pictures, torch.ones_like(pictures))
    return seen.masked


@torch.inference_mode()
def test_torchxrayvision_comes_in_with_its_thresholds_and_gives_the_same(tmp_path: Path) -> None:
    found = read(saved(torchxrayvision(POINTS), tmp_path / "xrv.pt"))
    assert (found.kind, found.architecture) == ("torchxrayvision", "densenet121-torchxrayvision")
    assert found.outputs == XRV_LABELS
    assert found.left_out == XRV_LABELS[-4:]
    assert found.not_evaluated == {"Hernia": "not_in_weights"}
    assert found.thresholds["Atelectasis"] == pytest.approx(0.1)
    assert found.thresholds["Consolidation"] == pytest.approx(0.12)
    pictures = torch.rand(2, 1, 64, 64)
    theirs = densenet(1, 18)((2 * pictures - 1) * 1024)
    ours = answers(network_of(found), pictures)
    for label in found.thresholds:
        row = XRV_LABELS.index(label)
        assert torch.allclose(ours[:, LABELS.index(label)], theirs[:, row], atol=1e-4)
    assert torch.equal(ours[:, LABELS.index("Hernia")], torch.zeros(2))


@torch.inference_mode()
def test_chexnet_comes_in_under_its_old_names_and_gives_the_same(tmp_path: Path) -> None:
    found = read(saved(chexnet(), tmp_path / "model.pth.tar"))
    assert (found.kind, found.architecture) == ("chexnet", "densenet121-imagenet")
    assert found.outputs == LABELS and not found.left_out
    assert found.not_evaluated == dict.fromkeys(LABELS, "no_threshold")
    pictures = torch.rand(1, 1, 64, 64)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    theirs = densenet(3, 14)((pictures - mean) / std)
    assert torch.allclose(answers(network_of(found), pictures), theirs, atol=1e-4)


def test_plain_torchvision_is_told_what_its_outputs_mean(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({k: v.contiguous() for k, v in densenet(3, 4).state_dict().items()}, path)
    with pytest.raises(WeightsError, match="its 4 outputs are not named"):
        read(path)
    names = ["Pleural Effusion", "", "pleural thickening", "Fracture"]
    found = read(path, Meaning(names, {"Effusion": 0.3}))
    assert found.kind == "torchvision"
    assert found.thresholds == {"Effusion": 0.3}
    assert found.left_out == ("Fracture",)
    assert found.not_evaluated["Pleural_Thickening"] == "no_threshold"
    assert found.not_evaluated["Mass"] == "not_in_weights"
    assert len(found.not_evaluated) == 13
    head = found.tensors["head.weight"]
    assert np.flatnonzero(head.any(axis=1)).tolist() == [2, 12]


def test_the_sites_thresholds_go_before_those_that_came_along(tmp_path: Path) -> None:
    path = saved(torchxrayvision(POINTS), tmp_path / "xrv.pt")
    found = read(path, Meaning(thresholds={"Mass": 0.5}))
    assert found.thresholds == {"Mass": 0.5}
    assert found.not_evaluated["Edema"] == "no_threshold"
    assert found.not_evaluated["Hernia"] == "not_in_weights"


class Hostile:
    """Whoever unpickles this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path: Path, bare: bool) -> None:
    trace, path = tmp_path / "was_run", tmp_path / "model.pt"
    content = {"state_dict": densenet(3, 14).state_dict(), "extra": Hostile(trace)}
    if bare:
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match="could run code, so it is not opened") as caught:
        read(path)
    assert "state_dict()" in str(caught.value) and not trace.exists()


def test_a_whole_network_in_a_pickle_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    path = saved(densenet(1, 18), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"more than tensors \(torchvision\.models\.densenet"):
        read(path)


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in torchxrayvision(POINTS).items()}
    change(state)
    return state


CONV = "features.denseblock1.denselayer1.conv1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(CONV), rf"the tensor {CONV} is missing"),
        (lambda s: s.update({CONV: torch.zeros(3)}), rf"{CONV} has shape \(3,\), not \(128, 64, 1"),
        (lambda s: s[CONV].fill_(float("nan")), rf"{CONV} holds numbers that are not finite"),
        (lambda s: s["classifier.bias"].fill_(float("inf")), "classifier.bias holds numbers"),
        (lambda s: s.update(surprise=torch.zeros(1)), "the tensor surprise is not known"),
        (lambda s: s.pop("classifier.bias"), r"classifier\.bias is missing"),
        (
            lambda s: s.update({"classifier.weight": torch.zeros(18, 2048)}),
            r"classifier\.weight has shape \(18, 2048\), not \(18, 1024\)",
        ),
        (lambda s: s.pop("features.conv0.weight"), r"features\.conv0\.weight is missing"),
        (
            lambda s: s.update({"features.conv0.weight": torch.zeros(64, 2, 7, 7)}),
            r"conv0\.weight has shape \(64, 2, 7, 7\)",
        ),
        (lambda s: s.update(op_threshs=torch.ones(3)), "3 op_threshs for 18 outputs"),
        (lambda s: s.update(op_threshs=torch.full((18,), 7.0)), "op_threshs holds 7.0"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    path = saved(edited(change), tmp_path / "xrv.pt")
    with pytest.raises(WeightsError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("meaning", "words"),
    [
        (Meaning(labels=["Mass"]), "it has 18 outputs, 1 are named"),
        (Meaning(labels=["Mass"] * 18), "two outputs are named Mass"),
        (Meaning(labels=[f"thing {k}" for k in range(18)]), "none of its outputs is one of our"),
        (Meaning(thresholds={"Mass": 1.5}), "the threshold of Mass, 1.5, is not between 0 and 1"),
        (Meaning(thresholds={"Scoliosis": 0.5}), "no output is named Scoliosis"),
    ],
)
def test_names_and_thresholds_that_cannot_be_are_refused(
    tmp_path: Path, meaning: Meaning, words: str
) -> None:
    path = saved(torchxrayvision(None), tmp_path / "xrv.pt")
    with pytest.raises(WeightsError, match=words):
        read(path, meaning)


def test_imagenets_classes_are_no_findings(tmp_path: Path) -> None:
    path = saved(densenet(3, 1000).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(WeightsError, match="its 1000 outputs are the 1,000 classes of ImageNet"):
        read(path)


def test_files_that_are_damaged_or_nothing_of_the_kind_are_refused(tmp_path: Path) -> None:
    whole = saved(torchxrayvision(POINTS), tmp_path / "xrv.pt").read_bytes()
    tensors = tmp_path / "whole.safetensors"
    save_file({k: v.contiguous() for k, v in densenet(3, 14).state_dict().items()}, tensors)
    damaged: dict[str, bytes] = {
        "half.pt": whole[: len(whole) // 2],
        "empty.pt": b"",
        "text.pt": b"not a checkpoint",
        "half.safetensors": tensors.read_bytes()[:-1000],
        "empty.safetensors": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}: .*(damaged|could run code)"):
            read(tmp_path / name)
    with pytest.raises(WeightsError, match=r"gone\.pt: No such file or directory; name the"):
        read(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="holds a list, no tensors by name"):
        read(saved([1, 2], tmp_path / "list.pt"))
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read(saved({"epoch": 3}, tmp_path / "dict.pt"))
