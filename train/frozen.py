"""What frozen ImageNet features are worth, pooled in several ways: the table in README.md.

    python -m train.frozen --lungs-heart RUN/last.pt --seed 1 --json FILE

Five folds by patient over the train_val list; the heads are fitted in closed form (`train.probe`).
Every radiograph passes the two networks once, whatever is compared afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prescreen.study import ORGANS
from train import data, figures, findings, machine, probe
from train.figures import Numbers

#: Which features of the two networks side by side are whose.
NETWORKS = {
    "lite0": slice(0, 1280),
    "lite2": slice(1280, 2560),
    "lite0+2": slice(0, 2560),
}
STRENGTHS = (1e-3, 3e-3, 1e-2)
FOLDS = 5


def variants(inside: probe.Features, whole: probe.Features) -> dict[str, probe.Features]:
    """Features (n, k) by name, from those of each organ (n, 3 x 2560) and of all (n, 2560)."""
    organs = inside.reshape(len(inside), len(ORGANS), -1)
    found = {}
    for network, part in NETWORKS.items():
        of_organs = organs[:, :, part].reshape(len(inside), -1)
        found[f"{network}, whole picture"] = whole[:, part]
        found[f"{network}, each organ"] = of_organs
        found[f"{network}, each organ and the whole"] = np.hstack([of_organs, whole[:, part]])
    return found


def unseen(
    seen: probe.Features, labels: probe.Features, dealt: list[int], strength: float
) -> Numbers:
    """Logits (n, 14), each from heads that were fitted without the fold of the radiograph."""
    fold = np.asarray(dealt)
    said = np.zeros(labels.shape)
    for k in range(FOLDS):
        weight, bias = probe.ridge(seen[fold != k], labels[fold != k], strength)
        said[fold == k] = seen[fold == k] @ weight.T + bias
    return said


def compared(
    named: Mapping[str, probe.Features], labels: probe.Features, dealt: list[int]
) -> dict[str, dict[str, float]]:
    """Mean AUROC over the labels, by variant and strength of the penalty."""
    return {
        name: {
            f"{strength:g}": round(
                figures.mean_auroc(labels, unseen(seen, labels, dealt, strength)), 4
            )
            for strength in STRENGTHS
        }
        for name, seen in named.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lungs-heart", required=True, help="checkpoint of the segmentation")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    chosen = parser.parse_args()
    machine.start(chosen.seed, 0)
    config = findings.Config(fold=-1, seed=chosen.seed, lungs_heart=chosen.lungs_heart)
    every = findings.parts_of(config)[0]
    listed = {p.path: p for p in data.read_chestxray14(data.data_dir() / "chestxray14")}
    dealt = data.folds([listed[path] for path in every.paths], FOLDS, chosen.seed)
    net = findings.started(config).net
    inside, whole = findings.pooled(net, every, config, chosen.size)
    report = compared(variants(inside, whole), every.labels.numpy(), dealt)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, told in report.items():
        print(f"{name:40}", *(f"{area:.4f}" for area in told.values()))


if __name__ == "__main__":
    main()
