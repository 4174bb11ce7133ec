"""The figures that are published: AUROC with its interval by patient, thresholds, sensitivity.

Plain numpy on probabilities that are fixed already. Labels never reach a network from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
BOOTSTRAP = 1000


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None without both kinds."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    above = float(rank[truth].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def resampled(
    patients: Sequence[str], seed: int, times: int = BOOTSTRAP
) -> list[npt.NDArray[np.intp]]:
    """Row indices of `times` samples of patients drawn with replacement, all rows of each."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(rows), size=(times, len(rows)))
    return [np.concatenate([rows[i] for i in draw]) for draw in draws]


def interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """The middle 95 % of the bootstrap's values; None where there are too few to say."""
    known = [v for v in values if v is not None]
    if len(known) < 20:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with what it achieves: flagged is at or above it."""

    threshold: float
    sensitivity: float
    specificity: float


def youden(labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint | None:
    """The threshold of greatest sensitivity + specificity, half-way to the next lower value."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.all() or not truth.any():
        return None
    candidates = np.unique(values)[1:]
    if not candidates.size:
        return None
    hits = np.array(
        [[(values[truth] >= c).mean(), (values[~truth] < c).mean()] for c in candidates]
    )
    best = int(hits.sum(axis=1).argmax())
    lower = values[values < candidates[best]].max()
    threshold = float(np.clip((candidates[best] + lower) / 2, 1e-6, 1 - 1e-6))
    return OperatingPoint(threshold, float(hits[best, 0]), float(hits[best, 1]))
