"""Make weights for the node out of a finished run: tensors, manifest, figures, statistics.

    python -m train.ship lungs-heart --run RUN --to weights
    python -m train.ship findings --run RUN --to weights

All figures come from the radiographs that the run held out; the model card beside the weights is
written by hand, because it has to say where they fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import prescreen
from prescreen.nets import densenet, inputs, typical, unet
from prescreen.nets.weights import Manifest, Metric, Source, write_manifest
from prescreen.study import LABELS, ORGANS, FloatArray, ViewFigures
from train import augment, checkpoint, data, evaluate, figures
from train import findings as findings_run
from train import lungs_heart as lungs_heart_run

NORMALISATION = (
    f"squashed whole to {inputs.COMMON_SIZE} and then to the input size, antialiased bilinear; "
    f"grey scale stretched between the {inputs.STRETCH_QUANTILES} quantiles of its 64 x 64 means"
)
WINGSPAN = Source("Wingspan cardiothoracic ratio (Dong et al., MICCAI 2018)", "MIT", "masks", None)
NIH = Source(
    "NIH ChestX-ray14 (Wang et al., CVPR 2017), NIH Clinical Center",
    "free use with citation and a link to the source",
    "",
    None,
)
TEACHER = Source("EfficientNet-Lite0, ImageNet", "Apache-2.0", "teacher of features", None)
#: Held-out frontal radiographs that lie within the limit of the feature distance.
KEPT = 0.985


def arrays(network: torch.nn.Module) -> dict[str, FloatArray]:
    """The floating-point tensors of a network: what is shipped of it."""
    state = network.state_dict()
    return {k: v.float().numpy() for k, v in state.items() if v.dtype.is_floating_point}


def commit() -> str:
    """The commit the training code stands at, or empty outside a work tree."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


# ---------------------------------------------------------------- lungs and heart


@torch.inference_mode()
def described(network: unet.UNet, paths: list[Path], distort: int | None = None) -> FloatArray:
    """Features of pictures as `typical` compares them, (n, K); distorted if given a seed."""
    found = []
    g = torch.Generator().manual_seed(distort or 0)
    for start in range(0, len(paths), 16):
        squares = [evaluate.radiograph_of(p).pixels for p in paths[start : start + 16]]
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
    fit, held = data.split_by_patient(listed, config["held_out"], config["seed"])
    folder = data.data_dir() / "lungs_heart"
    masked = data.read_lungs_heart(folder, unet.INPUT_SIZE)
    paths = [[p.path for p in fit], [p.path for p in held]]
    for picture in masked:
        kept = data.share_of(picture.name, config["seed"]) < config["held_out"]
        paths[int(kept)].append(data.picture_path(folder, picture))
    return paths[0], paths[1]


def ship_lungs_heart(run: Path, to: Path) -> Manifest:
    """Weights, manifest and the statistics of typical radiographs from a run's last epoch."""
    saved = checkpoint.read(run / "last.pt")
    network = unet.UNet().eval()
    network.load_state_dict(saved["ema"])
    fit, held = frontals(saved["config"])
    clean, other = described(network, fit), described(network, fit, distort=1)
    usual = typical.Typical.fitted(np.concatenate([clean, other]))
    distances = usual.distances(described(network, held))
    config = lungs_heart_run.Config(**saved["config"])
    manifest = Manifest(
        network="lungs_heart",
        version=prescreen.__version__,
        architecture=f"unet{unet.WIDTHS}",
        input_size=config.size,
        normalisation=NORMALISATION,
        labels=ORGANS,
        distance_limit=round(float(np.quantile(distances, KEPT)), 4),
        sources=lungs_heart_sources(config, fit),
        config=saved["config"],
        source_commit=commit(),
    )
    tensors = {**arrays(network), **usual.tensors()}
    return write_manifest(to, manifest, tensors)


def lungs_heart_sources(config: lungs_heart_run.Config, fit: list[Path]) -> tuple[Source, ...]:
    use = "radiographs for the statistics of the feature distance"
    if config.teacher:
        use += "; radiographs with masks drawn by the first round"
    drawn = sum("lungs_heart" in path.parts for path in fit)
    nih = dataclasses.replace(NIH, use=use, count=len(fit) - drawn)
    return (dataclasses.replace(WINGSPAN, count=drawn), nih)


