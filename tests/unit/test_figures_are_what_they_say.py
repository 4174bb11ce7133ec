"""AUROC, intervals and thresholds on numbers one can check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prescreen.study import LABELS
from train import figures, findings_report, organs
from train.data import LabelledPicture


@pytest.mark.parametrize(
    ("labels", "scores", "area"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1.0),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.75),
        ([0, 1, 1], [0.3, 0.3, 0.9], 0.75),
    ],
)
def test_auroc_is_the_share_of_pairs_in_order(
    labels: list[int], scores: list[float], area: float
) -> None:
    assert figures.auroc(labels, scores) == pytest.approx(area)


def test_auroc_of_one_kind_alone_is_not_a_number() -> None:
    assert figures.auroc([1, 1], [0.1, 0.9]) is None
    assert figures.youden([0, 0], [0.1, 0.9]) is None


def test_youden_flags_at_or_above_its_threshold() -> None:
    point = figures.youden([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.9])
    assert point is not None
    assert point.threshold == pytest.approx(0.35)
    assert point.sensitivity == 1.0
    assert point.specificity == pytest.approx(2 / 3)


def test_the_bootstrap_draws_patients_with_all_their_pictures() -> None:
    for counts in figures.resampled(["a", "b", "a", "c"], seed=1, times=20):
        assert counts.shape == (4,)
        assert counts[0] == counts[2]
        assert 3 <= counts.sum() <= 6


def test_the_interval_holds_the_middle_and_needs_enough() -> None:
    assert figures.interval([float(i) for i in range(101)]) == (2.5, 97.5)
    assert figures.interval([0.5] * 5 + [None] * 90) is None


def test_a_row_that_counts_twice_is_as_good_as_two() -> None:
    labels, scores = [0, 1, 0, 1, 1], [0.1, 0.4, 0.4, 0.8, 0.2]
    counts = np.array([2, 1, 0, 3, 1])
    twice = [np.repeat(np.array(v), counts) for v in (labels, scores)]
    area = figures.Ranked.of(labels, scores).area(counts)
    assert area == pytest.approx(figures.auroc(*twice))


def test_the_calibration_error_is_the_distance_from_what_was_seen() -> None:
    assert figures.calibration_error([0, 0, 0, 1], [0.25] * 4) == 0
    assert figures.calibration_error([1, 1], [0.4, 0.4]) == pytest.approx(0.6)
    assert figures.brier([1, 0], [0.8, 0.4]) == pytest.approx(0.1)
    assert figures.bins([0, 1, 1], [0.02, 0.04, 0.999]) == [
        (pytest.approx(0.03), 0.5, 2),
        (0.999, 1.0, 1),
    ]


def test_figures_know_nothing_of_labels_before_the_probabilities_are_fixed() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((40, 14)) < 0.4
    scores = truth * 0.5 + generator.random((40, 14)) * 0.6
    kept = scores.copy()

    def listed(labels: np.ndarray) -> list[LabelledPicture]:
        rows = [tuple(int(v) for v in row) for row in labels]
        return [
            LabelledPicture(Path(f"{i}"), str(i // 2), row, "PA", "train_val")
            for i, row in enumerate(rows)
        ]

    report = findings_report.areas(listed(truth), scores)
    shuffled = findings_report.areas(listed(generator.permutation(truth)), scores)
    assert np.array_equal(scores, kept)
    assert report["mean_auroc"] > 0.8 > shuffled["mean_auroc"]
    assert set(report["auroc"]) == set(LABELS) and report["patients"] == 20
    low, high = report["mean_auroc_ci95"]
    assert low < report["mean_auroc"] < high


def test_only_the_whole_test_list_may_stand_beside_the_papers_figures() -> None:
    whole = [LabelledPicture(Path("1"), "1", (0,) * 14, "PA", "test")] * 25_596
    assert findings_report.split_of(whole) == ("the whole official test list", True)
    said, comparable = findings_report.split_of(whole[1:])
    assert "25595 of the 25596 radiographs" in said and not comparable


def test_lungs_are_scored_outside_the_heart() -> None:
    truth = np.zeros((3, 8, 8), dtype=bool)
    truth[2, :, 4:], truth[0, :, :4] = True, True
    drawn = truth.copy()
    drawn[0] = True  # drawn behind the heart as well: no fault
    assert organs.dice_of(drawn, truth) == [1.0, 1.0, 1.0]
