"""Both trainings on a handful of made-up pictures: they run, they resume, they ship what loads."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prescreen.nets import weights
from prescreen.nets.screener import Screener
from prescreen.study import LABELS, ORGANS
from train import checkpoint, data, evaluate, findings, lungs_heart, ship, teacher


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with ten pictures of each kind, and a folder for runs."""
    monkeypatch.setenv("PRESCREEN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PRESCREEN_RUNS", str(tmp_path / "runs"))
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    draw_lungs_heart(tmp_path / "data" / "lungs_heart", generator)
    draw_chestxray14(tmp_path / "data" / "chestxray14", generator)
    return tmp_path


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_lungs_heart(folder: Path, generator: np.random.Generator) -> None:
    rows = []
    for i in range(10):
        name = f"made{i:03d}"
        save(folder / "made" / "images" / f"{name}.jpg", generator.integers(0, 255, (64, 64)))
        for k, organ in enumerate(ORGANS):
            mask = np.zeros((64, 64))
            mask[10:50, 5 + 18 * k : 27 + 18 * k] = 255
            save(folder / "made" / "masks" / organ / f"{name}.png", mask)
        rows.append({"source": "made", "image": name, "cardiothoracic_ratio": "0.5"})
    write(folder / "index.csv", rows)


def draw_chestxray14(folder: Path, generator: np.random.Generator) -> None:
    rows = []
    for i in range(10):
        save(folder / "images" / f"{i:03d}.jpg", generator.integers(0, 255, (64, 64)))
        labels = "Mass|Nodule" if i % 2 else "No Finding"
        split = "test" if i == 9 else "train_val"
        row = {"image": f"{i:03d}.jpg", "labels": labels, "patient": str(i), "view": "PA"}
        rows.append(row | {"official_split": split})
    write(folder / "labels.csv", rows)


SEGMENT = lungs_heart.Config(size=32, epochs=1, batch=2, held_out=0.4, threads=1)
CLASSIFY = findings.Config(
    schedule="label:64x1", distil_weight=0.0, batch=2, held_out=0.4, threads=1
)


def test_segmentation_trains_resumes_and_teaches(house: Path) -> None:
    folder = lungs_heart.main(SEGMENT)
    before = checkpoint.read(folder / "last.pt")
    assert before["epoch"] == 1 and before["config"]["size"] == 32
    lungs_heart.main(dataclasses.replace(SEGMENT, epochs=2))
    after = checkpoint.read(folder / "last.pt")
    assert after["epoch"] == 2 and after["log"][0] == before["log"][0]
    moved = [not torch.equal(before["network"][k], after["network"][k]) for k in before["network"]]
    assert any(moved)


def test_both_networks_ship_what_the_node_loads(house: Path) -> None:
    drawn = lungs_heart.main(SEGMENT)
    config = dataclasses.replace(CLASSIFY, lungs_heart=str(drawn / "last.pt"))
    run = findings.main(config)
    log = checkpoint.read(run / "last.pt")["log"]
    assert log[0]["what"] == "label" and 0 <= log[0]["auroc_masked"] <= 1
    to = house / "weights"
    ship.ship_findings(run, to)
    ship.ship_lungs_heart(drawn, to)
    written = ship.add_lungs_heart_figures(to)
    assert set(written.metrics) == set(ORGANS)
    model = Screener(to, device="cpu").model
    assert model == weights.describe(to)
    assert model.figures_of("Mass").positives > 0
    assert model.figures_of("Hernia").auroc is None
    assert (model.findings.preset, model.threshold_rule) == ("paper", "youden")
    folder = house / "data" / "chestxray14"
    report, _ = evaluate.evaluate_findings(folder / "images", folder / "labels.csv", to)
    assert report["n"] == 10 and set(report["auroc"]) == set(LABELS)


def test_the_student_comes_nearer_to_the_teacher() -> None:
    torch.manual_seed(0)
    student = findings.Student(findings.Config(components=8))
    optimiser = findings.optimiser_of(findings.Config(), student)
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
    with pytest.raises(data.DataError, match="'guess:1x1' is not distil:SIZExEPOCHS"):
        findings.phases("guess:1x1")


def test_the_rate_rises_and_falls_once_for_each_phase() -> None:
    config = findings.Config(schedule="distil:64x1,label:64x1")
    at = [findings.rate_at(config, e, "backbone") for e in (0.0, 0.1, 0.99, 1.0, 1.1, 1.99)]
    assert at[0] < at[1] > at[2] and at[3] < at[4] > at[5]
    assert max(at[:3]) <= config.learning_rate and max(at[3:]) <= config.label_rate
