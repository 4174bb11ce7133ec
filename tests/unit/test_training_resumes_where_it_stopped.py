"""Both trainings on a handful of made-up pictures: they run, they resume, they ship what loads."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load as read_safetensors
from torch.nn import functional

from prescreen.nets import unet, weights
from prescreen.nets.screener import Screener
from prescreen.study import LABELS, ORGANS
from tests import trainings
from tests.trainings import CLASSIFY, LITE, SEGMENT
from train import (
    checkpoint,
    data,
    ensemble,
    figures,
    findings,
    frozen,
    lungs_heart,
    probe,
    ship,
    switches,
    teacher,
    twins,
)

Config = TypeVar("Config", findings.Config, lungs_heart.Config)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with ten pictures of each kind, and a folder for runs."""
    return trainings.house(tmp_path, monkeypatch)


def test_segmentation_trains_resumes_and_teaches(house: Path) -> None:
    folder = lungs_heart.main(SEGMENT)
    before = checkpoint.read(folder / "last.pt")
    assert before["epoch"] == 1 and before["config"]["size"] == 32
    lungs_heart.main(dataclasses.replace(SEGMENT, epochs=2))
    after = checkpoint.read(folder / "last.pt")
    assert after["epoch"] == 2 and after["log"][0] == before["log"][0]
    moved = [not torch.equal(before["network"][k], after["network"][k]) for k in before["network"]]
    assert any(moved)


