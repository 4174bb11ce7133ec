"""Does masking, does attention help? The paper's two questions, paired by patient (RQ1, RQ2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prescreen.study import LABELS
from train import boxes, figures
from train.boxes_report import Located
from train.chestxray14 import TRAIN_VAL, LabelledPicture
from train.figures import Counts, Numbers, Ranked
from train.findings_report import Judged, split_of
from train.pictures import DataError
from train.screening import Probabilities

MASKING = "masking"
ATTENTION = "attention"
UNSEEN = "each unseen by the run that answers for it"
_CLAIM = {
    MASKING: "weighing the features by lungs and heart raises the mean AUROC",
    ATTENTION: "multi-scale attention raises the mean AUROC",
}


def paired(judged: Judged, other: Probabilities) -> tuple[Judged, Probabilities]:
    """Both restricted to the radiographs they share, in one order.

    Raises DataError where they share none.
    """
    place = {stem: i for i, stem in enumerate(other.stems)}
    rows = [i for i, stem in enumerate(judged.said.stems) if stem in place]
    if not rows:
        raise DataError("the two sets of probabilities have no radiograph in common")
    theirs = [place[judged.said.stems[i]] for i in rows]
    stems = tuple(judged.said.stems[i] for i in rows)
    ours = Probabilities(stems, judged.said.masked[rows], judged.said.unmasked[rows])
    pictures = tuple(judged.pictures[i] for i in rows)
    return Judged(pictures, ours), Probabilities(
        stems, other.masked[theirs], other.unmasked[theirs]
    )


def compared(
    question: str,
    pictures: Sequence[LabelledPicture],
    with_it: Numbers,
    without: Numbers,
    *,
    unseen: bool = False,
) -> dict[str, Any]:
    """AUROC with and without, and their difference with 95 % intervals by patient, each (n, 14).

    The same patients are drawn for both, so that what is hard for both cancels. `unseen`: what was
    said of a radiograph was said by networks that had not seen it.
    """
    truth = np.array([p.labels for p in pictures], dtype=bool).reshape(-1, len(LABELS))
    both = [
        [Ranked.of(truth[:, k], scores[:, k]) for k in range(len(LABELS))]
        for scores in (with_it, without)
    ]
    samples = figures.resampled([p.patient for p in pictures], seed=1)
    drawn = np.array([_differences(both, counts) for counts in samples])
    found = [[one.area() for one in ranked] for ranked in both]
    change = _differences(both, None)
    bounds = [figures.interval(_known(drawn[:, k])) for k in range(len(LABELS) + 1)]
    keys = (*LABELS, "mean")
    report: dict[str, Any] = {
        "question": question,
        "claim": _CLAIM[question],
        "n": len(pictures),
        "patients": len({p.patient for p in pictures}),
        "split": UNSEEN if unseen else split_of(pictures)[0],
        "auroc_with": dict(zip(LABELS, found[0], strict=True)),
        "auroc_without": dict(zip(LABELS, found[1], strict=True)),
        "mean_auroc_with": _mean(found[0]),
        "mean_auroc_without": _mean(found[1]),
        "difference": dict(zip(keys, _or_none(change), strict=True)),
        "difference_ci95": dict(zip(keys, bounds, strict=True)),
    }
    learnt = 0 if unseen else sum(p.official_split == TRAIN_VAL for p in pictures)
    report["verdict"] = verdict(report) + (_of_learnt(learnt) if learnt else "")
    return report


def _of_learnt(count: int) -> str:
    return (
        f" The weights may have been trained on {count} of them: of radiographs that they have not "
        "seen this says nothing."
    )


def maps_compared(
    with_it: Sequence[Located], without: Sequence[Located]
) -> dict[str, dict[str, Any]]:
    """Where the maps with and without lie, over the same boxes: what the paper's Table 3 asks.

    For IoU under the oracle, IoU without it and the pointing game: both means, their difference
    and its 95 % interval by patient.
    """
    theirs = {one.drawn: one for one in without}
    pairs = [(one, theirs[one.drawn]) for one in with_it if one.drawn in theirs]
    if not pairs:
        raise DataError("the two sets of weights have no box in common")
    patients = [one.drawn.patient for one, _ in pairs]
    found = {}
    for name, measure in _MEASURES.items():
        values = np.array([[measure(a), measure(b)] for a, b in pairs])
        change = values[:, 0] - values[:, 1]
        found[name] = {
            "n": len(pairs),
            "with": float(values[:, 0].mean()),
            "without": float(values[:, 1].mean()),
            "difference": float(change.mean()),
            "ci95": figures.mean_interval(change, patients, seed=1),
        }
    return found


_MEASURES: dict[str, Callable[[Located], float]] = {
    "iou_oracle": lambda one: one.oracle,
    "iou": lambda one: one.overlap,
    "pointing": lambda one: float(boxes.holds(one.drawn.box, boxes.hottest(one.attention))),
}


def _differences(both: Sequence[Sequence[Ranked]], counts: Counts | None) -> list[float]:
    """With minus without for each label, nan without both kinds, and last their mean."""
    apart = []
    for with_it, without in zip(*both, strict=True):
        a, b = with_it.area(counts), without.area(counts)
        apart.append(a - b if a is not None and b is not None else float("nan"))
    known = [v for v in apart if v == v]
    return [*apart, float(np.mean(known)) if known else float("nan")]


def _known(values: Numbers) -> list[float]:
    return [float(v) for v in values if v == v]


def _or_none(values: Sequence[float]) -> list[float | None]:
    return [v if v == v else None for v in values]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def verdict(report: dict[str, Any]) -> str:
    """In words whether the paper's claim holds on these radiographs."""
    change, bounds = report["difference"]["mean"], report["difference_ci95"]["mean"]
    if change is None or bounds is None:
        return f"The claim that {report['claim']} cannot be judged on so few radiographs."
    said = f"{change:+.4f}, 95 % interval {bounds[0]:+.4f} to {bounds[1]:+.4f}"
    if bounds[0] > 0:
        return f"The claim that {report['claim']} holds on these radiographs ({said})."
    if bounds[1] < 0:
        return (
            f"The claim that {report['claim']} does not hold on these radiographs: "
            f"it falls ({said})."
        )
    return (
        f"The claim that {report['claim']} is not borne out by these radiographs: no difference "
        f"is shown ({said})."
    )


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    lines = [
        f"{report['question']}: {report['n']} radiographs of {report['patients']} patients: "
        f"{report['split']}",
        "",
        f"{'':20}{'with':>8}{'without':>9}{'difference':>12}   95 % interval",
    ]
    for key in LABELS:
        pair = report["auroc_with"][key], report["auroc_without"][key]
        lines.append(_line(key, *pair, report))
    pair = report["mean_auroc_with"], report["mean_auroc_without"]
    lines.append(_line("mean", *pair, report))
    for name, told in report.get("boxes", {}).items():
        bounds = told["ci95"]
        said = f"{bounds[0]:+.4f} to {bounds[1]:+.4f}" if bounds else "–"
        lines.append(
            f"{name:20}{told['with']:>8.4f}{told['without']:>9.4f}"
            f"{told['difference']:>+12.4f}   {said}   ({told['n']} boxes)"
        )
    return [*lines, "", report["verdict"]]


def _line(key: str, a: float | None, b: float | None, report: dict[str, Any]) -> str:
    change, bounds = report["difference"][key], report["difference_ci95"][key]
    said = f"{bounds[0]:+.4f} to {bounds[1]:+.4f}" if bounds else "–"
    numbers = "".join(
        f"{'–':>{width}}" if v is None else f"{v:>{width}.4f}" for v, width in ((a, 8), (b, 9))
    )
    return f"{key:20}{numbers}{'–' if change is None else format(change, '+.4f'):>12}   {said}"
