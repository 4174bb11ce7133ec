"""Splits that no patient crosses, made of patients' numbers and a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from train.chestxray14 import TEST, LabelledPicture
from train.pictures import DataError


def share_of(key: str, seed: int) -> float:
    """A number 0…1 that depends on `key` and `seed` alone: splits that no later file can move."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_by_patient(
    pictures: list[LabelledPicture], held_out: float, seed: int
) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Train and validation parts by patient, without regard to labels; no patient is in both.

    A patient stays on its side whatever else is in the list. Pictures of the official test list
    are in neither.
    """
    usable = [p for p in pictures if p.official_split != TEST]
    train = [p for p in usable if share_of(p.patient, seed) >= held_out]
    validation = [p for p in usable if share_of(p.patient, seed) < held_out]
    shared = {p.patient for p in train} & {p.patient for p in validation}
    if shared:  # cannot happen while the split depends on the patient alone
        raise DataError(f"{len(shared)} patients are in both parts of the split")
    return train, validation


def stratified_split(
    pictures: Sequence[LabelledPicture], share: float, seed: int
) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Train and validation parts by patient, with every label spread evenly: one of 1/share folds.

    For early stopping, a tenth. Raises DataError as `folds` does.
    """
    dealt = folds(pictures, round(1 / share), seed)
    parts = list(zip(pictures, dealt, strict=True))
    return [p for p, fold in parts if fold], [p for p, fold in parts if not fold]


def folds(pictures: Sequence[LabelledPicture], k: int, seed: int) -> list[int]:
    """The fold 0…k-1 of each radiograph: one for all of a patient, labels spread as evenly as can.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) over patients instead of
    pictures: the label with the fewest positives left is dealt out first, each patient to the fold
    that lacks it most. The answer does not depend on the order of `pictures`. Raises DataError for
    radiographs of the official test list and where there are fewer patients than folds.
    """
    _refuse_test(pictures)
    counts = _positives(pictures)
    if len(counts) < k or k < 2:
        raise DataError(f"{len(counts)} patients cannot be dealt out to {k} folds")
    dealt = _dealt(counts, k, seed)
    return [dealt[p.patient] for p in pictures]


def _refuse_test(pictures: Sequence[LabelledPicture]) -> None:
    test = sum(p.official_split == TEST for p in pictures)
    if test:
        raise DataError(
            f"{test} of these radiographs are of the official test list, which is never split, "
            "trained on or chosen on: take the train_val list alone"
        )


Counts = npt.NDArray[np.float64]


def _positives(pictures: Sequence[LabelledPicture]) -> dict[str, Counts]:
    """For each patient the positives of every label and, last, the number of radiographs."""
    counts: dict[str, Counts] = {}
    for picture in pictures:
        row = np.array((*picture.labels, 1), dtype=np.float64)
        counts[picture.patient] = counts.get(picture.patient, 0.0) + row
    return counts


def _dealt(counts: dict[str, Counts], k: int, seed: int) -> dict[str, int]:
    lacking = np.tile(
        sum(counts.values()) / k, (k, 1)
    )  # (k, labels + 1): what each fold should get
    waiting = dict(sorted(counts.items(), key=lambda item: share_of(item[0], seed)))
    dealt: dict[str, int] = {}
    while waiting:
        column = _rarest(np.sum(list(waiting.values()), axis=0))
        chosen = [patient for patient, row in waiting.items() if row[column]]
        chosen.sort(key=lambda patient: -waiting[patient][column])  # stable: equals stay shuffled
        for patient in chosen:
            row = waiting.pop(patient)
            fold = max(range(k), key=lambda f: (lacking[f, column], lacking[f, -1]))
            lacking[fold] -= row
            dealt[patient] = fold
    return dealt


def _rarest(left: Counts) -> int:
    """The label with the fewest positives left, or the last column, which every radiograph has."""
    labels = np.where(left[:-1] > 0, left[:-1], np.inf)
    return int(labels.argmin()) if np.isfinite(labels).any() else len(left) - 1