def test_a_segmentation_that_was_killed_ends_as_one_that_was_not(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SEGMENT, epochs=3)
    whole = checkpoint.read(lungs_heart.main(config) / "last.pt")
    left, look = [5], lungs_heart.training_view  # three steps an epoch: within the second

    def killed(*batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return look(*batch)

    again = dataclasses.replace(config, run="killed")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(lungs_heart, "training_view", killed)
        lungs_heart.main(again)
    assert checkpoint.read(house / "runs" / "killed" / "last.pt")["epoch"] == 1
    resumed = checkpoint.read(lungs_heart.main(again) / "last.pt")
    assert resumed["log"] == whole["log"] and len(whole["log"]) == 3
    assert all(torch.equal(whole["ema"][k], v) for k, v in resumed["ema"].items())


def test_a_segmentation_stops_early_and_its_best_epoch_counts(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watching = dataclasses.replace(SEGMENT, fold=-1, stopping=0.4, patience=2, epochs=9)
    train, weight, stopping, held = lungs_heart.parts_of(watching)
    assert (len(train.pixels), len(stopping.pixels), len(held.pixels)) == (len(weight), 4, 0)
    assert len(weight) == 6 and torch.equal(
        stopping.pixels, lungs_heart.parts_of(watching)[2].pixels
    )
    scores = iter([0.5, 0.7, 0.6, 0.7])
    monkeypatch.setattr(lungs_heart, "validate", lambda network, part: [next(scores)] * 3)
    folder = lungs_heart.main(watching)
    assert checkpoint.read(folder / "last.pt")["epoch"] == 4, "two epochs were no better"
    assert checkpoint.counting(folder) == folder / "best.pt"
    assert checkpoint.read(folder / "best.pt")["epoch"] == 4, "of equals the later"
    lungs_heart.main(watching)  # would ask for another score
    assert capsys.readouterr().out.count('{"epoch"') == 4


def test_runs_that_knew_no_early_stopping_count_by_their_last_epoch(tmp_path: Path) -> None:
    known = dataclasses.asdict(SEGMENT)
    for name in ("stopping", "patience", "amp"):
        del known[name]
    torch.save({"config": known}, tmp_path / "last.pt")
    (tmp_path / "best.pt").write_bytes(b"of another run")
    assert checkpoint.counting(tmp_path) == tmp_path / "last.pt"
    assert lungs_heart.Config(**known) == SEGMENT
    with pytest.raises(data.DataError, match=r"last\.pt is missing: name the last\.pt of a"):
        checkpoint.counting(tmp_path / "gone")


def test_a_segmentation_that_cannot_begin_says_why(house: Path) -> None:
    with pytest.raises(data.DataError, match=r"stopping: 0\.01 of 7 radiographs is none of them"):
        lungs_heart.main(dataclasses.replace(SEGMENT, stopping=0.01))
    with pytest.raises(data.DataError, match="batch: a step takes 8 radiographs, and there are 7"):
        lungs_heart.main(dataclasses.replace(SEGMENT, batch=8))
    blank = of_stages(house).lungs_heart  # a network that has learnt nothing is sure of nothing
    with pytest.raises(data.DataError, match=r"drawing\.pt drew no lungs and heart worth learning"):
        lungs_heart.main(dataclasses.replace(SEGMENT, network=LITE, teacher=blank, undrawn=3))


def test_both_networks_ship_what_the_node_loads(house: Path) -> None:
    drawn = [lungs_heart.main(named(SEGMENT, fold)) for fold in (0, 1, -1)]
    config = dataclasses.replace(CLASSIFY, lungs_heart=str(drawn[-1] / "last.pt"))
    runs = [findings.main(named(config, fold)) for fold in (0, 1, -1)]
    log = checkpoint.read(runs[0] / "last.pt")["log"]
    assert [entry["what"] for entry in log] == ["probe", "label"]
    assert 0 <= log[0]["auroc_masked"] <= 1
    to = house / "weights"
    told = ship.ship_findings(runs[-1], runs[:2], to)
    written = ship.ship_lungs_heart(drawn[-1], drawn[:2], to)
    assert set(written.metrics) == set(ORGANS) and "10 radiographs" in written.figures_from
    assert "; Dice on the same, exposed badly, clouded and framed: left_lung 0." in (
        written.figures_from
    )
    assert written.sources[0].count == 10, "masks that it was trained on"
    for metric in written.metrics.values():
        assert metric.low is not None and metric.dice is not None and metric.high is not None
        assert metric.low <= metric.dice <= metric.high
    statistics = written.feature_statistics
    assert statistics is not None and statistics.features > 0 and statistics.radiographs
    assert "9 radiographs of 9 patients, each judged by one of 2 networks" in told.figures_from
    model = Screener(to, device="cpu").model
    assert model.findings.sha256 == told.sha256
    assert model.figures_of("Mass").positives == 4  # the fifth is on the official test list
    assert model.figures_of("Hernia").auroc is None
    assert (model.findings.preset, model.threshold_rule) == ("paper", "youden")
    assert told.config["lungs_heart"] == "lungs_heart_-1/last.pt"  # no folder of this machine
    assert not any(str(house) in str(value) for value in told.config.values())
    said, told_of = switches.averaging(runs[:2])  # what the average of the weights adds
    assert len(said) == 2 and {v.shape for v in said.values()} == {(9, 14)} and len(told_of) == 9
    same = ensemble.together([runs[:2], runs[:2]])  # a network beside itself says the same
    assert same["together"] == same[str(runs[0])]


def test_networks_together_are_judged_by_the_mean_of_their_logits(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = data.read_chestxray14(house / "data" / "chestxray14")[:9]
    truth = np.array([p.labels for p in listed])[:, None]
    knows = np.where(truth, 0.99, 0.01) * np.ones((9, 2, 14))
    guesses = np.random.default_rng(1).uniform(0.3, 0.7, (9, 2, 14))
    for name, answers in {"knows": knows, "guesses": guesses}.items():
        (house / name).mkdir()
        names = np.array([p.path.stem for p in listed])
        np.savez(house / name / "held.npz", names=names, answers=answers, fold=0)
    folds = [f"--folds={house / name}" for name in ("guesses", "knows")]
    ensemble.main([*folds, "--json", str(house / "told.json")])
    told = json.loads((house / "told.json").read_text(encoding="utf-8"))
    assert told["together"] == told[str(house / "knows")] == {"masked": 1.0, "unmasked": 1.0}
    assert max(told[str(house / "guesses")].values()) < 1.0
    assert "together" in capsys.readouterr().out


def test_a_segmentation_that_has_seen_imagenet_starts_from_it_and_ships(house: Path) -> None:
    seeing = dataclasses.replace(SEGMENT, network="unet_efficientnet_lite0")
    untouched = lungs_heart.started(seeing).state_dict()
    stem = teacher.imagenet("efficientnet_lite0")["stem.0.weight"]
    assert torch.equal(untouched["stem.0.weight"], stem)
    blank = lungs_heart.started(dataclasses.replace(seeing, weights_from="none")).state_dict()
    assert not torch.equal(blank["stem.0.weight"], stem)
    drawn = [lungs_heart.main(named(seeing, fold)) for fold in (0, 1, -1)]
    written = ship.ship_lungs_heart(drawn[-1], drawn[:2], house / "weights")
    assert written.architecture == "unet_efficientnet_lite0"
    student = dataclasses.replace(seeing, teacher=str(drawn[-1] / "last.pt"))
    taught = lungs_heart.started(student).state_dict()
    assert torch.equal(
        taught["out.bias"], checkpoint.read(drawn[-1] / "last.pt")["ema"]["out.bias"]
    )


def test_a_segmentation_of_another_name_is_refused(house: Path) -> None:
    with pytest.raises(data.DataError, match=r"network: 'vnet' is none of unet\(16, 32"):
        lungs_heart.main(dataclasses.replace(SEGMENT, network="vnet"))


def test_a_backbone_learns_without_labels_and_others_start_from_it(house: Path) -> None:
    config = twins.Config(size=32, epochs=1, batch=4, numbers=8, threads=1)
    folder = twins.main(config)
    folder = twins.main(dataclasses.replace(config, epochs=2))
    saved = checkpoint.read(folder / "last.pt")
    assert [entry["epoch"] for entry in saved["log"]] == [1, 2]
    start = dataclasses.replace(CLASSIFY, weights_from=str(folder / "last.pt"))
    net = findings.started(start).net  # of another preset: the backbone, not the attention
    name = "conv0.weight"
    learnt = saved["ema"][f"net.backbone.{name}"]
    assert torch.equal(net.backbone.get_parameter(name).contiguous(), learnt.contiguous())
    assert net.attention is not None and bool(net.attention.merge.weight.any())
    assert ship.unseen_by(start).endswith("saw all, without labels")


def test_organs_are_drawn_once_for_all_folds(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = lungs_heart.main(SEGMENT)
    config = dataclasses.replace(CLASSIFY, lungs_heart=str(drawn / "last.pt"))
    every, listed, dealt = findings.dealt(config)
    assert len(every.paths) == len(listed) == len(dealt) == 9 and set(dealt) == {0, 1}
    monkeypatch.setattr(unet.UNet, "decode", None)  # another pass would not survive
    train, _, held = findings.parts_of(config)
    place = {path: i for i, path in enumerate(every.paths)}
    for part in (train, held):
        assert torch.equal(part.masks, every.masks[[place[path] for path in part.paths]])


def named(config: Config, fold: int) -> Config:
    """The same for another fold, in a run of its own."""
    return dataclasses.replace(config, fold=fold, run=f"{config.run}_{fold}")


def test_folds_that_do_not_hold_out_everything_once_are_not_shipped(house: Path) -> None:
    drawn, both = (lungs_heart.main(named(SEGMENT, fold)) for fold in (0, -1))
    config = dataclasses.replace(
        CLASSIFY, lungs_heart=str(drawn / "last.pt"), backbone="resnet18", schedule="probe:32x1"
    )
    run, every = (findings.main(named(config, fold)) for fold in (0, -1))
    with pytest.raises(data.DataError, match=r"hold out \S+ not at all; name one finished run"):
        ship.ship_findings(every, [run], house / "weights")
    with pytest.raises(data.DataError, match=r"hold out \S+ more than once"):
        ship.ship_lungs_heart(both, [drawn, drawn], house / "weights")
    (run / "held.npz").unlink()
    with pytest.raises(data.DataError, match=r"held.npz is missing: let the run of this fold"):
        ship.ship_findings(every, [run], house / "weights")


def test_folds_that_start_from_labels_are_not_shipped(house: Path) -> None:
    for name, schedule in (("told", "probe:64x1"), ("taught", "distil:64x1")):
        saved = {"config": {"schedule": schedule}, "ema": {}}
        torch.save(saved, house / f"{name}.pt")
    told, taught = (str(house / f"{name}.pt") for name in ("told", "taught"))
    with pytest.raises(data.DataError, match=r"told\.pt: these runs start from one that was shown"):
        ship.unseen_by(dataclasses.replace(CLASSIFY, weights_from=told))
    said = ship.unseen_by(dataclasses.replace(CLASSIFY, weights_from=taught))
    assert said.endswith("saw all, without labels")
    assert ship.unseen_by(CLASSIFY) == "that had seen none of the patient"


LITE0 = "efficientnet_lite0"
STAGES = f"{LITE0}+drawing"


def of_stages(
    house: Path, teacher: str = "", network: str = LITE, backbone: str = STAGES
) -> findings.Config:
    """A config of the backbone that ships, beside a run that draws lungs and heart."""
    return findings.settled(
        findings.Config(
            backbone=backbone,
            lungs_heart=str(trainings.drawing(house, network, teacher)),
            schedule="probe:64x1",
            batch=2,
            folds=2,
            threads=1,
        )
    )


@pytest.mark.parametrize(("backbone", "channels"), [(STAGES, 2336), (f"{LITE0}+2+drawing", 2024)])
def test_every_stage_of_the_networks_is_seen_side_by_side(
    house: Path, backbone: str, channels: int
) -> None:
    config = of_stages(house, backbone=backbone)
    spread = backbone == STAGES
    net = findings.started(config).net.eval()
    pictures = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        seen = net.features(pictures)
        assert net.attention is not None
        x = net.attention(net.three_channels(pictures))
        levels: list[torch.Tensor] = []
        for one in net.backbone.children():
            own = one(x)
            levels += [*own, *(level**2 for level in own)] if spread else own
        maps, shifted = net.attention_maps(seen), net.attention_maps(seen + 3.0)
    assert seen.shape == (2, net.channels, 2, 2) == (2, channels, 2, 2)
    places = np.cumsum([level.shape[1] for level in levels])[:-1]
    for level, own in zip(
        levels, torch.tensor_split(seen, torch.tensor(places), dim=1), strict=True
    ):
        means = functional.avg_pool2d(level, level.shape[-1] // 2)
        is_square = spread and level.min() >= 0
        assert torch.allclose(means.sqrt() if is_square else means, own, atol=2e-3)
    assert seen.min() < 0 < seen.max(), "features have a sign"
    assert torch.allclose(maps, shifted, atol=1e-3) and maps.amin(dim=(2, 3)).max() == 0
    assert maps.amax(dim=(2, 3)).min() > 0, "and what speaks most for a label is somewhere"


def test_the_encoder_that_draws_is_taken_from_the_run_that_draws(house: Path) -> None:
    config = of_stages(house)
    drawn = checkpoint.read(house / "drawing.pt")["ema"]
    taken = findings.started(config).net.backbone.state_dict()
    kernel = "drawing.blocks.3.expand.0.weight"
    assert torch.equal(taken[kernel], drawn[kernel.removeprefix("drawing.")].half().float())
    assert not any(".up." in name or ".last." in name for name in taken)
    with pytest.raises(data.DataError, match=r"drawing\.pt: \S+ takes the encoder of unet_eff"):
        findings.started(of_stages(house, network="unet(16, 32, 64, 128, 128)"))


def test_what_the_encoder_that_draws_has_seen_is_told(house: Path) -> None:
    assert ship.unseen_by(of_stages(house)) == "that had seen none of the patient"
    said = ship.unseen_by(of_stages(house, teacher="first/last.pt"))
    assert said.endswith("but for the encoder that draws, which saw some, without labels")
    used = [source.use for source in ship.findings_sources(of_stages(house), 7)]
    assert used == ["radiographs and labels", "weights to start from", "the encoder that draws"]


def test_kernels_start_as_they_will_be_stored(house: Path, tmp_path: Path) -> None:
    student = findings.started(of_stages(house))
    tensors = ship.arrays(student.net)
    manifest = weights.Manifest(
        network="findings",
        version="1",
        architecture=STAGES,
        input_size=64,
        normalisation="none",
        labels=LABELS,
        thresholds=dict.fromkeys(LABELS, 0.5),
        threshold_rule="youden",
    )
    weights.write_manifest(tmp_path, manifest, tensors, "float32")
    kept = read_safetensors((tmp_path / "findings.safetensors").read_bytes())
    kernels = [k for k, v in tensors.items() if v.ndim == 4 and k.startswith("backbone.")]
    assert kernels and all(kept[k].dtype == np.float16 for k in kernels)
    assert kept["head.weight"].dtype == np.float32
    assert all(np.array_equal(kept[k], tensors[k]) for k in tensors), "and nothing is lost"


def test_every_run_leaves_its_curves(house: Path) -> None:
    folder = lungs_heart.main(dataclasses.replace(SEGMENT, epochs=2))
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "dice_1", "dice_2", "dice_3"} <= set(rows[0])
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 500


def test_early_stopping_ends_when_nothing_gets_better() -> None:
    log = [{"auroc_masked": area} for area in (0.6, 0.7, 0.65, 0.69)]
    patient, hasty = (dataclasses.replace(CLASSIFY, stopping=0.1, patience=n) for n in (3, 2))
    assert not findings.tired(patient, log) and findings.tired(hasty, log)
    assert not findings.tired(dataclasses.replace(hasty, stopping=0.0), log)
    scores = findings.mean_auroc(log)
    assert checkpoint.is_best(scores[:2]) and not checkpoint.is_best(scores[:3])


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_lite0+2", STAGES])
def test_frozen_parts_stay_as_they_started(backbone: str) -> None:
    config = dataclasses.replace(CLASSIFY, backbone=backbone, frozen=2)
    student = findings.started(config)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    findings.awake(student, still=False)
    optimiser = findings.optimiser_of(config, student)
    for group in optimiser.param_groups:
        group["lr"] = 1e-2
    _, masked, unmasked = student(torch.rand(2, 1, 64, 64), None, torch.ones(2, 3, 64, 64))
    findings.label_loss(masked, unmasked, torch.ones(2, 14)).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    moved = {k for k, v in student.state_dict().items() if not torch.equal(before[k], v)}
    frozen = {k for k in before if ".stem." in k or ".blocks.0." in k}
    assert frozen and not moved & frozen
    assert any(".blocks.1." in k for k in moved) and any(".head." in k for k in moved)


def test_ridge_finds_the_label_that_features_hold() -> None:
    generator = np.random.default_rng(0)
    for n, k in ((200, 20), (50, 80)):  # both ways to solve it
        seen = generator.normal(3.0, 2.0, (n, k)).astype(np.float32)
        labels = (seen[:, :1] > 3.0).astype(np.float32)
        weight, bias = probe.ridge(seen, labels, 1e-3)
        said = seen @ weight.T + bias
        assert weight.shape == (1, k) and bias.shape == (1,)
        assert np.mean((said[:, 0] > 0) == (labels[:, 0] > 0)) > 0.9


def test_each_group_of_features_has_a_head_of_its_own_and_their_mean_speaks() -> None:
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(80, 2 * 7)).astype(np.float32)  # two pools of 4 + 3 features
    labels = (generator.random((80, 3)) < 0.4).astype(np.float32)
    weight, bias = probe.ridge_of_groups(seen, labels, 1e-2, (4, 3))
    said = []
    for own in ([0, 1, 2, 3, 7, 8, 9, 10], [4, 5, 6, 11, 12, 13]):
        alone, offset = probe.ridge(seen[:, own], labels, 1e-2)
        said.append(seen[:, own] @ alone.T + offset)
    assert np.allclose(seen @ weight.T + bias, np.mean(said, axis=0), atol=1e-4)
    one, same = probe.ridge_of_groups(seen, labels, 1e-2, (7,)), probe.ridge(seen, labels, 1e-2)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(one, same, strict=True))


def test_frozen_features_are_compared_on_patients_the_heads_never_saw() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 2)) < 0.5).astype(np.float32)
    seen = generator.normal(size=(60, 30)).astype(np.float32)
    dealt = [i % frozen.FOLDS for i in range(60)]
    by_chance = figures.mean_auroc(labels, frozen.unseen(seen, labels, dealt, 1e-3))
    seen[:, :2] += 4 * labels
    known = figures.mean_auroc(labels, frozen.unseen(seen, labels, dealt, 1e-3))
    assert by_chance < 0.7 and known > 0.9


