"""What each switch changes, on frozen features and folds by patient: the table in README.md.

    python -m train.switches --lungs-heart RUN/last.pt --seed 1 --json FILE
    python -m train.switches --averaged RUN_0 … RUN_4 --json FILE    what EMA adds to trained runs

Soft masks, masked mean, regions, resolution, the gate's start, distorted copies, and answers
averaged over views: all that can be told without training a backbone. Heads are fitted in closed
form (`train.probe`), five folds by patient over the train_val list. Every view is one pass over the
radiographs, kept beside the runs; the second time only the heads are fitted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescreen.nets import densenet, engine, inputs
from prescreen.nets.screener import Seeing
from train import ablation, augment, checkpoint, data, findings, frozen, machine, probe
from train.figures import Numbers

Pools = Mapping[str, probe.Features]


@dataclass(frozen=True)
class View:
    """How the radiographs are shown to the network: their side, mirrored or not, the gate open.

    `copy` above 0 is the number of a distorted copy: all that `augment` does to geometry and
    exposure at full strength, otherwise for each copy and radiograph.
    """

    size: int = 224
    mirrored: bool = False
    open_gate: bool = True
    copy: int = 0

    @property
    def name(self) -> str:
        parts = [
            str(self.size),
            *["mirrored"] * self.mirrored,
            *["half-gate"] * (not self.open_gate),
            *[f"copy-{self.copy}"] * bool(self.copy),
        ]
        return "-".join(parts)


#: By the names that `--views` takes.
VIEWS: dict[str, View] = {
    "plain": View(),
    "mirrored": View(mirrored=True),
    "half-gate": View(open_gate=False),
    "copy-1": View(copy=1),
    "copy-2": View(copy=2),
}

#: How features are pooled: whether each organ for itself, masks and divisor.
POOLS: dict[str, densenet.Switches] = {
    "whole": densenet.Switches(mask_mode="none"),
    "hard gap49": densenet.Switches(),
    "soft gap49": densenet.Switches(mask_mode="soft"),
    "hard mean": densenet.Switches(pool="masked_mean"),
    "soft mean": densenet.Switches(mask_mode="soft", pool="masked_mean"),
    "regions hard gap49": densenet.Switches(regions=True),
    "regions soft gap49": densenet.Switches(regions=True, mask_mode="soft"),
    "regions hard mean": densenet.Switches(regions=True, pool="masked_mean"),
    "regions soft mean": densenet.PRESETS["regions"],
}
OURS = "regions soft mean"


# ---------------------------------------------------------------- features


def features_of(config: findings.Config, every: findings.Part, view: View) -> Pools:
    """Pooled features (n, k) of every way of POOLS, float16, kept as one file a view."""
    name = f"{config.backbone}-{view.name}-{_masks_digest(every)}.npz"
    file = data.runs_dir() / "switches" / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        found: dict[str, Any] = dict(_extracted(config, every, view))
        np.savez(part, **found)
        part.replace(file)
    with np.load(file) as kept:
        return {name: kept[name].astype(np.float32) for name in POOLS}


def _masks_digest(every: findings.Part) -> str:
    paths = "\n".join(str(path.resolve()) for path in every.paths)
    return hashlib.sha256(paths.encode() + every.masks.numpy().tobytes()).hexdigest()[:16]


@torch.inference_mode()
def _extracted(config: findings.Config, every: findings.Part, view: View) -> Pools:
    preset = "regions" if view.open_gate else "paper"
    net = findings.started(replace(config, preset=preset)).net.eval()
    see = engine.fastest(Seeing(net), view.size, _answers_of(net), device=machine.device())
    found: dict[str, list[probe.Features]] = {name: [] for name in POOLS}
    loader = findings.in_order(config, every.paths, inputs.COMMON_SIZE)
    for x, index in machine.progress(loader, view.name):
        x, masks = shown(view, x / 255.0, every.masks[index] / 255.0, index)
        x = inputs.stretch(inputs.resized(x.to(machine.device()), view.size))
        masks = masks.to(machine.device())
        (features,) = see(x.contiguous(memory_format=torch.channels_last))
        for name, switches in POOLS.items():
            net.switches = switches
            found[name].append(net.pooled(features, masks)[0].cpu().numpy().astype(np.float16))
    return {name: np.concatenate(rows) for name, rows in found.items()}


def shown(view: View, x: Tensor, masks: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (n, 1, s, s) and masks (n, 3, t, t), both 0…1, as the view shows them."""
    if view.mirrored:
        return x.flip(3), masks.flip(3)
    if not view.copy:
        return x, masks
    g = torch.Generator().manual_seed(view.copy * 1_000_000 + int(index[0]))
    grid = augment.random_grid(len(x), x.shape[-1], g)
    return augment.exposed(augment.warped(x, grid), g), augment.warped(masks, grid)


def _answers_of(net: densenet.FindingsNet) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What an engine is compared by while no head is fitted: features are all there is."""
    return lambda found: torch.sigmoid(net.head_unmasked(found[0].mean(dim=(2, 3))))


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Folds:
    """The radiographs' labels (n, 14) and folds, and the penalty of the heads."""

    labels: probe.Features
    dealt: list[int]
    strength: float

    def unseen(self, *shown: probe.Features, learnt: Sequence[probe.Features] = ()) -> Numbers:
        """Logits (n, 14), the mean over the views in `shown`.

        Heads are fitted to the first view of the other folds, and to `learnt` views as well.
        """
        fold = np.asarray(self.dealt)
        said = np.zeros(self.labels.shape)
        for k in range(frozen.FOLDS):
            seen = np.concatenate([view[fold != k] for view in (shown[0], *learnt)])
            truth = np.concatenate([self.labels[fold != k]] * (1 + len(learnt)))
            weight, bias = probe.ridge(seen, truth, self.strength)
            said[fold == k] = np.mean([v[fold == k] @ weight.T + bias for v in shown], axis=0)
        return said