def add_lungs_heart_figures(to: Path) -> Manifest:
    """The same weights once more, with the figures that the node's own path gives them."""
    from prescreen.nets import weights

    loaded = weights.load(to)["lungs_heart"]
    report = evaluate.evaluate_lungs_heart(data.data_dir() / "lungs_heart", to, everything=False)
    metrics = {k: Metric(dice=round(v, 4)) for k, v in report["dice"].items()}
    said = (
        f"{report['n']} held-out radiographs; cardiothoracic ratio: mean absolute error "
        f"{report['ctr_mae']:.4f} on {report['ctr_n']}"
    )
    manifest = dataclasses.replace(loaded.manifest, metrics=metrics, figures_from=said)
    return write_manifest(to, manifest, loaded.tensors)


# ---------------------------------------------------------------- findings


def ship_findings(run: Path, to: Path) -> Manifest:
    """Weights and manifest from a run's last epoch; thresholds and figures from its held-out part.

    The threshold of a label without positives there is 0.5, and its figures are None.
    """
    saved = checkpoint.read(run / "last.pt")
    config = findings_run.Config(**saved["config"])
    student = findings_run.Student(config).eval()
    student.load_state_dict(saved["ema"])
    listed = data.read_chestxray14(data.data_dir() / "chestxray14")
    fit, held = data.split_by_patient(listed, config.held_out, config.seed)
    loader = findings_run.loader_of(config, [p.path for p in held], inputs.COMMON_SIZE, None)
    masks = findings_run.draw(config, loader)
    seen = findings_run.predict(student.net, loader, masks, densenet.INPUT_SIZE).numpy()
    masked, unmasked = seen[:, 0].astype(np.float64), seen[:, 1].astype(np.float64)
    thresholds, metrics = judged(held, masked, unmasked)
    manifest = Manifest(
        network="findings",
        version=prescreen.__version__,
        architecture="densenet121",
        input_size=densenet.INPUT_SIZE,
        normalisation=NORMALISATION,
        labels=LABELS,
        preset=config.preset,
        switches=dataclasses.asdict(student.net.switches),
        thresholds=thresholds,
        threshold_rule="youden",
        metrics=metrics,
        figures_from=f"{len(held)} held-out radiographs of {len({p.patient for p in held})} "
        "patients, on which the thresholds were chosen as well",
        sources=(dataclasses.replace(NIH, use="radiographs and labels", count=len(fit)), TEACHER),
        config=saved["config"],
        source_commit=commit(),
    )
    return write_manifest(to, manifest, arrays(student.net))


def judged(
    held: list[data.LabelledPicture], masked: evaluate.Numbers, unmasked: evaluate.Numbers
) -> tuple[dict[str, float], dict[str, Metric]]:
    """Thresholds and figures per label from fixed probabilities (n, 14) each."""
    report, other = evaluate.findings(held, masked), evaluate.findings(held, unmasked)
    truth = np.array([p.labels for p in held], dtype=bool)
    views = {view: of_view(held, masked, view) for view in ("PA", "AP")}
    thresholds, metrics = {}, {}
    for k, label in enumerate(LABELS):
        point = figures.youden(truth[:, k], masked[:, k])
        low, high = report["ci95"][label] or (None, None)
        thresholds[label] = round(point.threshold, 6) if point else 0.5
        metrics[label] = Metric(
            auroc=rounded(report["auroc"][label]),
            low=rounded(low),
            high=rounded(high),
            positives=report["positives"][label],
            sensitivity=rounded(point.sensitivity) if point else None,
            specificity=rounded(point.specificity) if point else None,
            auroc_unmasked=rounded(other["auroc"][label]),
            by_view={view: told[label] for view, told in views.items() if label in told},
        )
    return thresholds, metrics


def of_view(
    held: list[data.LabelledPicture], masked: evaluate.Numbers, view: str
) -> dict[str, ViewFigures]:
    """The figures of one view alone; a label without an interval there has none."""
    rows = [i for i, picture in enumerate(held) if picture.view == view]
    if not rows:
        return {}
    report = evaluate.findings([held[i] for i in rows], masked[rows])
    return {
        label: ViewFigures(
            round(report["auroc"][label], 6),
            round(report["ci95"][label][0], 6),
            report["positives"][label],
        )
        for label in LABELS
        if report["auroc"][label] is not None and report["ci95"][label] is not None
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["lungs-heart", "findings"])
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--to", type=Path, default=Path("weights"))
    chosen = parser.parse_args()
    if chosen.what == "findings":
        written = ship_findings(chosen.run, chosen.to)
    else:
        written = ship_lungs_heart(chosen.run, chosen.to)
        if (chosen.to / "findings.json").is_file():  # the figures need the node's whole path
            written = add_lungs_heart_figures(chosen.to)
    print(f"{chosen.to / written.network}.safetensors  sha256 {written.sha256}")


if __name__ == "__main__":
    main()