def test_features_of_each_network_and_organ_are_told_apart() -> None:
    whole = np.arange(2560, dtype=np.float32)[None]
    inside = np.concatenate([whole, whole + 10_000, whole + 20_000], axis=1)
    named = frozen.variants(inside, whole)
    assert named["lite2, whole picture"][0, 0] == 1280
    assert named["lite2, each organ"][0, [0, 1280, 2560]].tolist() == [1280, 11_280, 21_280]
    assert named["lite0+2, each organ and the whole"].shape == (1, 4 * 2560)


def test_stages_of_each_network_and_organ_are_told_apart() -> None:
    whole = np.arange(2024, dtype=np.float32)[None]
    inside = np.concatenate([whole, whole + 10_000, whole + 20_000], axis=1)
    of_organs, of_all = frozen.in_groups("stages", inside, whole)
    assert list(of_organs) == list(of_all) == ["lite0", "lite2", "drawing"]
    assert of_all["drawing"][0, [0, -1]].tolist() == [1640, 2023]
    assert of_organs["lite2"][0, [0, 856, -1]].tolist() == [784, 10_784, 21_639]


def test_an_organ_s_area_reaches_the_heads_where_gap49_pools() -> None:
    masks = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    masks[0, 0, :32], masks[0, 1, 32:, :32], masks[0, 2, 32:, 32:] = 255, 255, 51
    areas = frozen.areas_of(masks, 10)
    assert np.allclose(areas, [[24.5, 12.25, 2.45]], atol=1e-3)
    means = np.arange(6, dtype=np.float32)[None]
    assert np.allclose(frozen.times(means, areas), [[0, 24.5, 24.5, 36.75, 9.8, 12.25]], atol=1e-2)


