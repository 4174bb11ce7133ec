"""What both trainings need, made up and small: pictures, lists, and configs that take seconds."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prescreen.nets import unet
from prescreen.study import ORGANS
from train import findings, lungs_heart

LITE = "unet_efficientnet_lite0"


def house(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`folder` with a data folder of ten pictures of each kind, and a folder for runs."""
    monkeypatch.setenv("PRESCREEN_DATA", str(folder / "data"))
    monkeypatch.setenv("PRESCREEN_RUNS", str(folder / "runs"))
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    draw_lungs_heart(folder / "data" / "lungs_heart", generator)
    draw_chestxray14(folder / "data" / "chestxray14", generator)
    return folder


def saved(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def listed(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_lungs_heart(folder: Path, generator: np.random.Generator) -> None:
    rows = []
    for i in range(10):
        name = f"made{i:03d}"
        saved(folder / "made" / "images" / f"{name}.jpg", generator.integers(0, 255, (64, 64)))
        for k, organ in enumerate(ORGANS):
            mask = np.zeros((64, 64))
            mask[10:50, 5 + 18 * k : 27 + 18 * k] = 255
            saved(folder / "made" / "masks" / organ / f"{name}.png", mask)
        rows.append({"source": "made", "image": name, "cardiothoracic_ratio": "0.5"})
    listed(folder / "index.csv", rows)


def draw_chestxray14(folder: Path, generator: np.random.Generator) -> None:
    rows = []
    for i in range(10):
        saved(folder / "images" / f"{i:03d}.jpg", generator.integers(0, 255, (64, 64)))
        labels = "Mass|Nodule" if i % 2 else "No Finding"
        split = "test" if i == 9 else "train_val"
        row = {"image": f"{i:03d}.jpg", "labels": labels, "patient": str(i), "view": "PA"}
        rows.append(row | {"official_split": split})
    listed(folder / "labels.csv", rows)


SEGMENT = lungs_heart.Config(
    network="unet(16, 32, 64, 128, 128)",
    size=32,
    epochs=1,
    batch=2,
    folds=2,
    fold=0,
    threads=1,
)
CLASSIFY = findings.Config(
    schedule="probe:64x1,label:64x1",
    preset="paper",
    backbone="densenet121",
    weights_from="none",
    batch=2,
    folds=2,
    threads=1,
)


def drawing(folder: Path, network: str = SEGMENT.network, teacher: str = "") -> Path:
    """The checkpoint of a run of `train.lungs_heart` that has learnt nothing."""
    config = dataclasses.replace(SEGMENT, network=network, teacher=teacher)
    state = unet.SEGMENTERS[network]().state_dict()
    torch.save({"config": dataclasses.asdict(config), "ema": state}, folder / "drawing.pt")
    return folder / "drawing.pt"
