"""What networks say of radiographs that they had not seen: the runs of all folds together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescreen.nets import inputs, unet
from prescreen.nets.anatomy import anatomy_of
from prescreen.study import Anatomy
from train import augment, checkpoint, data, findings, lungs_heart, organs
from train.figures import Numbers
from train.masks import MaskedFile, list_lungs_heart
from train.pictures import stem_of
from train.screening import radiograph_of


def _badly_taken(x: Tensor, one: MaskedFile, g: torch.Generator) -> Tensor:
    return augment.framed(augment.clouded(augment.exposed(x, g), g), g)


def _partly_white(x: Tensor, one: MaskedFile, g: torch.Generator) -> Tensor:
    masks = torch.from_numpy(one.drawn(x.shape[-1])).float()[None]
    return augment.hidden(x, masks, g, share=1.0)


#: By what is said of it: films (1, 1, s, s) as machines and chests spoil them.
SPOILING: dict[str, Callable[[Tensor, MaskedFile, torch.Generator], Tensor]] = {
    "exposed badly, clouded and framed": _badly_taken,
    "with a part of one lung white": _partly_white,
}


def drawing_network(run: Path) -> tuple[unet.Segmenter, dict[str, Any]]:
    """The network of a run, ready, and its checkpoint."""
    saved = checkpoint.read(checkpoint.counting(run))
    return lungs_heart.drawing(saved), saved


def drawn(folds: Sequence[Path], how: str | None = None) -> list[organs.Drawn]:
    """Every radiograph with masks, drawn by the run that had not seen it, as the node draws.

    `how` is one of SPOILING, or the films are taken as they are. DataError where a radiograph is
    held out by no fold or by more than one.
    """
    files = list_lungs_heart(data.data_dir() / "lungs_heart")
    found = []
    for run in folds:
        network, saved = drawing_network(run)
        config = lungs_heart.Config(**saved["config"])
        held = [f for f in files if lungs_heart.fold_of(config, f.name) == config.fold]
        g = torch.Generator().manual_seed(config.fold)
        found += [organs.compared(one, anatomy_in(network, one, how, g)) for one in held]
    refuse_not_once([one.file.name for one in found], [f.name for f in files])
    return found


@torch.inference_mode()
def anatomy_in(
    network: unet.Segmenter, one: MaskedFile, how: str | None, g: torch.Generator
) -> Anatomy:
    """As the node draws it, on the film as it is or spoilt."""
    square = inputs.common_square(radiograph_of(one.path).pixels)
    x = inputs.resized(square, unet.INPUT_SIZE)
    if how is not None:
        x = SPOILING[how](x, one, g)
    return anatomy_of(torch.sigmoid(network(inputs.stretch(x)))[0].numpy())


def refuse_not_once(seen: Sequence[str], known: Sequence[str]) -> None:
    """DataError unless the folds hold out every radiograph exactly once."""
    double = [name for name, times in Counter(seen).items() if times > 1]
    missing = sorted(set(known) - set(seen))
    if double or missing:
        which = f"{double[0]} more than once" if double else f"{missing[0]} not at all"
        raise data.DataError(
            f"--folds: these runs hold out {which}; name one finished run of every fold, all of "
            "one seed"
        )


def _listed(run: Path) -> list[data.LabelledPicture]:
    """The radiographs that a run was dealt its folds of."""
    if (run / "last.pt").is_file():
        return findings.listed(findings.Config(**checkpoint.read(run / "last.pt")["config"]))
    return findings.listed(findings.Config())


def answers(
    folds: Sequence[Path],
) -> tuple[list[data.LabelledPicture], Numbers, Numbers]:
    """The radiographs of the runs with masked and unmasked probabilities (n, 14) of the folds."""
    usable = {stem_of(p.path.name): p for p in _listed(folds[0])}
    names, answers = [], []
    for run in folds:
        try:
            with np.load(run / "held.npz") as held:
                names += [str(name) for name in held["names"]]
                answers.append(held["answers"].astype(np.float64))
        except FileNotFoundError as error:
            raise data.DataError(
                f"{run / 'held.npz'} is missing: let the run of this fold finish"
            ) from error
    refuse_not_once(names, list(usable))
    said = np.concatenate(answers)
    return [usable[name] for name in names], said[:, 0], said[:, 1]
