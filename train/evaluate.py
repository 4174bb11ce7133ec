"""Say how good weights are, through the very `Screener` that the node uses.

    python -m train.evaluate findings --images DIR --labels CSV --weights DIR --json FILE
    python -m train.evaluate boxes --images DIR --boxes BBox_List_2017.csv --weights DIR --json FILE
    python -m train.evaluate lungs-heart --data DIR --weights DIR --json FILE
    python -m train.evaluate ablation --images DIR --labels CSV --weights DIR --json FILE
    python -m train.evaluate ablation --labels CSV --folds RUN_0 … RUN_4 --json FILE
    python -m train.evaluate ablation --labels CSV --folds A_0 … --without-folds B_0 … --json FILE
    python -m train.evaluate ablation … --weights WITH --without WITHOUT --json FILE

What is printed is also written as JSON; figures are drawn beside it (FILE_roc.png and so on).
Probabilities are fixed before a label is read. Pictures match labels and boxes by file stem.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prescreen.errors import PrescreenError
from prescreen.nets.screener import Screener
from prescreen.nets.weights import read_manifest
from prescreen.study import LABELS
from train import (
    ablation,
    boxes,
    boxes_report,
    data,
    drawings,
    figures,
    findings_report,
    organs,
    screening,
)
from train.chestxray14 import TEST, TRAIN_VAL
from train.findings_report import Judged
from train.masks import MASKS

Arguments = argparse.Namespace
Report = dict[str, Any]


# ---------------------------------------------------------------- findings


def evaluate_findings(
    images: Path,
    labels: Path,
    weights: Path,
    probabilities: Path | None = None,
    engine: str = "auto",
    split: str | None = None,
) -> tuple[Report, Judged]:
    """Figures of weights on radiographs with labels; `probabilities` keeps what both heads say.

    `split` judges those of one official list alone.
    """
    judged = findings_report.judge(images, labels, Screener(weights, engine_name=engine), split)
    if probabilities is not None:
        screening.write_probabilities(probabilities, judged.said)
    thresholds = read_manifest(weights / "findings.json").thresholds
    return findings_report.reported(judged, dict(thresholds)), judged


def draw_roc(path: Path, judged: Judged, report: Report) -> None:
    """The paper's Fig. 3: the ROC curves of all findings, with their AUROC."""
    drawn = {}
    for k, label in enumerate(LABELS):
        area = report["auroc"][label]
        if area is not None:
            _, hit, left = figures.roc(judged.truth[:, k], judged.said.masked[:, k])
            drawn[f"{drawings.plain(label)} {area:.4f}"] = (
                np.append(0.0, 1 - left),
                np.append(0.0, hit),
            )
    title = f"ROC on {report['split']}"
    drawings.curves(path, title, ("1 - specificity", "sensitivity"), drawn)


def draw_reliability(path: Path, judged: Judged, report: Report) -> None:
    """Frequency against probability, in bins, of each finding: a square each."""
    drawn = {}
    for k, label in enumerate(LABELS):
        error = report["ece_by_label"][label]
        if error is not None:
            curve = figures.reliability(judged.truth[:, k], judged.said.masked[:, k])
            drawn[f"{drawings.plain(label)} {error:.3f}"] = [(curve, drawings.FOUND)]
    drawings.panels(
        path, "Reliability, bins of 5 and more, with calibration error", figures.RELIABILITY, drawn
    )


def _findings(chosen: Arguments) -> tuple[Report, list[str]]:
    report, judged = evaluate_findings(
        chosen.images,
        chosen.labels,
        chosen.weights,
        chosen.probabilities,
        chosen.engine,
        chosen.split,
    )
    draw_roc(beside(chosen.json, "roc"), judged, report)
    draw_reliability(beside(chosen.json, "reliability"), judged, report)
    return report, findings_report.lines_of(report)


# ---------------------------------------------------------------- boxes


def evaluate_boxes(
    images: Path, listed: Path, weights: Path, engine: str = "auto"
) -> tuple[Report, list[boxes_report.Located]]:
    """Figures of where the networks look, on radiographs with drawn boxes."""
    drawn = boxes.read_boxes(listed)
    screener = screening.Tracer(weights, engine_name=engine)
    located = boxes_report.locate(images, drawn, screener)
    report = boxes_report.reported(located, drawn)
    return {"weights_sha256": screener.model.findings.sha256, **report}, located


