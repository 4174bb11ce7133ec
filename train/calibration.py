"""From what a network says to probabilities that come true: temperature or Platt, prior shift.

Fitted per finding on logits of radiographs the network was not trained on. The form is that of
`weights.Calibration`: probability = sigmoid(a * logit + b), with b = 0 for a temperature 1/a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prescreen.nets.weights import Calibration
from prescreen.study import LABELS
from train import figures
from train.chestxray14 import LabelledPicture
from train.figures import Numbers, Truth
from train.pictures import DataError
from train.splits import folds

TEMPERATURE, PLATT = "temperature", "platt"
KINDS = (PLATT, TEMPERATURE)
#: With fewer radiographs of either kind nothing is fitted to a finding.
LEAST = 10
_FOLDS = 5
_STEPS = 1000
_EDGE = 1e-7
#: Weight of the pull towards leaving the logits alone: keeps a perfectly parted sample finite.
_PULL = 1e-3


def logits_of(probabilities: Numbers, calibrations: dict[str, Calibration]) -> Numbers:
    """What the network itself said, (n, 14): the probabilities with their calibration undone."""
    clipped = np.clip(probabilities, _EDGE, 1 - _EDGE)
    logits: Numbers = np.log(clipped / (1 - clipped))
    for k, label in enumerate(LABELS):
        if label in calibrations:
            logits[:, k] = (logits[:, k] - calibrations[label].b) / calibrations[label].a
    return logits


def applied(calibration: Calibration | None, logits: Numbers) -> Numbers:
    """Probabilities from one finding's logits, (n,); without a calibration as the network says."""
    a, b = (calibration.a, calibration.b) if calibration else (1.0, 0.0)
    return sigmoid(a * logits + b)


def sigmoid(values: Numbers) -> Numbers:
    """1 / (1 + exp(-x)) without overflow."""
    found: Numbers = 0.5 * (1.0 + np.tanh(0.5 * values))
    return found


def fitted(kind: str, truth: Truth, logits: Numbers) -> Calibration | None:
    """The calibration of one finding, both (n,): Newton's method on the likelihood.

    None where there are fewer than LEAST of either kind, where the network gave no numbers, or
    where a higher logit does not mean a likelier finding: such an order is not to be mended by
    turning it round. Raises DataError for a `kind` that is none of KINDS.
    """
    if kind not in KINDS:
        raise DataError(f"calibration {kind!r} is none of {', '.join(KINDS)}")
    enough = min(int(truth.sum()), int((~truth).sum())) >= LEAST
    if not enough or not np.isfinite(logits).all():
        return None
    columns = [logits] if kind == TEMPERATURE else [logits, np.ones_like(logits)]
    a, *b = _newton(np.stack(columns, axis=1), truth.astype(np.float64))
    if a <= 0.0:
        return None
    return Calibration(kind, round(float(a), 6), round(float(b[0]) if b else 0.0, 6))


def _newton(inputs: Numbers, truth: Numbers) -> Numbers:
    """Coefficients of a logistic regression, (n, p) → (p,), pulled slightly towards (1, 0)."""
    start = np.zeros(inputs.shape[1])
    start[0] = 1.0
    at = start.copy()
    for _ in range(_STEPS):
        said = sigmoid(inputs @ at)
        gradient = inputs.T @ (said - truth) + _PULL * (at - start)
        curvature = (inputs * (said * (1 - said))[:, None]).T @ inputs
        step = np.linalg.solve(curvature + _PULL * np.eye(len(at)), gradient)
        at = at - step / max(1.0, float(np.abs(step).max()))  # never further than 1 at once
        if np.abs(step).max() < 1e-9:
            break
    return at


def all_fitted(kind: str, truth: Truth, logits: Numbers) -> dict[str, Calibration]:
    """Calibrations of the findings, (n, 14) each, that have one."""
    found = {label: fitted(kind, truth[:, k], logits[:, k]) for k, label in enumerate(LABELS)}
    return {label: calibration for label, calibration in found.items() if calibration}


def out_of_fold(
    kind: str, pictures: Sequence[LabelledPicture], truth: Truth, logits: Numbers
) -> Numbers:
    """Calibrated probabilities, (n, 14), each from a fit to other patients alone.

    What a calibration error may be taken from. With fewer patients than folds there is a fold for
    each; a finding that cannot be fitted stays as the network says.
    """
    number = min(_FOLDS, len({p.patient for p in pictures}))
    fold = np.array(folds(pictures, number, seed=1))
    said = np.empty_like(logits)
    for one in range(number):
        rest = fold != one
        calibrations = all_fitted(kind, truth[rest], logits[rest])
        for k, label in enumerate(LABELS):
            said[~rest, k] = applied(calibrations.get(label), logits[~rest, k])
    return said


def moved(threshold: float, calibration: Calibration | None) -> float:
    """Where a threshold on the network's own probabilities, 0…1, lies on the calibrated ones.

    It parts them as it did before: what was flagged stays flagged, by either head.
    """
    found = applied(calibration, logits_of(np.full((1, 1), threshold), {})[0])
    return round(float(found[0]), 9)


def improved(
    kind: str, pictures: Sequence[LabelledPicture], truth: Truth, probabilities: Numbers
) -> tuple[dict[str, Any], Numbers]:
    """Calibration error and Brier score of each finding and their means, before and after.

    With the probabilities after, (n, 14), each from a fit to other patients alone.
    """
    after = out_of_fold(kind, pictures, truth, logits_of(probabilities, {}))
    report: dict[str, Any] = {}
    for name, measure in (("ece", figures.calibration_error), ("brier", figures.brier)):
        for when, said in (("before", probabilities), ("after", after)):
            each = [measure(truth[:, k], said[:, k]) for k in range(truth.shape[1])]
            report[f"{name}_{when}"] = {
                **dict(zip(LABELS, each, strict=True)),
                "mean": float(np.mean(each)),
            }
    return report, after


def shifted(calibration: Calibration, was: float, becomes: float) -> Calibration:
    """The calibration for a site where the finding has another prevalence, both 0…1.

    Right where only the share of the sick differs and not how they look (prior shift): the odds
    are multiplied by the ratio of prior odds. Raises DataError for a prevalence that is none.
    """
    for share in (was, becomes):
        if not 0.0 < share < 1.0:
            raise DataError(f"prevalence {share} is not between 0 and 1")
    move = np.log(becomes / (1 - becomes)) - np.log(was / (1 - was))
    return Calibration(calibration.kind, calibration.a, round(calibration.b + float(move), 6))
