"""What frozen ImageNet features are worth, pooled in several ways: the table in README.md.

    python -m train.frozen --lungs-heart RUN/last.pt --seed 1 --json FILE
    python -m train.frozen --lungs-heart RUN/last.pt --seed 1 --of segmentation --json FILE

Five folds by patient over the train_val list; the heads are fitted in closed form (`train.probe`).
Every radiograph passes the networks once, whatever is compared afterwards. `--of stages` asks every
stage of three networks instead of the last of two of them, and `--of spread` those that ship, with
means and root mean squares. `--of segmentation` asks the encoder that draws lungs and heart alone,
`--of untrained` the same with random weights, and `--of both` what it adds to the last stages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescreen.nets import densenet, inputs, unet
from prescreen.nets.backbones import BACKBONES
from prescreen.study import ORGANS
from train import checkpoint, figures, findings, lungs_heart, machine, probe
from train.figures import Numbers

#: Which features of the two networks side by side are whose.
NETWORKS = {
    "lite0": slice(0, 1280),
    "lite2": slice(1280, 2560),
    "lite0+2": slice(0, 2560),
}
#: What `--of stages` and `--of spread` look through, and what they name the groups of its features.
GROUPS = {
    "stages": ("efficientnet_lite0+2+drawing", ("lite0", "lite2", "drawing")),
    "spread": (
        "efficientnet_lite0+drawing",
        ("lite0's means", "lite0's squares", "drawing's means", "drawing's squares"),
    ),
}
#: Groups whose logits are averaged beside those of all.
SOME = {"stages": (("lite0", "drawing"),), "spread": (("lite0's means", "drawing's means"),)}
#: What `--of both` puts beside each other.
BOTH = ("all levels, each organ", "lite0+2, each organ")
STRENGTHS = (1e-3, 3e-3, 1e-2)
FOLDS = 5


def variants(inside: probe.Features, whole: probe.Features) -> dict[str, probe.Features]:
    """Features (n, k) by name, from those of each organ (n, 3 x 2560) and of all (n, 2560)."""
    organs = inside.reshape(len(inside), len(ORGANS), -1)
    found = {}
    for network, part in NETWORKS.items():
        of_organs = organs[:, :, part].reshape(len(inside), -1)
        found[f"{network}, whole picture"] = whole[:, part]
        found[f"{network}, each organ"] = of_organs
        found[f"{network}, each organ and the whole"] = np.hstack([of_organs, whole[:, part]])
    return found


def in_groups(
    of: str, inside: probe.Features, whole: probe.Features
) -> tuple[dict[str, probe.Features], dict[str, probe.Features]]:
    """Features by group, of each organ (n, 3 x k) and of the whole picture (n, k)."""
    backbone, names = GROUPS[of]
    ends = np.cumsum(BACKBONES[backbone].groups)[:-1]
    organs = np.split(inside.reshape(len(inside), len(ORGANS), -1), ends, axis=2)
    return (
        {n: own.reshape(len(own), -1) for n, own in zip(names, organs, strict=True)},
        dict(zip(names, np.split(whole, ends, axis=1), strict=True)),
    )


def areas_of(masks: Tensor, side: int) -> probe.Features:
    """What each organ's cells count together, (n, 3), in 49ths of the picture."""
    weights = densenet.organ_weights(masks / 255.0, (side, side), "soft")
    return np.asarray(weights.sum(dim=(2, 3)).numpy() * (49.0 / side**2), np.float32)


def times(means: probe.Features, areas: probe.Features) -> probe.Features:
    """Features (n, 3 x k) as `gap49` pools them: each organ's means times its area (n, 3)."""
    organs = means.reshape(len(means), len(ORGANS), -1)
    return np.asarray((organs * areas[:, :, None]).reshape(len(means), -1), np.float32)


@torch.inference_mode()
def drawing(
    config: findings.Config, every: findings.Part, trained: bool
) -> dict[str, probe.Features]:
    """Features (n, k) by name, of the encoder that draws lungs and heart, at its own resolution.

    Or of the same one as it starts, to tell what it has learnt from what any filter sees.
    """
    saved = checkpoint.read(Path(config.lungs_heart))
    network = lungs_heart.drawing(saved)
    if not trained:
        network = unet.SEGMENTERS[lungs_heart.network_of(saved["config"])]().eval()
    network.to(machine.device())
    loader = findings.in_order(config, every.paths, unet.INPUT_SIZE)
    rows: dict[str, list[Tensor]] = {}
    for x, index in machine.progress(loader, "the segmentation's features"):
        levels = network.encode(inputs.stretch(x.to(machine.device()) / 255.0))
        masks = (every.masks[index] / 255.0).to(machine.device())
        for name, seen in pools_of(levels, masks).items():
            rows.setdefault(name, []).append(seen.cpu())
    return {name: torch.cat(seen).numpy() for name, seen in rows.items()}


