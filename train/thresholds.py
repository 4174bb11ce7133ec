"""Rules that choose a threshold from a ROC curve: on validation radiographs, never on test ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from prescreen.study import LABELS
from train import figures
from train.chestxray14 import TEST, TRAIN_VAL, LabelledPicture
from train.figures import Numbers, OperatingPoint
from train.pictures import DataError

Rule = Callable[[npt.ArrayLike, npt.ArrayLike], OperatingPoint | None]
RULES = "paper_auc, youden, sensitivity:X or specificity:X with X between 0 and 1"


def paper_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint | None:
    """The paper's rule: from the top, the first threshold whose sensitivity exceeds the AUROC."""
    area = figures.auroc(labels, scores)
    if area is None:
        return None
    sensitivity = figures.roc(labels, scores)[1]
    return figures.point_at(labels, scores, int(np.argmax(sensitivity > min(area, 1 - 1e-12))))


def fixed_sensitivity(least: float) -> Rule:
    """The highest threshold that still finds the share `least` of the positives."""

    def chosen(labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint | None:
        if figures.auroc(labels, scores) is None:
            return None
        sensitivity = figures.roc(labels, scores)[1]
        return figures.point_at(labels, scores, int(np.argmax(sensitivity >= least - 1e-12)))

    return chosen


def fixed_specificity(least: float) -> Rule:
    """The lowest threshold that still leaves the share `least` of the negatives alone.

    Where not even the highest score does, it lies above that score and flags nothing.
    """

    def chosen(labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint | None:
        if figures.auroc(labels, scores) is None:
            return None
        thresholds, _, specificity = figures.roc(labels, scores)
        kept = int((specificity >= least - 1e-12).sum())  # specificity only falls
        if not kept:
            return OperatingPoint(float(min((thresholds[0] + 1) / 2, 1 - 1e-6)), 0.0, 1.0)
        return figures.point_at(labels, scores, kept - 1)

    return chosen


def rule_of(text: str) -> Rule:
    """The rule a text names. Raises DataError, with those there are, for one that is none."""
    plain: dict[str, Rule] = {"paper_auc": paper_auc, "youden": figures.youden}
    fixed = {"sensitivity": fixed_sensitivity, "specificity": fixed_specificity}
    if text in plain:
        return plain[text]
    name, _, number = text.partition(":")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if name not in fixed or not 0.0 < share < 1.0:
        raise DataError(f"threshold rule {text!r} is none of {RULES}")
    return fixed[name](share)


def chosen(
    rule: str, pictures: Sequence[LabelledPicture], scores: Numbers
) -> dict[str, OperatingPoint | None]:
    """The operating point of each label on radiographs whose probabilities (n, 14) are fixed.

    None where a label has not both kinds. Raises DataError for radiographs of the official test
    list, whatever the rule: what is chosen on them could not be judged on them.
    """
    refuse_test(pictures)
    judge = rule_of(rule)
    truth = np.array([p.labels for p in pictures], dtype=bool).reshape(-1, len(LABELS))
    return {label: judge(truth[:, k], scores[:, k]) for k, label in enumerate(LABELS)}


def refuse_test(pictures: Sequence[LabelledPicture]) -> None:
    """Raises DataError where any of these radiographs is of the official test list."""
    test = sum(p.official_split == TEST for p in pictures)
    if test:
        raise DataError(
            f"{test} of these radiographs are of the official test list: thresholds and "
            "calibration are never chosen on it"
        )


def refuse_learnt(pictures: Sequence[LabelledPicture]) -> None:
    """Raises DataError where any is of the official train_val list, which weights learn from.

    Figures that such radiographs give would bring findings over the release bar that are not as
    good on anybody else's.
    """
    learnt = sum(p.official_split == TRAIN_VAL for p in pictures)
    if learnt:
        raise DataError(
            f"{learnt} of these radiographs are of the official train_val list, which the weights "
            "may have been trained on: take others, or say --unseen where these weights have seen "
            "none of them"
        )
