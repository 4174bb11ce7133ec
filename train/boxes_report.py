"""Figures of `boxes`: the paper's oracle beside fixed grids, and what maps say by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prescreen.nets.attention import on_stored_pixels
from prescreen.study import FindingState, FloatArray, Screening
from train import boxes, drawings, figures, paper
from train.boxes import Box, DrawnBox, Point
from train.pictures import files_by_stem, read_picture, stem_of
from train.screening import Screen, Traced, screened

GRIDS = (3, 4, 8)
HITS = (0.1, 0.3, 0.5)
_SIDE = 256
_SEED = 1
_SHOWN = (FindingState.FLAGGED, FindingState.UNDETERMINED)


@dataclass(frozen=True)
class Located:
    """One drawn box and where the network looked for its finding."""

    drawn: DrawnBox
    path: Path
    attention: FloatArray  # (h, w), 0…1
    shown: bool  # flagged or undetermined: the map would be seen
    found: Box | None  # the box that the map makes by itself
    oracle: float  # IoU under the paper's protocol, from the whole class activation map

    @property
    def overlap(self) -> float:
        """IoU of the map's own box; 0 where it makes none."""
        return boxes.iou(self.found, self.drawn.box) if self.found else 0.0


def locate(images: Path, listed: Sequence[DrawnBox], screener: Screen) -> list[Located]:
    """Where the network looked, for every box whose radiograph is in `images`: maybe for none.

    The boxes' findings name the map; where they lie is compared when the maps are fixed. Raises
    DataError where `images` is no folder.
    """
    files = files_by_stem(images, may_be_empty=True)
    wanted = sorted({one.stem for one in listed if one.stem in files})
    paths = [files[stem] for stem in wanted]
    located: list[Located] = []
    for index, screening in screened(paths, screener):
        states = {f.label: f.state for f in screening.findings}
        stem = stem_of(paths[index].name)
        for one in (b for b in listed if b.stem == stem and b.label in screening.attention):
            attention = screening.attention[one.label]
            candidates = boxes.peaks(candidates_in(screening)[one.label])
            located.append(
                Located(
                    one,
                    paths[index],
                    attention,
                    states[one.label] in _SHOWN,
                    boxes.box_of(attention),
                    boxes.oracle(one, candidates),
                )
            )
    return located


def candidates_in(screening: Screening) -> Mapping[str, FloatArray]:
    """The maps that the paper's protocol takes its candidates from: the whole of them if traced."""
    return screening.activation if isinstance(screening, Traced) else screening.attention


# ---------------------------------------------------------------- figures


def reported(located: Sequence[Located], listed: Sequence[DrawnBox]) -> dict[str, Any]:
    """All figures of `boxes`, ready for JSON; `listed` are all boxes of the list.

    `n_missing` counts those without a picture that could be read, and those of findings that the
    weights cannot answer for. `pointing_game` is what `train.pointing` states in a manifest, and
    `radiographs` are those it was played on.
    """
    drawn = [one.drawn for one in located]
    points = [boxes.hottest(one.attention) for one in located]
    fixed = boxes.fixed_points(drawn, listed)
    middle: list[Point | None] = [(0.5, 0.5)] * len(drawn)
    overlaps = [one.overlap for one in located]
    return {
        "n": len(drawn),
        "n_images": len({one.stem for one in drawn}),
        "n_missing": len(listed) - len(drawn),
        "n_by_label": {label: len(rows) for label, rows in _rows(drawn).items()},
        "iou_oracle": _means(drawn, [one.oracle for one in located]),
        **{
            f"iou_oracle_grid_{n}x{n}": _means(
                drawn, [boxes.oracle(one, boxes.grid(n)) for one in drawn]
            )
            for n in GRIDS
        },
        "iou": _means(drawn, overlaps),
        **{
            f"hit_rate_iou_{least}": _means(drawn, [float(v >= least) for v in overlaps])
            for least in HITS
        },
        "hit_rate": {str(least): _mean([float(v >= least) for v in overlaps]) for least in HITS},
        "pointing": _means(drawn, _hits(drawn, points)),
        "pointing_fixed_point": _means(drawn, _hits(drawn, fixed)),
        "pointing_image_centre": _means(drawn, _hits(drawn, middle)),
        "pointing_gain": _means(
            drawn,
            [a - b for a, b in zip(_hits(drawn, points), _hits(drawn, fixed), strict=True)],
        ),
        "pointing_game": _games(drawn, _hits(drawn, points), _hits(drawn, fixed)),
        "radiographs": sorted({one.stem for one in drawn}),
        "flagged": _means(drawn, [float(one.shown) for one in located]),
        "empty_maps": _means(drawn, [float(one.found is None) for one in located]),
        "paper_table_3": paper.TABLE_3,
    }