def _boxes(chosen: Arguments) -> tuple[Report, list[str]]:
    report, located = evaluate_boxes(chosen.images, chosen.boxes, chosen.weights, chosen.engine)
    boxes_report.draw(beside(chosen.json, "boxes"), located)
    return report, boxes_report.lines_of(report)


# ---------------------------------------------------------------- lungs and heart


def _held_out(folder: Path, weights: Path) -> list[str]:
    config = read_manifest(weights / "lungs_heart.json").config
    names = [one.name for one in data.list_lungs_heart(folder)]
    if config.get("fold") == -1:
        raise data.DataError(
            f"{weights}: trained on every radiograph with masks, none is held out; what the folds "
            "said of radiographs they had not seen stands in lungs_heart.json under `metrics`"
        )
    share = config["held_out"] if "held_out" in config else 1 / config["folds"]
    low = share * config.get("fold", 0)
    return [n for n in names if low <= data.share_of(n, config["seed"]) < low + share]


def _drawn_split(chosen: Arguments) -> str:
    """Which radiographs are judged, as far as the weights say what they were trained on."""
    if chosen.held_out:
        return "held out when these weights were trained"
    sources = read_manifest(chosen.weights / "lungs_heart.json").sources
    learnt = [f"{one.count} of {one.name}" for one in sources if one.use == MASKS]
    return (
        f"these weights were trained with the masks of {', '.join(learnt) or 'no known source'}; "
        "what such say of radiographs among those is no measure of new ones, which stands in "
        "lungs_heart.json under `metrics`"
    )


def _lungs_heart(chosen: Arguments) -> tuple[Report, list[str]]:
    kept = _held_out(chosen.data, chosen.weights) if chosen.held_out else None
    report, drawn = organs.evaluate(chosen.data, _screener(chosen, chosen.weights), kept)
    report["split"] = _drawn_split(chosen)
    organs.draw_worst(beside(chosen.json, "worst"), drawn)
    return report, organs.lines_of(report)


# ---------------------------------------------------------------- ablation


def _ablation(chosen: Arguments) -> tuple[Report, list[str]]:
    if chosen.without_folds:
        return _folds_compared(chosen)
    if chosen.folds:
        judged = _of_folds(chosen.folds, chosen.labels)
    elif chosen.without is None:
        judged = _judged(chosen, chosen.weights)
    else:
        return _two_compared(chosen)
    if chosen.question == ablation.ATTENTION:
        raise data.DataError(
            "--question attention: compares two sets of weights, with and without it; --without "
            "names the other. None is shipped: python -m train.findings --preset without-attention"
        )
    said = judged.said
    two = said.masked, said.unmasked
    unseen = bool(chosen.folds)
    report = ablation.compared(ablation.MASKING, judged.pictures, *two, unseen=unseen)
    return report, ablation.lines_of(report)


def _folds_compared(chosen: Arguments) -> tuple[Report, list[str]]:
    """The runs of all folds with it against those without it, on what each had not seen."""
    if not chosen.folds:
        raise data.DataError("--without-folds: --folds names the runs to compare them with")
    with_it, without = (_of_folds(r, chosen.labels) for r in (chosen.folds, chosen.without_folds))
    ours, theirs = ablation.paired(with_it, without.said)
    question = chosen.question or ablation.ATTENTION
    two = ours.said.masked, theirs.masked
    report = ablation.compared(question, ours.pictures, *two, unseen=True)
    return report, ablation.lines_of(report)


def _of_folds(runs: Sequence[Path], labels: Path) -> Judged:
    """What the runs of all folds said of radiographs that each had not seen."""
    from train import unseen

    pictures, masked, unmasked = unseen.answers(runs)
    stems = tuple(picture.path.stem for picture in pictures)
    return findings_report.with_labels(screening.Probabilities(stems, masked, unmasked), labels)


def _two_compared(chosen: Arguments) -> tuple[Report, list[str]]:
    with_it, maps = _looked(chosen, chosen.weights)
    without, other_maps = _looked(chosen, chosen.without)
    ours, theirs = ablation.paired(with_it, without.said)
    question = chosen.question or ablation.ATTENTION
    report = ablation.compared(question, ours.pictures, ours.said.masked, theirs.masked)
    if chosen.boxes is not None:
        report["boxes"] = ablation.maps_compared(maps, other_maps)
    return report, ablation.lines_of(report)


