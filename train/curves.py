"""How a training went, epoch by epoch, for a spreadsheet and for the eye."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train import drawings
from train.checkpoint import Log


def keep(folder: Path, log: Log) -> None:
    """Write `curves.csv` (a row an epoch) and `curves.png` into the run's folder.

    In the picture losses are shares of the greatest; figures of 0…1 stand as they are.
    """
    rows = [flat(entry) for entry in log]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    drawn = {name: _curve(rows, name) for name in names if _is_drawn(rows, name)}
    axes = ("share of the epochs so far", "figure, or share of the greatest loss")
    title = f"{folder.name}: {len(rows)} epochs"
    drawings.curves(folder / "curves.png", title, axes, drawn, diagonal=False)


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One level of names: the values of a list are numbered from 1."""
    row: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            row |= {f"{name}_{k}": v for k, v in enumerate(value, start=1)}
        else:
            row[name] = value
    return row


def _is_drawn(rows: list[dict[str, Any]], name: str) -> bool:
    chosen = name.startswith(("loss", "dice", "auroc"))
    return chosen and len([row for row in rows if name in row]) > 1


def _curve(rows: list[dict[str, Any]], name: str) -> drawings.Curve:
    at = np.array([i for i, row in enumerate(rows) if name in row], dtype=float)
    values = np.array([row[name] for row in rows if name in row], dtype=float)
    if name.startswith("loss"):
        values = values / max(float(values.max()), 1e-9)
    return at / max(1, len(rows) - 1), np.clip(values, 0.0, 1.0)