def in_two_processes(module: str, options: str) -> None:
    """Train on this machine's CPU as two GPUs would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "--", module, *options.split()]
    launcher = subprocess.Popen(command, env=dict(os.environ), start_new_session=True)
    try:
        assert launcher.wait(timeout=300) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):  # the two it started go with it
            os.killpg(launcher.pid, signal.SIGKILL)


@pytest.mark.soak
def test_two_processes_train_one_network(house: Path) -> None:
    drawn = lungs_heart.main(SEGMENT)
    in_two_processes(
        "train.findings",
        "--schedule label:64x2 --preset paper --backbone densenet121 --weights-from none --folds 2 "
        f"--batch 2 --threads 1 --run two --lungs-heart {drawn / 'last.pt'}",
    )
    saved = checkpoint.read(house / "runs" / "two" / "last.pt")
    assert saved["epoch"] == 2 and (house / "runs" / "two" / "held.npz").is_file()


@pytest.mark.soak
def test_two_processes_train_one_segmentation_and_stop_together(
    house: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    in_two_processes(
        "train.lungs_heart",
        "--network unet_efficientnet_lite0 --weights-from none --size 32 --epochs 40 --batch 2 "
        "--fold -1 --stopping 0.4 --patience 1 --learning-rate 0 --threads 1 --run two",
    )
    saved = checkpoint.read(house / "runs" / "two" / "last.pt")
    assert 2 <= saved["epoch"] < 40 and len(saved["log"]) == saved["epoch"]
    assert checkpoint.counting(house / "runs" / "two").name == "best.pt"
    assert all(torch.isfinite(v).all() for v in saved["ema"].values())
    assert capfd.readouterr().out.count("radiographs to train on") == 1, "one of them speaks"


def test_unknown_presets_and_backbones_are_named() -> None:
    with pytest.raises(data.DataError, match="preset: 'best' is none of paper, code"):
        findings.switches_of(findings.Config(preset="best"))
    with pytest.raises(data.DataError, match="backbone: 'vit' is none of densenet121"):
        findings.switches_of(findings.Config(backbone="vit"))
    with pytest.raises(data.DataError, match="no package has ImageNet weights for densenet121"):
        findings.started(findings.Config(preset="paper", weights_from="imagenet"))


def test_the_student_comes_nearer_to_the_teacher() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(CLASSIFY, components=8, schedule="distil:64x1")
    student = findings.Student(config)
    optimiser = findings.optimiser_of(config, student)
    for group in optimiser.param_groups:
        group["lr"] = 1e-3
    x, taught = torch.rand(2, 1, 64, 64), torch.rand(2, 8, 4, 4)
    losses = []
    for _ in range(4):
        loss = student.teacher_loss(student.net.features(x), taught)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_teacher_has_the_shape_of_efficientnet_lite0() -> None:
    network = teacher.Teacher().eval()
    count = sum(p.numel() for p in network.parameters())
    assert count == 4_652_008 - 1280 * 1000 - 1000  # as published, less the classifier
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 64, 64)).shape == (1, teacher.CHANNELS, 2, 2)


def test_a_schedule_that_is_none_is_refused_in_words() -> None:
    assert findings.phases("distil:128x2,label:224x1") == [("distil", 128, 2), ("label", 224, 1)]
    with pytest.raises(data.DataError, match="'guess:1x1' is not distil:SIZExEPOCHS, probe"):
        findings.phases("guess:1x1")


def test_the_rate_rises_and_falls_once_for_each_phase() -> None:
    config = findings.Config(schedule="distil:64x1,label:64x1")
    at = [findings.rate_at(config, e, "backbone") for e in (0.0, 0.1, 0.99, 1.0, 1.1, 1.99)]
    assert at[0] < at[1] > at[2] and at[3] < at[4] > at[5]
    assert max(at[:3]) <= config.learning_rate and max(at[3:]) <= config.label_rate
