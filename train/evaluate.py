"""Say how good weights are, through the very `Screener` that the node uses.

    python -m train.evaluate findings --weights weights --json findings.json
    python -m train.evaluate lungs-heart --weights weights --json lungs_heart.json

What is printed is also written as JSON. Without `--all` only radiographs are judged that the
shipped configuration held out from training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prescreen.nets.screener import BATCH, Screener
from prescreen.nets.weights import read_manifest
from prescreen.study import LABELS, ORGANS, BoolArray, Header, Radiograph, Screening
from train import data, figures

Numbers = npt.NDArray[np.float64]
Screen = Callable[[Sequence[Radiograph]], list[Screening]]


def radiograph_of(path: Path) -> Radiograph:
    """A picture file as the node would see it: 0…1, air dark, no header worth the name."""
    pixels = data.read_picture(path).astype(np.float32) / 255.0
    header = Header("", path.stem, "", "")
    return Radiograph(header, pixels, (pixels.shape[0], pixels.shape[1]), None, "")


def screened(paths: Sequence[Path], screener: Screen) -> list[Screening]:
    """The screenings of these files in order, a batch in memory at a time. Reads no label."""
    results: list[Screening] = []
    for start in range(0, len(paths), BATCH):
        results += screener([radiograph_of(p) for p in paths[start : start + BATCH]])
        if start % (BATCH * 10) == 0:
            print(f"{start} of {len(paths)} radiographs", flush=True)
    return results


# ---------------------------------------------------------------- findings


def probabilities(screenings: Sequence[Screening]) -> tuple[Numbers, Numbers]:
    """Masked and unmasked probabilities, (n, 14) each."""
    masked = [[f.probability for f in s.findings] for s in screenings]
    unmasked = [[f.probability_unmasked for f in s.findings] for s in screenings]
    return np.asarray(masked, dtype=np.float64), np.asarray(unmasked, dtype=np.float64)


def findings(
    pictures: Sequence[data.LabelledPicture], scores: Numbers, seed: int = 1
) -> dict[str, Any]:
    """AUROC per label and their mean, with 95 % intervals by patient; Brier score.

    `scores` (n, 14) are fixed before this function sees a label.
    """
    truth = np.array([p.labels for p in pictures], dtype=bool)
    samples = figures.resampled([p.patient for p in pictures], seed)
    areas: dict[str, float | None] = {}
    bounds: dict[str, tuple[float, float] | None] = {}
    drawn = []
    for k, label in enumerate(LABELS):
        areas[label] = figures.auroc(truth[:, k], scores[:, k])
        again = [figures.auroc(truth[s, k], scores[s, k]) for s in samples]
        bounds[label] = figures.interval(again)
        drawn.append(again)
    known = [a for a in areas.values() if a is not None]
    means = [float(np.mean(v)) for row in zip(*drawn, strict=True) if (v := _known(row))]
    return {
        "n": len(pictures),
        "patients": len({p.patient for p in pictures}),
        "positives": {label: int(truth[:, k].sum()) for k, label in enumerate(LABELS)},
        "mean_auroc": float(np.mean(known)) if known else None,
        "mean_auroc_ci95": figures.interval(means),
        "auroc": areas,
        "ci95": bounds,
        "brier": float(np.mean((scores - truth) ** 2)),
    }


def _known(row: Sequence[float | None]) -> list[float]:
    return [v for v in row if v is not None]


def evaluate_findings(folder: Path, weights: Path, everything: bool) -> dict[str, Any]:
    """Figures of the shipped weights on the held-out patients of a ChestX-ray14 folder."""
    pictures = data.read_chestxray14(folder)
    if not everything:
        config = read_manifest(weights / "findings.json").config
        _, pictures = data.split_by_patient(pictures, config["held_out"], config["seed"])
    results = screened([p.path for p in pictures], Screener(weights))
    masked, unmasked = probabilities(results)
    report = findings(pictures, masked)
    report["unmasked"] = findings(pictures, unmasked)
    states = [f.state.value for s in results for f in s.findings]
    report["states"] = {state: states.count(state) for state in sorted(set(states))}
    return report


# ---------------------------------------------------------------- lungs and heart


def dice_of(drawn: BoolArray, truth: BoolArray) -> list[float]:
    """Dice per organ of (3, h, w) masks; lungs are scored outside the true heart."""
    drawn = drawn.copy()
    drawn[:2] &= ~truth[2]
    return [_dice(a, b) for a, b in zip(drawn, truth, strict=True)]


def _dice(a: BoolArray, b: BoolArray) -> float:
    return float((2 * (a & b).sum() + 1) / (a.sum() + b.sum() + 1))


def evaluate_lungs_heart(folder: Path, weights: Path, everything: bool) -> dict[str, Any]:
    """Dice per organ and the mean absolute error of the cardiothoracic ratio, held-out pictures."""
    manifest = read_manifest(weights / "lungs_heart.json")
    pictures = data.read_lungs_heart(folder, manifest.input_size)
    if not everything:
        seed, held_out = manifest.config["seed"], manifest.config["held_out"]
        pictures = [p for p in pictures if data.share_of(p.name, seed) < held_out]
    paths = [data.picture_path(folder, p) for p in pictures]
    anatomies = [s.anatomy for s in screened(paths, Screener(weights))]
    scores = np.array([dice_of(a.masks, p.masks) for a, p in zip(anatomies, pictures, strict=True)])
    errors = [
        abs(a.cardiothoracic_ratio - p.cardiothoracic_ratio)
        for a, p in zip(anatomies, pictures, strict=True)
        if a.cardiothoracic_ratio is not None and p.cardiothoracic_ratio is not None
    ]
    return {
        "n": len(pictures),
        "dice": dict(zip(ORGANS, scores.mean(axis=0).tolist(), strict=True)),
        "dice_worst": dict(zip(ORGANS, scores.min(axis=0).tolist(), strict=True)),
        "ctr_mae": float(np.mean(errors)) if errors else None,
        "ctr_n": len(errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["findings", "lungs-heart"])
    parser.add_argument("--data", type=Path, help="default: its folder under PRESCREEN_DATA")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="every radiograph, not the held-out")
    chosen = parser.parse_args()
    evaluate, name = {
        "findings": (evaluate_findings, "chestxray14"),
        "lungs-heart": (evaluate_lungs_heart, "lungs_heart"),
    }[chosen.what]
    report = evaluate(chosen.data or data.data_dir() / name, chosen.weights, chosen.all)
    text = json.dumps(report, indent=2)
    chosen.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
