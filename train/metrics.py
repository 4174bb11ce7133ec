"""What a manifest states of each finding, from probabilities that are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prescreen.nets.weights import Metric
from prescreen.study import LABELS, ViewFigures
from train.chestxray14 import LabelledPicture
from train.figures import Numbers, OperatingPoint
from train.findings_report import areas

VIEWS = ("PA", "AP")
_DIGITS = 6


def metrics_of(
    pictures: Sequence[LabelledPicture],
    masked: Numbers,
    unmasked: Numbers,
    points: Mapping[str, OperatingPoint | None],
) -> dict[str, Metric]:
    """Figures of each finding, (n, 14) probabilities each, pooled and by view."""
    pooled, other = areas(pictures, masked), areas(pictures, unmasked)
    views = {view: of_view(pictures, masked, view) for view in VIEWS}
    found = {}
    for label in LABELS:
        point = points.get(label)
        low, high = pooled["ci95"][label] or (None, None)
        found[label] = Metric(
            auroc=rounded(pooled["auroc"][label]),
            low=rounded(low),
            high=rounded(high),
            positives=pooled["positives"][label],
            sensitivity=rounded(point.sensitivity) if point else None,
            specificity=rounded(point.specificity) if point else None,
            auroc_unmasked=rounded(other["auroc"][label]),
            by_view={view: told[label] for view, told in views.items() if label in told},
        )
    return found


def of_view(
    pictures: Sequence[LabelledPicture], masked: Numbers, view: str
) -> dict[str, ViewFigures]:
    """The figures of one view alone; a finding without an interval there has none."""
    rows = [i for i, picture in enumerate(pictures) if picture.view == view]
    if not rows:
        return {}
    report = areas([pictures[i] for i in rows], masked[rows])
    return {
        label: ViewFigures(
            round(report["auroc"][label], _DIGITS),
            round(report["ci95"][label][0], _DIGITS),
            report["positives"][label],
        )
        for label in LABELS
        if report["auroc"][label] is not None and report["ci95"][label] is not None
    }


def rounded(value: float | None) -> float | None:
    """Six decimals, or None."""
    return None if value is None else round(value, _DIGITS)
