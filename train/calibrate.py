"""Fit thresholds and calibration to a site's own labelled radiographs; write a new manifest.

    python -m train.calibrate --images DIR --labels CSV --weights weights --to site-weights \\
        --rule sensitivity:0.9 --calibration platt --prevalence prevalence.csv --json site.json

DIR holds DICOM files, read as the node reads them, or pictures; CSV has `image` (file name or SOP
Instance UID) and `labels` (`|`-separated, `No Finding` where there is none), and may have `patient`
and `view`. The weights stay as they are: the new manifest is bound to the same digest. A finding
with fewer than 10 radiographs with and 10 without it keeps threshold, calibration and figures.
`--prevalence` is a CSV of `label,prevalence`, 0…1, for a site whose labelled radiographs are not as
its daily ones are. Radiographs of the official lists are refused, where the CSV says by
`official_split` that they are, or the lists lie beside it: those of the test list always, those of
the train_val list, which weights may have learnt from, unless `--unseen` says that these did not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prescreen.errors import PrescreenError, WeightsError
from prescreen.nets import weights
from prescreen.nets.screener import Screener
from prescreen.nets.weights import Calibration, Manifest, Storage, write_manifest
from prescreen.study import LABELS
from train import calibration, drawings, figures, findings_report, metrics, thresholds
from train.calibration import KINDS, LEAST
from train.chestxray14 import label_of
from train.figures import Numbers, OperatingPoint
from train.findings_report import Judged
from train.pictures import DataError, made_ready, read_rows

NONE = "none"


@dataclass(frozen=True)
class Fitted:
    """What a site's radiographs gave: for each finding that has enough of them."""

    calibrations: dict[str, Calibration]
    points: dict[str, OperatingPoint]
    masked: Numbers  # (n, 14), calibrated and shifted
    unmasked: Numbers


# ---------------------------------------------------------------- fit


def fit(
    judged: Judged, manifest: Manifest, kind: str, rule: str, prevalence: Mapping[str, float]
) -> Fitted:
    """Calibration first, then thresholds on the calibrated probabilities.

    Raises DataError for radiographs of the official test list and where no finding has enough.
    """
    thresholds.refuse_test(judged.pictures)
    refuse_unfitted(kind, prevalence)
    before = dict(manifest.calibration)
    ours = calibration.logits_of(judged.said.masked, before)
    theirs = calibration.logits_of(judged.said.unmasked, before)
    enough = _with_enough(judged, manifest)
    found = {k: v for k, v in _fitted(kind, judged, ours).items() if k in enough}
    for label, share in prevalence.items():
        found[label] = _shifted(found.get(label), judged, label, share)
    calibrations = before | found
    masked, unmasked = _applied(calibrations, ours), _applied(calibrations, theirs)
    chosen = thresholds.chosen(rule, judged.pictures, masked)
    points = {label: point for label in enough if (point := chosen[label]) is not None}
    return Fitted(calibrations, points, masked, unmasked)


def refuse_unfitted(kind: str, prevalence: Mapping[str, float]) -> None:
    """Raises DataError for prevalences without a calibration: it is what they shift."""
    if kind == NONE and prevalence:
        raise DataError(
            "--calibration none: a prevalence shifts what was calibrated to the labelled "
            f"radiographs; choose {' or '.join(KINDS)}, or leave --prevalence out"
        )


def _with_enough(judged: Judged, manifest: Manifest) -> list[str]:
    enough = []
    for label in manifest.evaluated:
        positives = int(judged.truth[:, LABELS.index(label)].sum())
        if min(positives, len(judged.pictures) - positives) >= LEAST:
            enough.append(label)
    if not enough:
        raise DataError(
            f"no finding has {LEAST} radiographs with and {LEAST} without it among these "
            f"{len(judged.pictures)}: nothing can be fitted to them"
        )
    return enough


def _fitted(kind: str, judged: Judged, logits: Numbers) -> dict[str, Calibration]:
    return {} if kind == NONE else calibration.all_fitted(kind, judged.truth, logits)


def _shifted(found: Calibration | None, judged: Judged, label: str, share: float) -> Calibration:
    """Raises DataError where the finding was not calibrated to these radiographs' own share."""
    was = float(judged.truth[:, LABELS.index(label)].mean())
    if found is None:
        raise DataError(
            f"{label} got no calibration that a prevalence could shift: there are too few "
            "radiographs with or without it, or the weights do not tell these apart; leave it out "
            "of the prevalences"
        )
    return calibration.shifted(found, was, share)