def _rows(drawn: Sequence[DrawnBox]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for i, one in enumerate(drawn):
        rows.setdefault(one.label, []).append(i)
    return rows


def _hits(drawn: Sequence[DrawnBox], points: Sequence[Point | None]) -> list[float]:
    return [float(boxes.holds(one.box, p)) for one, p in zip(drawn, points, strict=True)]


def _games(
    drawn: Sequence[DrawnBox], hits: Sequence[float], fixed: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """For each finding how often its map and a fixed point hit, over all its boxes."""
    of_all = {"fixed_point_of_all": _mean(fixed)}
    return {
        label: _game([drawn[i].patient for i in rows], [hits[i] for i in rows])
        | {"fixed_point": float(np.mean([fixed[i] for i in rows]))}
        | of_all
        for label, rows in _rows(drawn).items()
    }


def _game(patients: Sequence[str], hits: Sequence[float]) -> dict[str, Any]:
    """The lower bound is the lower one of the bootstrap's by patient and of Wilson's on patients:
    of few boxes that were all hit the bootstrap alone would say that none is ever missed."""
    rate, number = float(np.mean(hits)), len(set(patients))
    drawn_low = (figures.mean_interval(hits, patients, _SEED) or (0.0, 1.0))[0]
    low = min(drawn_low, figures.share_interval(rate, number)[0])
    return {"hit_rate": rate, "low": low, "boxes": len(hits), "patients": number}


def _means(drawn: Sequence[DrawnBox], values: Sequence[float]) -> dict[str, Any]:
    """Mean over all boxes, its 95 % interval by patient, mean of the findings, and each finding.

    None of no boxes.
    """
    by_label = {label: _mean([values[i] for i in rows]) for label, rows in _rows(drawn).items()}
    patients = [one.patient for one in drawn]
    return {
        "mean": _mean(values),
        "ci95": figures.mean_interval(values, patients, _SEED) if patients else None,
        "mean_of_labels": _mean([v for v in by_label.values() if v is not None]),
        **by_label,
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


_TOLD: tuple[tuple[str, str], ...] = (
    ("iou_oracle", "IoU, paper's oracle protocol"),
    ("iou_oracle_grid_3x3", "  the same of a 3 x 3 grid, no network"),
    ("iou_oracle_grid_4x4", "  the same of a 4 x 4 grid, no network"),
    ("iou_oracle_grid_8x8", "  the same of an 8 x 8 grid, no network"),
    ("iou", "IoU without an oracle"),
    ("hit_rate_iou_0.1", "  share with IoU of at least 0.1"),
    ("hit_rate_iou_0.3", "  share with IoU of at least 0.3"),
    ("hit_rate_iou_0.5", "  share with IoU of at least 0.5"),
    ("pointing", "pointing game: hottest cell"),
    ("pointing_fixed_point", "  one fixed point a finding"),
    ("pointing_image_centre", "  the image's centre"),
    ("flagged", "share flagged or undetermined"),
    ("empty_maps", "share of maps that are empty"),
)


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    labels = list(report["n_by_label"])
    lines = [
        f"{report['n']} boxes on {report['n_images']} radiographs; {report['n_missing']} boxes "
        "without a picture",
        "",
        f"{'':40}{'all boxes':>10}{'95 % interval':>18}  " + "".join(f"{k:>14}" for k in labels),
        f"{'boxes':40}{report['n']:>10}{'':18}  "
        + "".join(f"{report['n_by_label'][k]:>14}" for k in labels),
    ]
    for key, name in _TOLD:
        told = report[key]
        bounds = f"{told['ci95'][0]:.3f} – {told['ci95'][1]:.3f}" if told["ci95"] else "–"
        each = "".join(f"{told[k]:>14.3f}" for k in labels)
        mean = "–" if told["mean"] is None else f"{told['mean']:.3f}"
        lines.append(f"{name:40}{mean:>10}{bounds:>18}  {each}")
    for name, told in paper.TABLE_3.items():
        each = "".join(f"{told[k]:>14.3f}" if k in told else f"{'–':>14}" for k in labels)
        lines.append(f"{'paper, oracle, ' + name:40}{told['mean']:>10.3f}{'':18}  {each}")
    return [*lines, "", verdict(report)]


def verdict(report: dict[str, Any]) -> str:
    """Whether the maps point better than a fixed point for each finding, in words."""
    bounds = report["pointing_gain"]["ci95"]
    if bounds and bounds[0] > 0:
        return "The maps point better than one fixed point a finding (95 % interval above 0)."
    if bounds and bounds[1] < 0:
        return "The maps point worse than one fixed point a finding (95 % interval below 0)."
    return "That the maps point better than one fixed point a finding is not shown."


# ---------------------------------------------------------------- the paper's figure 4


def draw(path: Path, located: Sequence[Located]) -> None:
    """A page: for each finding its best, two between and its worst by the map's own box."""
    rows = []
    for label in _rows([one.drawn for one in located]):
        ordered = sorted((o for o in located if o.drawn.label == label), key=lambda o: -o.overlap)
        places = sorted({round(share * (len(ordered) - 1)) for share in (0.0, 1 / 3, 2 / 3, 1.0)})
        rows.append([_tile(ordered[place]) for place in places])
    title = "Where the network looked: drawn by radiologists red, the map's own box blue"
    drawings.page(path, title, rows)


def _tile(one: Located) -> drawings.Tile:
    picture = drawings.grey(read_picture(one.path), _SIDE)
    heated = drawings.heated(picture, on_stored_pixels(one.attention, (_SIDE, _SIDE)))
    frames: list[tuple[Sequence[float], drawings.Colour]] = [(one.drawn.box, drawings.TRUE)]
    if one.found:
        frames.append((one.found, drawings.FOUND))
    told = f"IoU {one.overlap:.2f}, oracle {one.oracle:.2f}" if one.found else "the map is empty"
    lines = (
        drawings.plain(one.drawn.label),
        one.drawn.stem,
        told + ("" if one.shown else ", not flagged"),
    )
    return drawings.Tile(drawings.framed(heated, frames), lines)
