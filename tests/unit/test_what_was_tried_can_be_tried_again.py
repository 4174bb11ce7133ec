"""The commands behind the tables of train/README.md compare what they say they compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prescreen.nets import unet
from prescreen.nets.weights import Calibration
from prescreen.study import LABELS
from train import calibration, evaluate, frozen, switches, twins
from train.chestxray14 import LabelledPicture


def test_two_views_of_one_radiograph_are_nearer_than_those_of_two() -> None:
    g = torch.Generator().manual_seed(1)
    one, other = (torch.randn(64, 8, generator=g) for _ in range(2))
    same = one + 0.1 * torch.randn(64, 8, generator=g)
    near, far = (float(twins.twins_loss(one, seen, 0.01)) for seen in (same, other))
    assert near < 0.5 < 4 < far
    alike = one[:, :1].expand(64, 8) + 0.1 * other  # every number says the same
    assert float(twins.twins_loss(alike, alike, 0.01)) > near


def test_levels_of_a_segmentation_are_pooled_by_organ() -> None:
    network = unet.UNet().eval()
    masks = torch.zeros(2, 3, 64, 64)
    masks[:, 0, :, :32], masks[:, 1, :, 32:], masks[:, 2, 20:40] = 1.0, 1.0, 1.0
    with torch.inference_mode():
        pools = frozen.pools_of(network.encode(torch.rand(2, 1, 64, 64)), masks)
    deepest, every = network.widths[-1], sum(network.widths)
    shapes = {name: seen.shape[1] for name, seen in pools.items()}
    assert list(shapes.values()) == [deepest, 3 * deepest, every, 3 * every]


def test_features_side_by_side_are_judged_by_the_mean_of_their_logits() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 2)) < 0.5).astype(np.float32)
    knows = np.hstack([4 * labels, generator.normal(size=(60, 5))]).astype(np.float32)
    dealt = [i % frozen.FOLDS for i in range(60)]
    told = frozen.together([knows, np.zeros_like(knows)], labels, dealt)
    assert told == {f"{s:g}": 1.0 for s in frozen.STRENGTHS}


def test_a_distorted_copy_is_the_same_ever_again_and_masks_go_with_it() -> None:
    x = torch.rand(4, 1, 64, 64)
    masks = torch.zeros(4, 3, 64, 64)
    masks[:, :, 16:48, 16:48] = 1.0
    index = torch.arange(4)
    copy, other = switches.VIEWS["copy-1"], switches.VIEWS["copy-2"]
    one, drawn = switches.shown(copy, x, masks, index)
    again, _ = switches.shown(copy, x, masks, index)
    assert torch.equal(one, again) and not torch.equal(drawn, masks)
    assert not torch.equal(one, switches.shown(other, x, masks, index)[0])
    plain, mirrored = (
        switches.shown(switches.VIEWS[name], x, masks, index)[0] for name in ("plain", "mirrored")
    )
    assert torch.equal(plain, x) and torch.equal(mirrored.flip(3), x)
    assert len({view.name for view in switches.VIEWS.values()}) == len(switches.VIEWS)


def test_a_row_stands_for_every_view_that_was_seen() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 14)) < 0.5).astype(np.float32)
    seen = [generator.normal(size=(60, 5)).astype(np.float32) for _ in range(4)]
    folds = switches.Folds(labels, [i % frozen.FOLDS for i in range(60)], 1e-3)
    views = {"plain": {switches.OURS: seen[0]}, "copy-1": {switches.OURS: seen[1]}}
    rows = switches.answers(views, {"320 px": seen[2]}, folds)
    copied = "1 distorted copies learnt as well"
    assert list(rows) == [switches.OURS, copied, "320 px", "averaged with 320 px"]
    both = (rows[switches.OURS] + rows["320 px"]) / 2
    assert np.array_equal(rows["averaged with 320 px"], both)
    assert not np.array_equal(rows[copied], rows[switches.OURS])


def test_runs_with_and_without_are_compared_on_what_none_had_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "chestxray14"
    (folder / "images").mkdir(parents=True)
    monkeypatch.setenv("PRESCREEN_DATA", str(tmp_path / "data"))
    rows = ["image,labels,patient,view,official_split"]
    for i in range(40):
        (folder / "images" / f"{i:03d}.png").touch()
        rows.append(f"{i:03d}.png,{'Mass' if i % 2 else 'No Finding'},{i},PA,train_val")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    truth = np.arange(40) % 2
    noise = np.random.default_rng(0).uniform(0.3, 0.7, 40)
    for name, said in (("knows", 0.2 + 0.6 * truth), ("guesses", noise)):
        for fold in range(2):
            rows_of = (
                np.arange(fold, 40, 2)
                if name == "guesses"
                else np.arange(fold * 20, fold * 20 + 20)
            )
            answers = np.repeat(said[rows_of, None], 28, axis=1).reshape(-1, 2, 14)
            (tmp_path / f"{name}_{fold}").mkdir()
            names = np.array([f"{i:03d}" for i in rows_of])
            np.savez(tmp_path / f"{name}_{fold}" / "held.npz", names=names, answers=answers)
    runs = {
        name: [str(tmp_path / f"{name}_{k}") for k in range(2)] for name in ("knows", "guesses")
    }
    asked = ["ablation", "--labels", str(folder / "labels.csv"), "--json", str(tmp_path / "r.json")]
    evaluate.main([*asked, "--folds", *runs["knows"], "--without-folds", *runs["guesses"]])
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["question"] == "attention" and report["n"] == 40
    assert report["auroc_with"]["Mass"] == 1.0 and report["difference_ci95"]["mean"][0] > 0
    with pytest.raises(SystemExit, match="--without-folds: --folds names the runs"):
        evaluate.main([*asked, "--without-folds", *runs["guesses"]])


def test_a_threshold_moved_with_its_calibration_flags_the_same() -> None:
    generator = np.random.default_rng(0)
    said = generator.uniform(0.001, 0.999, (2000, 14))
    for a, b in ((0.55, -2.2), (1.4, 0.25), (1.0, 0.0)):
        fitted = {"Hernia": Calibration("platt", a, b)}
        logits = calibration.logits_of(said, {})[:, -1]
        after = calibration.applied(fitted["Hernia"], logits)
        for threshold in (0.0601, 0.5, 0.93):
            there = calibration.moved(threshold, fitted["Hernia"])
            assert ((said[:, -1] >= threshold) == (after >= there)).all()


def test_what_a_calibration_is_worth_is_told_of_patients_it_had_not_seen() -> None:
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.05, 0.95, (600, 14))
    truth = generator.random((600, 14)) < chance
    too_sure = calibration.sigmoid(3.0 * calibration.logits_of(chance, {}))
    pictures = [
        LabelledPicture(Path(f"{i}.png"), str(i), tuple(map(int, row)), "PA", "train_val")
        for i, row in enumerate(truth)
    ]
    report, after = calibration.improved("platt", pictures, truth, too_sure)
    assert set(report["ece_after"]) == {*LABELS, "mean"} and after.shape == (600, 14)
    for measure in ("ece", "brier"):
        assert report[f"{measure}_after"]["mean"] < report[f"{measure}_before"]["mean"]