def _applied(calibrations: Mapping[str, Calibration], logits: Numbers) -> Numbers:
    columns = [
        calibration.applied(calibrations.get(label), logits[:, k]) for k, label in enumerate(LABELS)
    ]
    return np.stack(columns, axis=1)


def read_prevalence(path: Path) -> dict[str, float]:
    """`label,prevalence` with shares 0…1. Raises DataError for what is no finding or no share."""
    found: dict[str, float] = {}
    for row in read_rows(path, ("label", "prevalence")):
        label = label_of(row["label"])
        if label not in LABELS:
            raise DataError(f"{path}: unknown finding {row['label']!r}")
        try:
            share = float(row["prevalence"])
        except ValueError:
            share = 0.0
        if not 0.0 < share < 1.0:
            raise DataError(f"{path}: the prevalence of {label} is not between 0 and 1")
        found[label] = share
    return found


# ---------------------------------------------------------------- manifest


def manifest_of(
    old: Manifest, fitted: Fitted, judged: Judged, rule: str, record: Mapping[str, Any]
) -> Manifest:
    """The manifest with the site's thresholds, calibration and figures; nothing else changes.

    Findings without enough radiographs keep what was stated of them. The version says that it is
    another one, by a digest of what was fitted.
    """
    points = fitted.points
    stated = metrics.metrics_of(judged.pictures, fitted.masked, fitted.unmasked, points)
    new = {label: round(point.threshold, 6) for label, point in points.items()}
    said = (
        f"{len(judged.pictures)} radiographs of {len(set(judged.patients))} patients of the site, "
        "on which thresholds and calibration were chosen as well"
    )
    kept = [label for label in old.thresholds if label not in points]
    if kept:
        said += f"; for {', '.join(kept)}: {old.figures_from}"
    fitted_here = json.dumps([new, {k: (v.a, v.b) for k, v in fitted.calibrations.items()}])
    edition = hashlib.sha256(fitted_here.encode()).hexdigest()[:8]
    return replace(
        old,
        version=f"{old.version.partition('+')[0]}+site.{edition}",
        thresholds={**old.thresholds, **new},
        threshold_rule=rule if not kept else f"{rule}; {len(kept)} findings {old.threshold_rule}",
        calibration=fitted.calibrations,
        metrics={**old.metrics, **{label: stated[label] for label in points}},
        figures_from=said,
        config={**old.config, "site": dict(record)},
    )


