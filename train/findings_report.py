"""How good probabilities of the 14 findings are: AUROC by patient, calibration, paper's Table 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prescreen.study import LABELS
from train import figures, paper
from train.chestxray14 import (
    OFFICIAL_COUNTS,
    TEST,
    TRAIN_VAL,
    LabelledPicture,
    listed_stems,
    read_labels,
    stems_of_split,
    whose,
)
from train.figures import Counts, Numbers, Ranked, Truth
from train.pictures import DataError, files_by_stem, stem_of
from train.screening import Probabilities, Screen, completed, located, probabilities_of

#: Official test radiographs without which a figure is none of the whole list.
_WHOLE = OFFICIAL_COUNTS[TEST]


# ---------------------------------------------------------------- probabilities first, labels then


@dataclass(frozen=True)
class Judged:
    """Radiographs with their probabilities, row by row, and what was left out on the way."""

    pictures: tuple[LabelledPicture, ...]
    said: Probabilities
    rows_without_picture: int = 0
    pictures_without_row: int = 0
    unreadable: int = 0

    @property
    def truth(self) -> Truth:
        return np.array([p.labels for p in self.pictures], dtype=bool).reshape(-1, len(LABELS))

    @property
    def patients(self) -> list[str]:
        return [p.patient for p in self.pictures]


def judge(images: Path, labels: Path, screener: Screen, split: str | None = None) -> Judged:
    """Screen the pictures that a list of labels names, then read the labels and match them.

    Pictures and rows match by file stem; `split` leaves those of one official list alone. Raises
    DataError where none do.
    """
    files = files_by_stem(images)
    named = listed_stems(labels)
    known = located(named, files)
    if split is not None:
        wanted = stems_of_split(labels, split)
        named = [stem for stem in named if stem in wanted]
    found = {stem: known[stem] for stem in named if stem in known}
    stems = list(found)
    if not stems:
        raise DataError(f"none of the {len(named)} names in {labels} is that of a file in {images}")
    said = probabilities_of(found, screener)
    rows = _rows(labels)
    return Judged(
        tuple(completed(replace(rows[stem], path=found[stem])) for stem in said.stems),
        said,
        rows_without_picture=len(named) - len(stems),
        pictures_without_row=len(files) - len(known),
        unreadable=len(stems) - len(said.stems),
    )


def with_labels(said: Probabilities, labels: Path) -> Judged:
    """Probabilities that are fixed, with the labels of their radiographs."""
    rows = _rows(labels)
    kept = [i for i, stem in enumerate(said.stems) if stem in rows]
    if not kept:
        raise DataError(f"{labels} names none of the radiographs that there are probabilities of")
    found = Probabilities(
        tuple(said.stems[i] for i in kept), said.masked[kept], said.unmasked[kept]
    )
    pictures = tuple(whose(rows[stem]) for stem in found.stems)
    return Judged(pictures, found, len(rows) - len(kept), len(said.stems) - len(kept))


def _rows(labels: Path) -> dict[str, LabelledPicture]:
    return {stem_of(p.path.name): p for p in read_labels(labels)}


# ---------------------------------------------------------------- figures


def areas(pictures: Sequence[LabelledPicture], scores: Numbers, seed: int = 1) -> dict[str, Any]:
    """AUROC per label and their mean, 95 % intervals by patient; calibration error, Brier score.

    `scores` (n, 14) are fixed before this function sees a label. A label without both kinds has
    None and is in no mean.
    """
    truth = np.array([p.labels for p in pictures], dtype=bool).reshape(-1, len(LABELS))
    ranked = [Ranked.of(truth[:, k], scores[:, k]) for k in range(len(LABELS))]
    samples = [_areas(ranked, c) for c in figures.resampled([p.patient for p in pictures], seed)]
    found = _areas(ranked, None)
    errors = _each(figures.calibration_error, truth, scores)
    squares = _each(figures.brier, truth, scores)
    return {
        "n": len(pictures),
        "patients": len({p.patient for p in pictures}),
        "positives": _by_label([int(v) for v in truth.sum(axis=0)]),
        "mean_auroc": _mean(found),
        "mean_auroc_ci95": figures.interval([_mean(sample) for sample in samples]),
        "auroc": _by_label(found),
        "ci95": _by_label([figures.interval(one) for one in zip(*samples, strict=True)]),
        "ece": _mean(errors),
        "ece_by_label": _by_label(errors),
        "brier": _mean(squares),
        "brier_by_label": _by_label(squares),
    }


def _areas(ranked: Sequence[Ranked], counts: Counts | None) -> list[float | None]:
    return [one.area(counts) for one in ranked]


def _each(
    measure: Callable[[Truth, Numbers], float], truth: Truth, scores: Numbers
) -> list[float | None]:
    """One number a label; None where the weights cannot answer for it (nan)."""
    pairs = zip(truth.T, scores.T, strict=True)
    return [measure(was, said) if np.isfinite(said).all() else None for was, said in pairs]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _by_label(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(LABELS, values, strict=True))


def at_thresholds(judged: Judged, thresholds: dict[str, float]) -> dict[str, Any]:
    """Sensitivity and specificity of each label at the weights' own thresholds; None without one
    of the kinds. Labels without a threshold are not there."""
    truth = judged.truth
    found: dict[str, Any] = {}
    for k, label in enumerate(LABELS):
        if label not in thresholds:
            continue
        flagged: Truth = np.greater_equal(judged.said.masked[:, k], thresholds[label])
        hit, left = flagged[truth[:, k]], ~flagged[~truth[:, k]]
        found[label] = {
            "threshold": thresholds[label],
            "sensitivity": float(hit.mean()) if hit.size else None,
            "specificity": float(left.mean()) if left.size else None,
        }
    return found


def reported(judged: Judged, thresholds: dict[str, float] | None) -> dict[str, Any]:
    """All figures of `findings`, ready for JSON."""
    report = areas(judged.pictures, judged.said.masked)
    report["unmasked"] = areas(judged.pictures, judged.said.unmasked)
    if thresholds is not None:
        report["operating_points"] = at_thresholds(judged, thresholds)
    report["rows_without_picture"] = judged.rows_without_picture
    report["pictures_without_row"] = judged.pictures_without_row
    report["unreadable"] = judged.unreadable
    report["split"], comparable = split_of(judged.pictures)
    report["table_2"] = table_2(report, comparable)
    return report


# ---------------------------------------------------------------- comparison with the paper


def split_of(pictures: Sequence[LabelledPicture]) -> tuple[str, bool]:
    """Of which split these radiographs are, in words, and whether the paper's figures compare."""
    counted = {s: sum(p.official_split == s for p in pictures) for s in (TEST, TRAIN_VAL)}
    if counted[TEST] == len(pictures) == _WHOLE:
        return "the whole official test list", True
    parts = [f"{counted[TEST]} of the {_WHOLE} radiographs of the official test list"]
    if counted[TRAIN_VAL]:
        parts.append(
            f"{counted[TRAIN_VAL]} of the official train_val list, which the weights may have "
            "been trained on"
        )
    unknown = len(pictures) - sum(counted.values())
    if unknown:
        parts.append(f"{unknown} of no known split")
    return ", ".join(part for part in parts if not part.startswith("0 ")), False


