"""Runs: resumed as if never stopped, shipped by the epoch that counts, or refused."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prescreen.nets.weights import load_one
from tests import trainings
from train import checkpoint, data, findings, lungs_heart, ready, ship
from train.data import DataError


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[findings.Config]:
    """Three epochs of labels that take seconds; the runs' checkpoints are removed afterwards."""
    house = trainings.house(tmp_path, monkeypatch)
    yield dataclasses.replace(
        trainings.CLASSIFY,
        backbone="resnet18",
        schedule="label:32x3",
        lungs_heart=str(trainings.drawing(house)),
    )
    for file in tmp_path.rglob("*.pt"):
        file.unlink()


def without_times(log: checkpoint.Log) -> checkpoint.Log:
    return [{k: v for k, v in e.items() if k not in ("seconds", "images_s")} for e in log]


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    small: findings.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoint.read(findings.main(small) / "last.pt")
    steps, killed = [0], dataclasses.replace(small, run="killed")
    learn = findings.label_loss

    def dies_in_the_second_epoch(*given: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == 4:  # two steps an epoch
            raise KeyboardInterrupt
        return learn(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(findings, "label_loss", dies_in_the_second_epoch)
        findings.main(killed)
    folder = data.runs_dir() / "killed"
    assert checkpoint.read(folder / "last.pt")["epoch"] == 1
    resumed = checkpoint.read(findings.main(killed) / "last.pt")
    assert without_times(resumed["log"]) == without_times(whole["log"])
    assert len(whole["log"]) == 3
    assert all(torch.equal(whole["ema"][k], v) for k, v in resumed["ema"].items())


def test_with_early_stopping_the_best_epoch_is_judged_and_shipped(
    small: findings.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(small, stopping=0.3, patience=1, schedule="label:32x9")
    runs = [stopped(config, fold, monkeypatch) for fold in (0, 1, -1)]
    for run in runs:
        assert checkpoint.read(run / "last.pt")["epoch"] == 3, "one epoch was no better"
        assert checkpoint.read(run / "best.pt")["epoch"] == 2
    findings.main(dataclasses.replace(config, run="stopped_0"))  # asks for no other score
    _, best, size = findings.counted(runs[0])
    held = findings.parts_of(config)[2]
    loader = findings.in_order(config, held.paths, 512)
    with np.load(runs[0] / "held.npz") as kept:
        assert np.allclose(kept["answers"], findings.predict(best.net, loader, held.masks, size))
    ship.ship_findings(runs[-1], runs[:2], tmp_path / "weights")
    shipped = load_one(tmp_path / "weights", "findings").tensors
    counts, last = (checkpoint.read(runs[-1] / f"{n}.pt")["ema"] for n in ("best", "last"))
    name = "net.head.weight"
    assert np.allclose(shipped["head.weight"], counts[name].half(), atol=1e-6)
    assert not np.allclose(shipped["head.weight"], last[name].half(), atol=1e-6)


def stopped(config: findings.Config, fold: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose second epoch is its best, and whose third its last."""
    scores = iter([0.5, 0.7, 0.6])
    monkeypatch.setattr(findings, "validated", lambda *_: {"auroc_masked": next(scores)})
    return findings.main(dataclasses.replace(config, fold=fold, run=f"stopped_{fold}"))


# ---------------------------------------------------------------- refused


def lying(folder: Path, config: Any, log: list[dict[str, Any]]) -> Path:
    """A run as far as its config and its log go."""
    folder.mkdir()
    torch.save({"config": dataclasses.asdict(config), "log": log}, folder / "last.pt")
    return folder


PLAN = findings.Config(preset="paper", schedule="label:64x2")
TWO = [{"auroc_masked": 0.6}, {"auroc_masked": 0.5}]
DRAWS = lungs_heart.Config(epochs=2)
TWICE = [{"dice": [0.9]}, {"dice": [0.8]}]
FINDINGS, LUNGS_HEART = (ready.refuse_findings, PLAN, TWO), (ready.refuse_lungs_heart, DRAWS, TWICE)


@pytest.mark.parametrize(("refuse", "plan", "log"), [FINDINGS, LUNGS_HEART])
def test_runs_that_may_not_ship_together_are_named(
    refuse: Callable[..., None], plan: Any, log: list[dict[str, Any]], tmp_path: Path
) -> None:
    def run(name: str, epochs: int = 2, **changed: Any) -> Path:
        return lying(tmp_path / name, dataclasses.replace(plan, **changed), log[:epochs])

    whole, fold = run("whole", fold=-1), run("fold", fold=0, threads=3, run="another")
    refuse(whole, [fold])
    with pytest.raises(DataError, match=r"--run \S+fold: it held out fold 0; what ships"):
        refuse(fold, [fold])
    with pytest.raises(DataError, match=r"--folds \S+whole: it held out nothing; name one"):
        refuse(whole, [whole])
    half = run("half", epochs=1, fold=-1)
    with pytest.raises(DataError, match="half is not finished: 1 of 2 epochs are done; start the"):
        refuse(half, [fold])
    with pytest.raises(DataError, match="half is not finished"):
        refuse(whole, [half])
    other = run("other", fold=1, seed=7)
    with pytest.raises(DataError, match=r"other: its seed is 7, that of --run 1; figures are of"):
        refuse(whole, [fold, other])
    with pytest.raises(DataError, match=r"last\.pt is missing"):
        refuse(whole, [tmp_path / "gone"])


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAN, stopping=0.1, patience=1, schedule="label:64x9")
    whole = lying(tmp_path / "whole", dataclasses.replace(config, fold=-1), TWO)
    ready.refuse_findings(whole, [lying(tmp_path / "fold", config, TWO)])


def test_each_fold_of_the_segmentation_may_have_its_own_teacher(tmp_path: Path) -> None:
    whole = lying(tmp_path / "all", dataclasses.replace(DRAWS, fold=-1, teacher="a"), TWICE)
    own = lying(tmp_path / "own", dataclasses.replace(DRAWS, teacher="b"), TWICE)
    ready.refuse_lungs_heart(whole, [own])
    none = lying(tmp_path / "none", DRAWS, TWICE)
    with pytest.raises(DataError, match="its teacher is False, that of --run True"):
        ready.refuse_lungs_heart(whole, [none])


def test_weights_name_the_commit_of_their_code_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert ship.commit() == ""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "one.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], check=True, timeout=30)
    assert len(ship.commit()) == 40
    (tmp_path / "weights.json").write_text("{}")
    assert len(ship.commit()) == 40, "weights may have been written"
    (tmp_path / "train" / "one.py").write_text("2\n")
    assert ship.commit().endswith("-dirty")