def write(source: Path, to: Path, manifest: Manifest) -> Manifest:
    """The folder of weights with the new manifest, the same tensors, and the other network as is.

    Raises WeightsError where the tensors would not come out as they went in, DataError where `to`
    is the folder of the weights themselves.
    """
    if to.resolve() == source.resolve():
        raise DataError(f"--to {to} is where the weights lie: name another folder, they are kept")
    to.mkdir(parents=True, exist_ok=True)
    loaded = weights.load(source)["findings"]
    for name in ("lungs_heart.safetensors", "lungs_heart.md", "findings.md", "lungs_heart.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, to / name)
    exact = any(tensor.dtype == np.float32 for tensor in loaded.tensors.values())
    storage: Storage = "float32" if exact else "float16"
    written = write_manifest(to, manifest, loaded.tensors, storage)
    if written.sha256 != loaded.manifest.sha256:
        (to / "findings.json").unlink()
        raise WeightsError(f"{to}: the tensors changed while they were written; nothing is kept")
    return written


# ---------------------------------------------------------------- report


def report_of(judged: Judged, manifest: Manifest, fitted: Fitted, kind: str) -> dict[str, Any]:
    """What the fit achieved. The calibration error after it is of patients it was not fitted to,
    before any shift to another prevalence."""
    logits = calibration.logits_of(judged.said.masked, dict(manifest.calibration))
    after = judged.said.masked
    if kind != NONE:
        after = calibration.out_of_fold(kind, judged.pictures, judged.truth, logits)
    found = {}
    for label, point in fitted.points.items():
        k = LABELS.index(label)
        truth = judged.truth[:, k]
        had = fitted.calibrations.get(label)
        found[label] = {
            "positives": int(truth.sum()),
            "auroc": figures.auroc(truth, fitted.masked[:, k]),
            "threshold": point.threshold,
            "sensitivity": point.sensitivity,
            "sensitivity_ci95": figures.share_interval(point.sensitivity, int(truth.sum())),
            "specificity": point.specificity,
            "specificity_ci95": figures.share_interval(point.specificity, int((~truth).sum())),
            "calibration": {"kind": had.kind, "a": had.a, "b": had.b} if had else None,
            "ece_before": figures.calibration_error(truth, judged.said.masked[:, k]),
            "ece_after": figures.calibration_error(truth, after[:, k]),
        }
    return {
        "n": len(judged.pictures),
        "patients": len(set(judged.patients)),
        "rows_without_picture": judged.rows_without_picture,
        "pictures_without_row": judged.pictures_without_row,
        "unreadable": judged.unreadable,
        "fitted": found,
        "kept": [label for label in manifest.thresholds if label not in found],
    }


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    lines = [
        f"{report['n']} radiographs of {report['patients']} patients; left out: "
        f"{report['rows_without_picture']} rows without a picture, "
        f"{report['pictures_without_row']} pictures without a row, "
        f"{report['unreadable']} unreadable",
        "",
        f"{'':20}{'positives':>10}{'AUROC':>8}{'threshold':>11}{'sensitivity':>13}"
        f"{'specificity':>13}{'calibration error':>21}",
    ]
    for label, told in report["fitted"].items():
        lines.append(
            f"{label:20}{told['positives']:>10}{told['auroc']:>8.4f}{told['threshold']:>11.4f}"
            f"{told['sensitivity']:>13.3f}{told['specificity']:>13.3f}"
            f"{told['ece_before']:>12.4f} → {told['ece_after']:.4f}"
        )
    if report["kept"]:
        lines += ["", f"too few radiographs, kept as they were: {', '.join(report['kept'])}"]
    return lines


def draw(path: Path, judged: Judged, fitted: Fitted) -> None:
    """Reliability of the fitted findings on the radiographs they were fitted to."""
    drawn = {}
    for label in fitted.points:
        k = LABELS.index(label)
        curve = figures.reliability(judged.truth[:, k], fitted.masked[:, k])
        drawn[drawings.plain(label)] = [(curve, drawings.FOUND)]
    title = "Reliability on the radiographs of the fit, bins of 5 and more"
    drawings.panels(path, title, figures.RELIABILITY, drawn)


# ---------------------------------------------------------------- command


def calibrate(chosen: argparse.Namespace) -> tuple[dict[str, Any], Manifest]:
    """Screen, fit, write; the report and the manifest as written."""
    thresholds.rule_of(chosen.rule)
    prevalence = read_prevalence(chosen.prevalence) if chosen.prevalence else {}
    refuse_unfitted(chosen.calibration, prevalence)
    old = weights.load(chosen.weights)["findings"].manifest
    screener = Screener(chosen.weights, engine_name=chosen.engine)
    judged = findings_report.judge(chosen.images, chosen.labels, screener)
    if not chosen.unseen:
        thresholds.refuse_learnt(judged.pictures)
    fitted = fit(judged, old, chosen.calibration, chosen.rule, prevalence)
    record = {
        "radiographs": len(judged.pictures),
        "patients": len(set(judged.patients)),
        "labels_sha256": hashlib.sha256(chosen.labels.read_bytes()).hexdigest(),
        "rule": chosen.rule,
        "calibration": chosen.calibration,
        "prevalence": prevalence,
        "said_to_be_unseen": chosen.unseen,
    }
    written = write(
        chosen.weights, chosen.to, manifest_of(old, fitted, judged, chosen.rule, record)
    )
    draw(chosen.json.with_name(f"{chosen.json.stem}_reliability.png"), judged, fitted)
    return report_of(judged, old, fitted, chosen.calibration), written


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it. What is missing or malformed is said in one line, exit status 1."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m train.calibrate", None, __doc__, formatter_class=raw
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of radiographs")
    parser.add_argument("--labels", type=Path, required=True, help="CSV of image and labels")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="default: weights")
    parser.add_argument("--to", type=Path, required=True, help="folder for the new manifest")
    parser.add_argument("--rule", default="youden", help=thresholds.RULES)
    parser.add_argument("--calibration", choices=(*KINDS, NONE), default=KINDS[0])
    parser.add_argument("--prevalence", type=Path, help="CSV of label,prevalence at the site")
    parser.add_argument("--engine", default="auto", help="torch, or the fastest installed (auto)")
    parser.add_argument(
        "--unseen", action="store_true", help="the weights were trained on none of the radiographs"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    chosen = parser.parse_args(arguments)
    try:
        made_ready(chosen.json)
        report, written = calibrate(chosen)
    except (DataError, PrescreenError) as error:
        sys.exit(f"error: {error}")
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines_of(report)))
    print(f"{chosen.to / 'findings.json'}: version {written.version}, weights {written.sha256}")


if __name__ == "__main__":
    main()