def table_2(report: dict[str, Any], comparable: bool) -> list[dict[str, Any]]:
    """The columns of the paper's Table 2 and ours, each with its split and whether it compares."""
    columns: list[dict[str, Any]] = [
        {
            "name": column.name,
            "split": "official test list",
            "may_be_compared": comparable and column.believed,
            "origin": column.origin,
            "auroc": {label: column.of(label) for label in LABELS},
            "mean_auroc": column.average,
        }
        for column in paper.COLUMNS
    ]
    ours = {
        "name": "these weights",
        "split": report["split"],
        "may_be_compared": comparable,
        "origin": "this evaluation",
        "auroc": report["auroc"],
        "mean_auroc": report["mean_auroc"],
    }
    return [*columns, ours]


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads: our AUROC beside the paper's Table 2, with the split of each column."""
    columns = report["table_2"]
    heads = [c["name"] + ("" if c["may_be_compared"] else "*") for c in columns[:-1]]
    widths = [max(7, len(head) + 1) for head in heads]
    lines = [
        f"{report['n']} radiographs of {report['patients']} patients: {report['split']}",
        f"left out: {report['rows_without_picture']} rows without a picture, "
        f"{report['pictures_without_row']} pictures without a row, "
        f"{report['unreadable']} unreadable",
        "",
        f"{'':20}{'positives':>10}{'AUROC':>8}{'95 % interval':>18}   "
        + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)),
    ]
    for label in (*LABELS, None):
        theirs = [c["auroc"][label] if label else c["mean_auroc"] for c in columns[:-1]]
        lines.append(
            _ours(report, label)
            + "".join(f"{area:>{width}.4f}" for area, width in zip(theirs, widths, strict=True))
        )
    lines += [
        "",
        f"expected calibration error {_number(report['ece'])}, "
        f"Brier score {_number(report['brier'])}; "
        f"mean AUROC of the unmasked head {_number(report['unmasked']['mean_auroc'])}",
    ]
    if any(head.endswith("*") for head in heads):
        lines.append("* must not be compared with ours:")
    for column, head in zip(columns, heads, strict=False):
        mark = "" if column["may_be_compared"] else "*"
        lines.append(f"  {head.rstrip('*')}{mark}: {column['split']}, {column['origin']}")
    return lines


def _ours(report: dict[str, Any], label: str | None) -> str:
    if label is None:
        area, bounds, count = report["mean_auroc"], report["mean_auroc_ci95"], ""
    else:
        area, bounds = report["auroc"][label], report["ci95"][label]
        count = str(report["positives"][label])
    said = f"{bounds[0]:.4f} – {bounds[1]:.4f}" if bounds else "–"
    return f"{label or 'mean':20}{count:>10}{_number(area):>8}{said:>18}   "


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
