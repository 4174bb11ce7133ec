"""The figures that are published: AUROC with its interval by patient, thresholds, calibration.

Plain numpy on probabilities that are fixed already. Labels never reach a network from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Interval = tuple[float, float]
BOOTSTRAP = 1000
BINS = 15
#: Radiographs without which a bin says too little to be drawn.
LEAST_DRAWN = 5

# ---------------------------------------------------------------- ROC


@dataclass(frozen=True)
class Ranked:
    """Scores in ascending order, with where runs of equal ones begin: an AUROC in one pass each."""

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    truth: Truth  # in that order

    @classmethod
    def of(cls, labels: npt.ArrayLike, scores: npt.ArrayLike) -> Ranked:
        values = np.asarray(scores, dtype=np.float64)
        if np.isnan(values).any():  # a label that the weights cannot answer for: nothing to rank
            values = values[:0]
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
        return cls(order, starts, np.asarray(labels, dtype=bool)[order])

    def area(self, counts: Counts | None = None) -> float | None:
        """Area under the ROC curve, ties counted half, each row counted `counts` times (n,).

        None without both kinds.
        """
        times = np.ones(len(self.order)) if counts is None else counts[self.order].astype(float)
        if not len(times):
            return None
        positives = np.add.reduceat(np.where(self.truth, times, 0.0), self.starts)
        negatives = np.add.reduceat(np.where(self.truth, 0.0, times), self.starts)
        pairs = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives / 2
        return float(positives @ below / pairs) if pairs else None


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None without both kinds."""
    return Ranked.of(labels, scores).area()


def mean_auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Over the columns (n, c) that have both positives and negatives; 0 where there is none."""
    truth, said = np.asarray(labels), np.asarray(scores)
    areas = [auroc(truth[:, k], said[:, k]) for k in range(truth.shape[1])]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else 0.0


def roc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    """Thresholds falling from the highest score, with sensitivity and specificity at each.

    Flagged is at or above the threshold; every distinct score is one.
    """
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.diff(values[order], append=-np.inf))
    hits, false = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    sensitivity = hits / max(1, int(truth.sum()))
    return values[order][last], sensitivity, 1.0 - false / max(1, int((~truth).sum()))


# ---------------------------------------------------------------- bootstrap


def resampled(patients: Sequence[str], seed: int, times: int = BOOTSTRAP) -> Iterator[Counts]:
    """How often each row counts, (n,), in each of `times` samples of patients with replacement.

    All rows of a patient come along.
    """
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    number = int(owner.max()) + 1 if len(owner) else 0
    generator = np.random.default_rng(seed)
    for _ in range(times if number else 0):
        yield np.bincount(generator.integers(number, size=number), minlength=number)[owner]


def interval(values: Sequence[float | None]) -> Interval | None:
    """The middle 95 % of the bootstrap's values; None where there are too few to say."""
    known = [v for v in values if v is not None]
    if len(known) < 20:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float] | Numbers, patients: Sequence[str], seed: int
) -> Interval | None:
    """The 95 % interval of a mean, by patient."""
    array = np.asarray(values, dtype=np.float64)
    samples = resampled(patients, seed)
    return interval([float(array @ counts / counts.sum()) for counts in samples])


def share_interval(share: float, count: int) -> Interval:
    """Wilson's 95 % interval of a share seen on `count` radiographs; 0…1 where there are none."""
    if not count:
        return 0.0, 1.0
    z = 1.959964
    width = 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / width
    half = z / width * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return max(0.0, middle - half), min(1.0, middle + half)


# ---------------------------------------------------------------- calibration


def bins(labels: npt.ArrayLike, scores: npt.ArrayLike) -> list[tuple[float, float, int]]:
    """(mean probability, share of positives, number) in each of 15 equal bins that has any."""
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    place = np.minimum((values * BINS).astype(int), BINS - 1)
    return [
        (float(values[place == b].mean()), float(truth[place == b].mean()), int((place == b).sum()))
        for b in np.unique(place)
    ]


def reliability(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Numbers, Numbers]:
    """Mean probability and share of positives of the bins that hold enough to be drawn."""
    found = [(said, was) for said, was, count in bins(labels, scores) if count >= LEAST_DRAWN]
    columns = np.array(found).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


#: What `reliability` gives, as axes of a figure.
RELIABILITY = ("probability", "share with the finding")


def calibration_error(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Expected calibration error of one label: mean distance of probability and frequency, 0…1."""
    found = bins(labels, scores)
    total = sum(count for _, _, count in found)
    return sum(abs(said - was) * count for said, was, count in found) / total if total else 0.0


def brier(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean squared error of the probabilities, 0…1."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    return float(np.mean((values - truth) ** 2))


# ---------------------------------------------------------------- operating points


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with what it achieves: flagged is at or above it."""

    threshold: float
    sensitivity: float
    specificity: float


def point_at(labels: npt.ArrayLike, scores: npt.ArrayLike, chosen: int) -> OperatingPoint:
    """The `chosen`-th point of `roc`, its threshold half-way to the next lower score."""
    thresholds, sensitivity, specificity = roc(labels, scores)
    lower = thresholds[min(chosen + 1, len(thresholds) - 1)]
    between = float(np.clip((thresholds[chosen] + lower) / 2, 1e-6, 1 - 1e-6))
    return OperatingPoint(between, float(sensitivity[chosen]), float(specificity[chosen]))


def youden(labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint | None:
    """The threshold of greatest sensitivity + specificity, half-way to the next lower score."""
    truth = np.asarray(labels, dtype=bool)
    thresholds, sensitivity, specificity = roc(truth, scores)
    if truth.all() or not truth.any() or len(thresholds) < 2:
        return None
    best = (sensitivity + specificity)[:-1]
    chosen = len(best) - 1 - int(best[::-1].argmax())  # of equals the most sensitive
    return point_at(truth, scores, chosen)
