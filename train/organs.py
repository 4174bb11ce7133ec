"""How well lungs and heart are drawn: Dice, distance of the outlines, cardiothoracic ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from prescreen.study import ORGANS, Anatomy, BoolArray
from train import drawings
from train.figures import Numbers
from train.masks import MaskedFile, list_lungs_heart
from train.pictures import DataError, read_picture
from train.screening import Screen, screened

_WORST = 8
_RESAMPLES = 2000
_DRAWN_SIDE = 320


def dice_of(drawn: BoolArray, truth: BoolArray) -> list[float]:
    """Dice per organ of (3, h, w) masks; lungs are scored outside the true heart."""
    drawn = outside_heart(drawn, truth)
    return [_dice(a, b) for a, b in zip(drawn, truth, strict=True)]


def outside_heart(drawn: BoolArray, truth: BoolArray) -> BoolArray:
    """The masks with the lungs ended at the true heart."""
    drawn = drawn.copy()
    drawn[:2] &= ~truth[2]
    return drawn


def _dice(a: BoolArray, b: BoolArray) -> float:
    return float((2 * (a & b).sum() + 1) / (a.sum() + b.sum() + 1))


def boundary_distance(drawn: BoolArray, truth: BoolArray) -> float | None:
    """Mean distance in pixels from each outline (h, w) to the nearest point of the other.

    The average of both directions, outline pixels of both counted alike; None where one is empty.
    """
    ours, theirs = (
        torch.from_numpy(np.argwhere(drawings.border(m))).float() for m in (drawn, truth)
    )
    if not len(ours) or not len(theirs):
        return None
    apart = torch.cdist(ours, theirs)
    return float(torch.cat([apart.amin(dim=0), apart.amin(dim=1)]).mean())


def as_large(masks: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """Masks (3, h, w) on the grid of others: bilinear, more than half."""
    grid = torch.from_numpy(masks.astype(np.float32))[None]
    large = functional.interpolate(grid, size=shape, mode="bilinear", align_corners=False)
    enlarged: BoolArray = large[0].numpy() > 0.5
    return enlarged


@dataclass(frozen=True)
class Drawn:
    """One radiograph, what was drawn on it, and how far that is from the truth."""

    file: MaskedFile
    dice: tuple[float, ...]
    boundary: tuple[float | None, ...]
    ratio: float | None
    masks: BoolArray  # (3, h, w) as the network drew them


def scored(files: Sequence[MaskedFile], screener: Screen) -> Iterator[Drawn]:
    """Each radiograph screened, and then compared with its masks at their own resolution."""
    for index, screening in screened([one.path for one in files], screener):
        yield compared(files[index], screening.anatomy)


def compared(one: MaskedFile, anatomy: Anatomy) -> Drawn:
    """What was drawn on a radiograph beside its masks, at their resolution."""
    truth = one.drawn()
    drawn = outside_heart(as_large(anatomy.masks, truth.shape[1:]), truth)
    boundary = tuple(boundary_distance(a, b) for a, b in zip(drawn, truth, strict=True))
    dice = tuple(dice_of(drawn, truth))
    return Drawn(one, dice, boundary, anatomy.cardiothoracic_ratio, anatomy.masks)


def evaluate(
    folder: Path, screener: Screen, kept: Sequence[str] | None = None
) -> tuple[dict[str, Any], list[Drawn]]:
    """All figures of `lungs-heart`, and every radiograph, the worst first.

    `kept` names the only radiographs to be judged. Raises DataError where none can be.
    """
    files = [f for f in list_lungs_heart(folder) if kept is None or f.name in kept]
    drawn = list(scored(files, screener))
    if not drawn:
        raise DataError(f"{folder}: no radiograph with masks could be judged")
    drawn.sort(key=lambda one: min(one.dice))
    report = figures_of(drawn)
    report["unreadable"] = len(files) - len(drawn)
    sources = sorted({one.file.source for one in drawn})
    report["by_source"] = {
        source: figures_of([one for one in drawn if one.file.source == source])
        for source in sources
    }
    report["worst"] = [
        {"source": one.file.source, "image": one.file.name, "dice": _by_organ(one.dice)}
        for one in drawn[:_WORST]
    ]
    return report, drawn


def figures_of(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Dice, distances and errors of the cardiothoracic ratio over these radiographs."""
    dice = np.array([one.dice for one in drawn])
    distances = [
        [d for one in drawn if (d := one.boundary[k]) is not None] for k in range(len(ORGANS))
    ]
    pairs = [
        (one.ratio, one.file.cardiothoracic_ratio)
        for one in drawn
        if one.file.cardiothoracic_ratio is not None
    ]
    errors = [abs(ours - theirs) for ours, theirs in pairs if ours is not None]
    return {
        "n": len(drawn),
        "dice": _by_organ(dice.mean(axis=0).tolist()),
        "dice_ci95": _by_organ(_interval(dice).T.tolist()),
        "dice_worst": _by_organ(dice.min(axis=0).tolist()),
        "boundary_px": _mean([_mean(found) for found in distances]),
        "boundary_px_by_organ": _by_organ([_mean(found) for found in distances]),
        "boundary_missing": _by_organ([len(drawn) - len(found) for found in distances]),
        "ctr_mae": _mean(errors),
        "ctr_n": len(errors),
        "ctr_missing": len(pairs) - len(errors),
    }