def answers(
    views: Mapping[str, Pools], large: Mapping[str, probe.Features], folds: Folds
) -> dict[str, Numbers]:
    """Logits (n, 14) of every row of the table, each of heads that had not seen the radiograph.

    `views` are pooled features by the names of VIEWS, `plain` among them; `large` those of each
    organ at another size, by what that is called.
    """
    found = {name: folds.unseen(seen) for name, seen in views["plain"].items()}
    others = {name: views[name][OURS] for name in views if name != "plain"}
    found |= _viewed(views["plain"][OURS], others, folds)
    for name, seen in large.items():
        found[name] = folds.unseen(seen)
        found[f"averaged with {name}"] = (found[OURS] + found[name]) / 2
    return found


def _viewed(
    ours: probe.Features, others: Mapping[str, probe.Features], folds: Folds
) -> dict[str, Numbers]:
    """The rows that need more than the plain view: those for which it is there."""
    found = {}
    if "half-gate" in others:
        found["gate as the paper starts it"] = folds.unseen(others["half-gate"])
    if "mirrored" in others:
        mirrored = others["mirrored"]
        found["averaged with the mirrored view"] = folds.unseen(ours, mirrored)
        found["mirrored views learnt as well"] = folds.unseen(ours, learnt=[mirrored])
        found["mirrored, learnt and averaged"] = folds.unseen(ours, mirrored, learnt=[mirrored])
    copies = [seen for name, seen in others.items() if name.startswith("copy")]
    if copies:
        name = f"{len(copies)} distorted copies learnt as well"
        found[name] = folds.unseen(ours, learnt=copies)
    return found


def averaging(runs: Sequence[Path]) -> tuple[dict[str, Numbers], list[data.LabelledPicture]]:
    """Probabilities (n, 14) of what the runs of all folds had not seen, and those radiographs.

    With the weights as the last step left them, and with their moving average (EMA), which ships.
    """
    said: dict[str, list[Numbers]] = {PLAIN_WEIGHTS: [], "moving average of the weights": []}
    pictures: list[data.LabelledPicture] = []
    for run in runs:
        saved = checkpoint.read(run / "last.pt")
        config = findings.Config(**saved["config"])
        every, listed, dealt = findings.dealt(config)
        rows = [i for i, fold in enumerate(dealt) if fold == config.fold]
        pictures += [listed[i] for i in rows]
        loader = findings.in_order(config, [every.paths[i] for i in rows], inputs.COMMON_SIZE)
        size = findings.phases(config.schedule)[-1][1]
        for which, found in zip(("network", "ema"), said.values(), strict=True):
            student = findings.Student(config).to(machine.device())
            student.load_state_dict(saved[which])
            answers = findings.predict(student.net, loader, every.masks[rows], size)
            found.append(answers[:, 0].numpy().astype(np.float64))
    return {name: np.concatenate(found) for name, found in said.items()}, pictures


PLAIN_WEIGHTS = "weights after the last step"


def compared(
    said: Mapping[str, Numbers], pictures: Sequence[data.LabelledPicture], base: str
) -> dict[str, dict[str, Any]]:
    """Mean AUROC of each row, and how much more than that of `base`, with its 95 % interval."""
    rows = {}
    for name, logits in said.items():
        told = ablation.compared(ablation.MASKING, pictures, logits, said[base])
        rows[name] = {
            "mean_auroc": told["mean_auroc_with"],
            "difference": told["difference"]["mean"],
            "ci95": told["difference_ci95"]["mean"],
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lungs-heart", default="", help="checkpoint of the segmentation")
    parser.add_argument("--averaged", type=Path, nargs="+", help="runs of all folds: what EMA adds")
    parser.add_argument("--backbone", default="efficientnet_lite0+2")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--size", type=int, default=View.size)
    parser.add_argument("--large", type=int, default=320, help="the other size; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    chosen = parser.parse_args()
    machine.start(chosen.seed, chosen.threads)
    if chosen.averaged:
        report = compared(*averaging(chosen.averaged), PLAIN_WEIGHTS)
    else:
        report = compared(*looked(chosen), OURS)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, told in report.items():
        low, high = told["ci95"]
        more = f"{told['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        print(f"{name:34} {told['mean_auroc']:.4f} {more}")


def looked(chosen: argparse.Namespace) -> tuple[dict[str, Numbers], list[data.LabelledPicture]]:
    """Every row of the table, and the radiographs that it is about."""
    config = findings.Config(
        fold=-1,
        seed=chosen.seed,
        lungs_heart=chosen.lungs_heart,
        preset="regions",
        backbone=chosen.backbone,
    )
    every, pictures, dealt = findings.dealt(config)
    seen = {name: replace(VIEWS[name], size=chosen.size) for name in chosen.views}
    views = {name: features_of(config, every, view) for name, view in seen.items()}
    large = {}
    if chosen.large:
        net = findings.started(config).net
        large[f"{chosen.large} px"] = findings.pooled(net, every, config, chosen.large)[0]
    folds = Folds(every.labels.numpy(), dealt, config.ridge)
    return answers(views, large, folds), pictures


if __name__ == "__main__":
    main()