def pools_of(levels: Sequence[Tensor], masks: Tensor) -> dict[str, Tensor]:
    """Means of the deepest level and of all levels, over the picture and over each organ."""
    whole = [level.mean(dim=(2, 3)) for level in levels]
    organs = []
    for level in levels:
        weights = densenet.organ_weights(masks, (level.shape[2], level.shape[3]), "soft")
        each = [weights[:, k : k + 1] for k in range(weights.shape[1])]
        organs += [torch.cat([densenet.pooled(level, w, "masked_mean") for w in each], dim=1)]
    return {
        "deepest level, whole picture": whole[-1],
        "deepest level, each organ": organs[-1],
        "all levels, whole picture": torch.cat(whole, dim=1),
        "all levels, each organ": torch.cat(organs, dim=1),
    }


def unseen(
    seen: probe.Features, labels: probe.Features, dealt: list[int], strength: float
) -> Numbers:
    """Logits (n, 14), each from heads that were fitted without the fold of the radiograph."""
    fold = np.asarray(dealt)
    said = np.zeros(labels.shape)
    for k in range(FOLDS):
        weight, bias = probe.ridge(seen[fold != k], labels[fold != k], strength)
        said[fold == k] = seen[fold == k] @ weight.T + bias
    return said


def together(
    named: Sequence[probe.Features], labels: probe.Features, dealt: list[int]
) -> dict[str, float]:
    """Mean AUROC by strength of the penalty, of the mean of the logits that each features give."""
    return {
        f"{strength:g}": round(
            figures.mean_auroc(
                labels,
                np.mean([unseen(seen, labels, dealt, strength) for seen in named], axis=0),
            ),
            4,
        )
        for strength in STRENGTHS
    }


def compared(
    named: Mapping[str, probe.Features], labels: probe.Features, dealt: list[int]
) -> dict[str, dict[str, float]]:
    """Mean AUROC over the labels, by variant and strength of the penalty."""
    return {
        name: {
            f"{strength:g}": round(
                figures.mean_auroc(labels, unseen(seen, labels, dealt, strength)), 4
            )
            for strength in STRENGTHS
        }
        for name, seen in named.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lungs-heart", required=True, help="checkpoint of the segmentation")
    parser.add_argument("--drawing", default="", help="another, whose encoder looks")
    kinds = ("imagenet", *GROUPS, "segmentation", "untrained", "both")
    parser.add_argument("--of", choices=kinds, default=kinds[0])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    chosen = parser.parse_args()
    machine.start(chosen.seed, 0)
    report = of_stages(chosen) if chosen.of in GROUPS else of_last_stage(chosen)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, told in report.items():
        print(f"{name:40}", *(f"{area:.4f}" for area in told.values()))


def of_stages(chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What each group of features is worth, and all of them."""
    backbone, names = GROUPS[chosen.of]
    config = findings.Config(
        fold=-1,
        seed=chosen.seed,
        lungs_heart=chosen.lungs_heart,
        drawing=chosen.drawing,
        backbone=backbone,
    )
    every, _, dealt = findings.dealt(config)
    labels = every.labels.numpy()
    seen = findings.pooled(findings.started(config).net, every, config, chosen.size)
    of_organs, of_all = in_groups(chosen.of, *seen)
    areas = areas_of(every.masks, chosen.size // 32)
    by_area = {name: times(own, areas) for name, own in of_organs.items()}
    places = {"each organ": of_organs, "each organ, gap49": by_area, "whole picture": of_all}
    report: dict[str, dict[str, float]] = {}
    for place, named in places.items():
        report |= compared({f"{n}, {place}": own for n, own in named.items()}, labels, dealt)
        side_by_side = np.hstack(list(named.values()))
        report |= compared({f"all at once, {place}": side_by_side}, labels, dealt)
        for some in (names, *SOME[chosen.of]):
            report[f"mean of {' + '.join(some)}, {place}"] = together(
                [named[n] for n in some], labels, dealt
            )
    return report


def of_last_stage(chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What the last stages of the two from ImageNet are worth, and what draws beside them."""
    config = findings.Config(
        fold=-1,
        seed=chosen.seed,
        lungs_heart=chosen.lungs_heart,
        preset="regions",
        backbone="efficientnet_lite0+2",
    )
    every, _, dealt = findings.dealt(config)
    labels = every.labels.numpy()
    named: dict[str, probe.Features] = {}
    if chosen.of != "imagenet":
        named |= drawing(config, every, chosen.of != "untrained")
    if chosen.of in ("imagenet", "both"):
        inside, whole = findings.pooled(findings.started(config).net, every, config, chosen.size)
        named |= variants(inside, whole)
    if chosen.of == "both":
        named = {name: named[name] for name in BOTH}
    report = compared(named, labels, dealt)
    if chosen.of == "both":
        report["mean of both logits"] = together(list(named.values()), labels, dealt)
    return report


if __name__ == "__main__":
    main()
