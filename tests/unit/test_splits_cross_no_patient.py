"""Folds by patient: complete, even, the same ever again, and never of the official test list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prescreen.study import LABELS
from train import data
from train.data import DataError, LabelledPicture


def pictures(count: int, seed: int = 3) -> list[LabelledPicture]:
    """Radiographs of about half as many patients, some of them with twenty; rare and common."""
    g = np.random.default_rng(seed)
    share = np.linspace(0.02, 0.3, len(LABELS))
    listed = []
    for i in range(count):
        patient = int(g.integers(count // 2)) if g.random() < 0.8 else int(g.integers(5))
        labels = tuple(int(v) for v in g.random(len(LABELS)) < share)
        listed.append(LabelledPicture(Path(f"{i}.jpg"), str(patient), labels, "PA", "train_val"))
    return listed


@pytest.mark.parametrize("k", [2, 5])
def test_every_radiograph_has_one_fold_and_every_patient_too(k: int) -> None:
    listed = pictures(600)
    fold = data.folds(listed, k, seed=1)
    assert len(fold) == 600 and set(fold) == set(range(k))
    homes: dict[str, set[int]] = {}
    for picture, where in zip(listed, fold, strict=True):
        homes.setdefault(picture.patient, set()).add(where)
    assert all(len(home) == 1 for home in homes.values())


def test_rare_labels_are_spread_over_all_folds() -> None:
    listed = pictures(1000)
    truth, fold = np.array([p.labels for p in listed]), np.array(data.folds(listed, 5, seed=1))
    dealt = np.array([truth[fold == f].sum(axis=0) for f in range(5)])
    assert np.all(np.ptp(dealt, axis=0) <= 0.25 * dealt.sum(axis=0) / 5 + 4)
    assert np.ptp(np.bincount(fold)) < 40


def test_folds_depend_on_patients_and_seed_not_on_the_order() -> None:
    listed = pictures(300)
    fold = dict(zip(listed, data.folds(listed, 5, seed=1), strict=True))
    backwards = listed[::-1]
    again = dict(zip(backwards, data.folds(backwards, 5, seed=1), strict=True))
    assert fold == again
    assert list(fold.values()) != data.folds(listed, 5, seed=2)


def test_the_official_test_list_is_never_dealt_out() -> None:
    one = LabelledPicture(Path("1.jpg"), "1", (0,) * 14, "PA", "test")
    with pytest.raises(DataError, match="1 of these radiographs are of the official test list"):
        data.folds([*pictures(20), one], 5, seed=1)


def test_a_tenth_for_early_stopping_has_its_tenth_of_every_label() -> None:
    listed = pictures(1000)
    train, held = data.stratified_split(listed, 0.1, seed=1)
    assert not {p.patient for p in train} & {p.patient for p in held}
    assert len(train) + len(held) == 1000 and 90 <= len(held) <= 110
    both = [np.array([p.labels for p in part]).sum(axis=0) for part in (listed, held)]
    assert np.all(np.abs(both[1] - both[0] / 10) <= 6)  # some patients have forty


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(DataError, match="patients cannot be dealt out to 50 folds"):
        data.folds(pictures(20), 50, seed=1)


@pytest.mark.data
def test_the_radiographs_at_hand_fall_into_even_folds(data_dir: Path) -> None:
    listed = [
        p for p in data.read_chestxray14(data_dir / "chestxray14") if p.official_split != "test"
    ]
    truth, fold = np.array([p.labels for p in listed]), np.array(data.folds(listed, 5, seed=1))
    dealt = np.array([truth[fold == f].sum(axis=0) for f in range(5)])
    assert np.ptp(dealt, axis=0).max() <= 4
    assert np.ptp(np.bincount(fold)) <= 4
