"""What the answers of several networks are worth together: the mean of their logits.

    python -m train.ensemble --folds A0 … A4 --folds B0 … B4 --json FILE

Each `--folds` names the runs of one network, a run for every fold, as `train.ship` takes them; each
judges the fold it had not seen. Nothing is fitted to the answers: all networks count alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train import calibration, figures, probe, unseen
from train.figures import Numbers


def answered(folds: Sequence[Path]) -> tuple[probe.Features, Numbers]:
    """Labels (n, 14) and logits (n, 2, 14) of the masked and unmasked head, in order of names."""
    held, masked, unmasked = unseen.answers(folds)
    order = sorted(range(len(held)), key=lambda i: held[i].path.stem)
    said = np.stack([calibration.logits_of(p, {}) for p in (masked, unmasked)], axis=1)[order]
    truth = np.array([held[i].labels for i in order], dtype=np.float32)
    return truth, said


def together(networks: Sequence[Sequence[Path]]) -> dict[str, dict[str, float]]:
    """Mean AUROC of both heads of each network, and of all of them together.

    DataError where the runs of one network do not hold out every radiograph once.
    """
    every = [answered(folds) for folds in networks]
    truth = every[0][0]
    rows = {str(folds[0]): said for folds, (_, said) in zip(networks, every, strict=True)}
    rows["together"] = np.mean([said for _, said in every], axis=0)
    return {
        name: {
            head: round(figures.mean_auroc(truth, said[:, k]), 4)
            for k, head in enumerate(("masked", "unmasked"))
        }
        for name, said in rows.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=Path, nargs="+", action="append", required=True)
    parser.add_argument("--json", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    report = together(chosen.folds)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, told in report.items():
        print(f"{name:40}", *(f"{area:.4f}" for area in told.values()))


if __name__ == "__main__":
    main()
