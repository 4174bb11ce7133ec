"""State in a manifest whether the attention maps point where radiologists drew boxes.

    python -m train.evaluate boxes --images DIR --boxes CSV --weights weights --json boxes.json
    python -m train.pointing --boxes boxes.json --weights weights --to site-weights \\
        --held-out "984 boxes of the official test list" --list train_val_list.txt

The weights stay as they are; the figures are bound to their digest, and refused for others. The
node shows attention (setting `attention`) of those findings alone whose hit rate is proven: its
lower 95 % bound above what one fixed point hits, its own and that of all findings together, on at
least 30 patients that the weights have not seen.
Figures of radiographs that they were trained on are stated as such (`--trained-on`), and prove
nothing. `--list` names the radiographs of the training, as a list or as the first column of a CSV:
with `--held-out`, patients that are in both are an error. Patients are told by the part of a name
before its first underscore, as ChestX-ray14 has it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prescreen.errors import PrescreenError
from prescreen.nets import weights
from prescreen.nets.weights import Manifest, PointingGame
from prescreen.study import POINTING_PATIENTS, Pointing
from train.calibrate import write
from train.pictures import DataError, stem_of

ANEW = "make it anew: python -m train.evaluate boxes"


def read_report(path: Path) -> dict[str, Any]:
    """What `train.evaluate boxes` wrote. Raises DataError where it is missing or something else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--boxes {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"--boxes {path} is not JSON ({error}); {ANEW}") from error
    keys = ("weights_sha256", "pointing_game", "radiographs")
    if not isinstance(report, dict) or any(key not in report for key in keys):
        raise DataError(f"--boxes {path} has no pointing game of known weights; {ANEW}")
    return report


def game_of(report: dict[str, Any], radiographs: str, held_out: bool) -> PointingGame:
    """The pointing game of a report as a manifest states it. Raises DataError where it is none."""
    told = report["pointing_game"]
    try:
        found = {label: Pointing(**_rounded(told[label]), held_out=held_out) for label in told}
    except (TypeError, AttributeError) as error:
        raise DataError(f"--boxes: its pointing game is malformed ({error}); {ANEW}") from error
    return PointingGame(report["weights_sha256"], radiographs, found)


def _rounded(told: dict[str, Any]) -> dict[str, Any]:
    return {key: round(v, 6) if isinstance(v, float) else v for key, v in told.items()}


def require_unseen(report: dict[str, Any], listed: Path) -> None:
    """DataError where a patient of the game is among those of the training."""
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--list {listed} cannot be read as a list of names") from error
    trained = {_patient(stem_of(line.split(",")[0])) for line in lines if line.strip()}
    if not trained:
        raise DataError(f"--list {listed} names no radiograph")
    both = {stem for stem in report["radiographs"] if _patient(stem) in trained}
    if both:
        raise DataError(
            f"{len(both)} of {len(report['radiographs'])} radiographs are of patients in {listed}: "
            "leave these out, or say --trained-on instead of --held-out"
        )


def _patient(stem: str) -> str:
    return stem.split("_")[0]


def lines_of(game: PointingGame) -> list[str]:
    """What a person reads."""
    lines = [
        f"{'':20}{'boxes':>7}{'patients':>10}{'hit rate':>10}{'from':>8}{'fixed':>8}{'all':>8}"
    ]
    for label, told in game.findings.items():
        lines.append(
            f"{label:20}{told.boxes:>7}{told.patients:>10}{told.hit_rate:>10.3f}"
            f"{told.low:>8.3f}{told.fixed_point:>8.3f}{told.fixed_point_of_all:>8.3f}  "
            f"{_verdict(told)}"
        )
    return lines


def _verdict(told: Pointing) -> str:
    if told.is_proven:
        return "proven: shown where the setting attention asks for it"
    if not told.held_out:
        return "not proven: seen in training"
    if told.patients < POINTING_PATIENTS:
        return f"not proven: fewer than {POINTING_PATIENTS} patients"
    return "not proven: no better than the fixed point"


def state(chosen: argparse.Namespace) -> Manifest:
    """Read, compare, write; the manifest as written."""
    report = read_report(chosen.boxes)
    held_out = chosen.held_out is not None
    if held_out and chosen.list is not None:
        require_unseen(report, chosen.list)
    game = game_of(report, chosen.held_out or chosen.trained_on, held_out)
    old = weights.load(chosen.weights)["findings"].manifest
    return write(chosen.weights, chosen.to, replace(old, pointing=game))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it. What is missing or malformed is said in one line, exit status 1."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m train.pointing", None, __doc__, formatter_class=raw)
    parser.add_argument("--boxes", type=Path, required=True, help="JSON of train.evaluate boxes")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="default: weights")
    parser.add_argument("--to", type=Path, required=True, help="folder for the new manifest")
    seen = parser.add_mutually_exclusive_group(required=True)
    seen.add_argument("--held-out", help="on which radiographs; none of their patients trained on")
    seen.add_argument("--trained-on", help="on which radiographs; the weights were trained on some")
    parser.add_argument("--list", type=Path, help="names of the radiographs of the training")
    chosen = parser.parse_args(arguments)
    try:
        written = state(chosen)
    except (DataError, PrescreenError) as error:
        sys.exit(f"error: {error}")
    if written.pointing is not None:
        print("\n".join(lines_of(written.pointing)))
    print(f"{chosen.to / 'findings.json'}: weights {written.sha256}")


if __name__ == "__main__":
    main()