def _interval(dice: Numbers) -> Numbers:
    """Bounds (2, 3) of the 95 % interval of the means of (n, 3), from a bootstrap by radiograph."""
    drawn = np.random.default_rng(1).integers(0, len(dice), (_RESAMPLES, len(dice)))
    return np.asarray(np.percentile(dice[drawn].mean(axis=1), (2.5, 97.5), axis=0))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _by_organ(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(ORGANS, values, strict=True))


def draw_worst(path: Path, drawn: Sequence[Drawn]) -> None:
    """A page of the worst radiographs: true outlines red, the network's blue."""
    tiles = [_tile(one) for one in drawn[:_WORST]]
    rows = [tiles[start : start + 4] for start in range(0, len(tiles), 4)]
    drawings.page(path, "Lowest Dice: drawn by hand red, by the network blue", rows)


def _tile(one: Drawn) -> drawings.Tile:
    side = (_DRAWN_SIDE, _DRAWN_SIDE)
    picture = drawings.grey(read_picture(one.file.path), _DRAWN_SIDE)
    truth, found = as_large(one.file.drawn(), side), as_large(one.masks, side)
    outlines = [(mask, drawings.TRUE) for mask in truth] + [(m, drawings.FOUND) for m in found]
    pairs = zip(ORGANS, one.dice, strict=True)
    said = "  ".join(f"{drawings.plain(organ)} {value:.2f}" for organ, value in pairs)
    return drawings.Tile(drawings.outlined(picture, outlines), (one.file.name, said))


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    lines = [
        f"{report['n']} radiographs; {report['split']}",
        "",
        f"{'':14}{'Dice':>8}{'worst':>8}{'outline, px':>13}",
    ]
    for organ in ORGANS:
        apart = report["boundary_px_by_organ"][organ]
        lines.append(
            f"{organ:14}{report['dice'][organ]:>8.4f}{report['dice_worst'][organ]:>8.4f}"
            f"{'–' if apart is None else format(apart, '.2f'):>13}"
        )
    error = report["ctr_mae"]
    if error is not None:
        lines.append(
            f"cardiothoracic ratio: mean absolute error {error:.4f} on {report['ctr_n']}, "
            f"not measurable on {report['ctr_missing']}"
        )
    for source, told in report["by_source"].items():
        dice = "  ".join(f"{organ} {value:.4f}" for organ, value in told["dice"].items())
        lines.append(f"{source}: {told['n']} radiographs, Dice {dice}")
    worst = report["worst"][0]
    return [*lines, f"lowest: {worst['image']} of {worst['source']}"]