def _looked(chosen: Arguments, source: Path) -> tuple[Judged, list[boxes_report.Located]]:
    """What weights say and, with --boxes, where they look; each radiograph is screened once."""
    if chosen.boxes is None:
        return _judged(chosen, source), []
    if source.is_file() or chosen.images is None:
        raise data.DataError(f"{source}: --boxes needs folders of weights, and --images")
    once = screening.Once(screening.Tracer(source, engine_name=chosen.engine))
    located = boxes_report.locate(chosen.images, boxes.read_boxes(chosen.boxes), once.first)
    return findings_report.judge(chosen.images, chosen.labels, once.again), located


def _judged(chosen: Arguments, source: Path) -> Judged:
    """From a folder of weights, or from a file of probabilities."""
    if source.is_file():
        return findings_report.with_labels(screening.read_probabilities(source), chosen.labels)
    if chosen.images is None:
        raise data.DataError(f"{source} is a folder of weights: --images names the radiographs")
    return findings_report.judge(chosen.images, chosen.labels, _screener(chosen, source))


# ---------------------------------------------------------------- command


def _screener(chosen: Arguments, weights: Path) -> Screener:
    return Screener(weights, engine_name=chosen.engine)


def beside(path: Path, name: str) -> Path:
    """Where a figure goes: next to the JSON."""
    return path.with_name(f"{path.stem}_{name}.png")


Evaluation = Callable[[Arguments], tuple[Report, list[str]]]


def parser() -> argparse.ArgumentParser:
    """The four evaluations and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser("python -m train.evaluate", None, __doc__, formatter_class=raw)
    parts = whole.add_subparsers(dest="what", required=True)
    judge = _part(parts, "findings", _findings, "AUROC, calibration, the paper's Table 2")
    judge.add_argument("--images", type=Path, required=True, help="folder of radiographs")
    judge.add_argument("--labels", type=Path, required=True, help="labels.csv or Data_Entry_2017")
    judge.add_argument("--split", choices=(TEST, TRAIN_VAL), help="of this official list alone")
    judge.add_argument("--probabilities", type=Path, help="keep what both heads say as CSV")
    where = _part(parts, "boxes", _boxes, "where the networks look: the paper's Table 3, Fig. 4")
    where.add_argument("--images", type=Path, required=True, help="folder of radiographs")
    where.add_argument("--boxes", type=Path, required=True, help="BBox_List_2017.csv")
    drawn = _part(parts, "lungs-heart", _lungs_heart, "Dice, outlines, cardiothoracic ratio")
    drawn.add_argument("--data", type=Path, required=True, help="<source>/images, masks, index.csv")
    drawn.add_argument("--held-out", action="store_true", help="those the training held out")
    asked = _part(parts, "ablation", _ablation, "does masking (RQ1), attention (RQ2) help?")
    asked.add_argument("--images", type=Path, help="folder of radiographs")
    asked.add_argument("--labels", type=Path, required=True, help="labels.csv or Data_Entry_2017")
    asked.add_argument("--without", type=Path, help="weights, or probabilities as CSV, without it")
    asked.add_argument("--boxes", type=Path, help="BBox_List_2017.csv: compare the maps as well")
    asked.add_argument("--folds", type=Path, nargs="+", help="runs of all folds: their unseen")
    asked.add_argument("--without-folds", type=Path, nargs="+", help="those without it, likewise")
    questions = (ablation.ATTENTION, ablation.MASKING)
    asked.add_argument("--question", choices=questions, help="what the two weights differ in")
    return whole


def _part(parts: Any, name: str, evaluation: Evaluation, about: str) -> argparse.ArgumentParser:
    part: argparse.ArgumentParser = parts.add_parser(name, help=about, description=about)
    part.add_argument("--weights", type=Path, default=Path("weights"), help="default: weights")
    part.add_argument("--json", type=Path, required=True, help="where the figures go")
    part.add_argument("--engine", default="auto", help="torch, or the fastest installed (auto)")
    part.set_defaults(evaluation=evaluation)
    return part


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one evaluation. What is missing or malformed is said in one line, exit status 1."""
    chosen = parser().parse_args(arguments)
    try:
        data.made_ready(chosen.json)
        report, lines = chosen.evaluation(chosen)
    except (data.DataError, PrescreenError) as error:
        sys.exit(f"error: {error}")
    report = {"evaluation": chosen.what, **report}
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
