"""A site's own start and its own radiographs: state dicts, weights that ship, DICOM files."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from prescreen.nets import architecture, densenet, weights
from tests import checkpoints, pictures
from train import checkpoint, findings, ship, starts, unseen
from train.data import DataError

SHIPPED = Path(__file__).parents[2] / "weights"
STATED = json.loads((SHIPPED / "findings.json").read_text(encoding="utf-8"))


def begun(preset: str, backbone: str, source: Path) -> densenet.FindingsNet:
    config = findings.Config(preset=preset, backbone=backbone, weights_from=str(source))
    try:
        return findings.started(dataclasses.replace(config, schedule="label:32x1")).net
    finally:
        if source.is_file():
            source.unlink()  # tens of MB


# ---------------------------------------------------------------- checkpoints of others


def test_a_densenet_of_torchvision_with_old_names_is_a_start(tmp_path: Path) -> None:
    file = checkpoints.saved(checkpoints.chexnet(1000), tmp_path / "densenet121-a639ec97.pth")
    net = begun("paper", "", file)
    theirs = checkpoints.densenet(3, 1000).features.state_dict()
    ours = net.backbone.state_dict()
    assert all(torch.equal(ours[k].contiguous(), v.contiguous()) for k, v in theirs.items())
    assert net.attention is not None and bool(net.attention.merge.weight.any())


def test_a_resnet_of_torchvision_is_a_start(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    file = checkpoints.saved(theirs.state_dict(), tmp_path / "resnet18.pt")
    net = begun("dcnn", "resnet18", file).eval()
    x = torch.rand(1, 3, 64, 64)
    theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    with torch.inference_mode():
        assert torch.allclose(net.backbone(x).flatten(1), theirs(x), atol=1e-5)


class Runs:
    """Would run a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def resnet(**changed: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {k: v for k, v in {**state, **changed}.items() if v is not None}


@pytest.mark.parametrize(
    ("backbone", "content", "said"),
    [
        ("resnet18", {"state_dict": Runs()}, "asks for more than tensors"),
        ("resnet18", {"epoch": 3}, "holds no tensors by name"),
        (
            "resnet18",
            resnet(**{"bn1.weight": None}),
            "is no resnet18 of .*: it lacks 1.weight",
        ),
        ("resnet18", resnet(stem=torch.ones(1)), "it has besides stem; name the state dict of one"),
        ("resnet18", resnet(**{"bn1.bias": torch.ones(3)}), "it has in another shape 1.bias"),
        ("resnet18", resnet(**{"bn1.bias": torch.full((64,), torch.nan)}), "finite in 1.bias"),
        ("efficientnet_lite0", resnet(), "densenet121, resnet50, resnet18 are understood, not of"),
        ("resnet18", {"config": {"size": 3}, "ema": {}}, "is no run of train.findings or"),
    ],
)
def test_what_is_no_start_is_said(backbone: str, content: Any, said: str, tmp_path: Path) -> None:
    file = checkpoints.saved(content, tmp_path / "start.pth")
    with pytest.raises(DataError, match=f"--weights-from: .*start.pth.*{said}"):
        begun("dcnn", backbone, file)


def test_a_start_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.pth: No such file or directory; name the"):
        begun("dcnn", "resnet18", tmp_path / "gone.pth")
    with pytest.raises(DataError, match=r"--weights-from: .*findings\.json is missing"):
        begun("dcnn", "resnet18", tmp_path)
    with pytest.raises(DataError, match=r"--lungs-heart: .*lungs_heart\.json is missing"):
        starts.drawing(str(tmp_path))
    with pytest.raises(DataError, match=r"--lungs-heart: name the last\.pt of a run"):
        starts.drawing("")
    checkpoints.saved({"epoch": 3}, tmp_path / "last.pt")
    with pytest.raises(DataError, match=r"last\.pt is no checkpoint of a run: name the last\.pt"):
        checkpoint.read(tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(DataError, match=r"last\.pt: is no checkpoint, or a damaged one"):
        checkpoint.read(tmp_path / "last.pt")


# ---------------------------------------------------------------- weights that ship


def test_weights_that_ship_are_a_start_for_all_of_the_network_or_its_backbone() -> None:
    theirs = architecture.classifier_of(weights.load_one(SHIPPED, "findings")).state_dict()
    whole = begun(STATED["preset"], STATED["architecture"], SHIPPED).state_dict()
    assert all(torch.equal(whole[k], theirs[k]) for k in theirs)
    part = begun("without-masking", STATED["architecture"], SHIPPED).state_dict()
    kernels = [k for k in part if k.startswith("backbone.")]
    assert all(torch.equal(part[k], theirs[k]) for k in kernels)
    assert not torch.equal(part["head_unmasked.weight"], theirs["head_unmasked.weight"])
    with pytest.raises(DataError, match=rf"is of the backbone .*; choose --backbone {LITE}"):
        begun("dcnn", "", SHIPPED)


LITE = "efficientnet_lite0"


def test_figures_of_radiographs_that_a_start_was_taught_are_not_shipped() -> None:
    config = findings.Config(weights_from=str(SHIPPED))
    with pytest.raises(DataError, match="start from one that was shown labels, so no fold"):
        ship.unseen_by(config)
    own = dataclasses.replace(config, dicom="here", labels="here.csv")
    said = ship.unseen_by(own)
    assert said == "that had seen none of the patient; they start from weights, taught elsewhere"
    assert [s.use for s in ship.findings_sources(own, 3)] == [
        "radiographs and labels",
        "weights to start from",
    ]


def test_a_start_that_nobody_can_vouch_for_is_said_so(tmp_path: Path) -> None:
    file = checkpoints.saved(resnet(), tmp_path / "site.pth")
    config = findings.Config(weights_from=str(file))
    assert ship.unseen_by(config).endswith("of the patient, unless site.pth, where they start, had")


# ---------------------------------------------------------------- DICOM


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six radiographs of as many patients, as DICOM files named as they come, with a list."""
    monkeypatch.setenv("PRESCREEN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PRESCREEN_DATA", str(tmp_path / "no data set"))
    torch.set_num_threads(1)
    (tmp_path / "films").mkdir()
    generator = np.random.default_rng(0)
    rows = [["image", "labels"]]
    for i in range(6):
        cells = generator.integers(0, 4096, (72, 64)).astype(np.uint16)
        ds = pictures.data_set(cells, PatientID=f"CANARYID{i}", ViewPosition="PA")
        pictures.saved(tmp_path / "films", ds, f"1.2.3.{i}")  # as a PACS names its files
        rows.append([f"1.2.3.{i}", "Mass" if i % 2 else "No Finding"])
    with (tmp_path / "films.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_a_site_trains_on_its_dicom_files_with_nothing_but_the_weights_that_ship(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [trained(site, fold, monkeypatch) for fold in (0, 1, -1)]
    saved = checkpoint.read(runs[-1] / "last.pt")
    assert [entry["what"] for entry in saved["log"]] == ["label"]
    shipped = architecture.classifier_of(weights.load_one(SHIPPED, "findings")).state_dict()
    assert not torch.equal(saved["network"]["net.head.weight"], shipped["head.weight"])
    held, masked, _ = unseen.answers(runs[:2])
    assert sorted(p.path.name for p in held) == [f"1.2.3.{i}" for i in range(6)]
    assert masked.shape == (6, 14)
    told = ship.ship_findings(runs[-1], runs[:2], site / "weights")
    assert told.figures_from.startswith("6 radiographs of 6 patients, each judged by one of 2")
    assert "CANARY" not in (site / "weights" / "findings.json").read_text(encoding="utf-8")
    assert not any(str(site) in str(value) for value in told.config.values())
    for run in runs:
        for file in run.glob("*.pt"):
            file.unlink()


def trained(site: Path, fold: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of a fold, from the command line."""
    options = f"--dicom {site / 'films'} --labels {site / 'films.csv'} --fold {fold} --folds 2"
    options += f" --lungs-heart {SHIPPED} --weights-from {SHIPPED} --run own_{fold}"
    options += f" --preset {STATED['preset']} --backbone {STATED['architecture']}"
    options += " --schedule label:64x1 --batch 2 --frozen 99 --threads 1"
    monkeypatch.setattr(sys, "argv", ["train.findings", *options.split()])
    return findings.main(checkpoint.arguments(findings.Config, findings.__doc__))


def test_batch_statistics_of_weights_that_ship_are_kept(tmp_path: Path) -> None:
    assert starts.ships(str(SHIPPED))
    assert not any(starts.ships(other) for other in ("none", "imagenet", str(tmp_path / "last.pt")))


def test_radiographs_without_a_list_are_refused() -> None:
    for half in ({"dicom": "films"}, {"labels": "films.csv"}):
        with pytest.raises(DataError, match="--labels their list: give both or neither"):
            findings.listed(findings.Config(**half))  # type: ignore[arg-type]
