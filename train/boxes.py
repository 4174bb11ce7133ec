"""Where the networks looked against boxes drawn by radiologists (paper, section 5.2 and Table 3).

Two protocols that must not be taken for each other. The paper's is an *oracle*: the box gets the
true width and height, and of all candidates the one nearest to the truth is kept, chosen by looking
at the truth; a fixed grid without any network does as well, so grids are judged beside it. Without
an oracle the box is made of the attention map alone.

A box is (left, top, right, bottom) in shares 0…1 of the radiograph, whatever its size.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from prescreen.nets.anatomy import largest_piece
from prescreen.nets.attention import on_stored_pixels
from prescreen.study import BoolArray, FloatArray
from train.chestxray14 import label_of
from train.pictures import DataError, stem_of

Box = tuple[float, float, float, float]
Point = tuple[float, float]  # column, row
#: Boxes are given in pixels of the original pictures, which are 1024 x 1024.
ORIGINAL = 1024
#: The paper squashes to 256 and keeps the middle 224.
RESIZED, CROPPED = 256, 224
_MARGIN = (RESIZED - CROPPED) // 2
_COLUMNS = ["Image Index", "Finding Label"]


@dataclass(frozen=True)
class DrawnBox:
    """One box of the list: whose radiograph, which finding, where; `original` is as listed."""

    stem: str
    label: str
    box: Box
    original: tuple[float, float, float, float]  # left, top, width, height in pixels of 1024

    @property
    def patient(self) -> str:
        return self.stem.split("_")[0]

    @property
    def centre(self) -> Point:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def read_boxes(path: Path) -> list[DrawnBox]:
    """`BBox_List_2017.csv`: name, finding, left, top, width, height in pixels of the original.

    Raises DataError where it is missing or a row is not so.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: it is BBox_List_2017.csv of the data set")
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header[:2] != _COLUMNS:
        raise DataError(f"{path}: the header does not begin with {', '.join(_COLUMNS)}")
    found = [_parsed(path, number, row) for number, row in enumerate(rows, start=2) if any(row)]
    if not found:
        raise DataError(f"{path} has a header but no rows")
    return found


def _parsed(path: Path, number: int, row: list[str]) -> DrawnBox:
    try:
        left, top, width, height = (float(cell.strip(" []")) for cell in row[2:6])
        label = label_of(row[1])
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not a box of four numbers") from error
    if label is None or min(width, height) <= 0:
        what = f"unknown finding {row[1]!r}" if label is None else "a box without extent"
        raise DataError(f"{path}, line {number}: {what}")
    box = (left, top, left + width, top + height)
    shares = tuple(v / ORIGINAL for v in box)
    return DrawnBox(
        stem_of(row[0]),
        label,
        (shares[0], shares[1], shares[2], shares[3]),
        (left, top, width, height),
    )


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom) in the same units."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


# ---------------------------------------------------------------- the paper's oracle


def in_crop(drawn: DrawnBox) -> tuple[float, float, float, float]:
    """Left, top, width, height in the paper's 224 crop, of whole pixels of 1024; not clipped."""
    left, top, width, height = (int(v) * RESIZED / ORIGINAL for v in drawn.original)
    return left - _MARGIN, top - _MARGIN, width, height


def oracle(drawn: DrawnBox, candidates: Sequence[Point]) -> float:
    """Best IoU of boxes of the true size around candidates (column, row) of the 224 crop.

    Clamped at the left and the top only and truncated, as in the paper. Without a candidate the
    box lies in the corner.
    """
    left, top, width, height = in_crop(drawn)
    truth = (left, top, left + width, top + height)
    best = 0.0
    for column, row in candidates or [(0.0, 0.0)]:
        x, y = max(int(column - width / 2), 0), max(int(row - height / 2), 0)
        best = max(best, iou(truth, (x, y, x + width, y + height)))
    return best


def grid(cells: int) -> list[Point]:
    """Centres of cells x cells equal squares of the crop: candidates that no network made."""
    centres = [(2 * i + 1) * CROPPED / (2 * cells) for i in range(cells)]
    return [(x, y) for y in centres for x in centres]


def peaks(attention: FloatArray) -> list[Point]:
    """The paper's candidates in a map (h, w), 0…1: (column, row) in the 224 crop.

    Local maxima of 5 x 5 that stand out, dilated five times; the centre of each connected piece.
    """
    levels = torch.from_numpy(np.floor(attention * 255.0))[None, None]
    wide = functional.interpolate(levels, (RESIZED, RESIZED), mode="bilinear", align_corners=False)
    inner = slice(_MARGIN, _MARGIN + CROPPED)
    heat = wide[..., inner, inner].round()
    highest = functional.max_pool2d(heat, 5, stride=1, padding=2)
    lowest = -functional.max_pool2d(-heat, 5, stride=1, padding=2)
    found = ((heat == highest) & (highest - lowest > 0.1))[0, 0].numpy()
    return [_centre(piece) for piece in _pieces(_dilated(found, 5))]


def _dilated(mask: BoolArray, times: int) -> BoolArray:
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def _pieces(mask: BoolArray) -> Iterator[BoolArray]:
    while mask.any():
        piece = largest_piece(mask)
        yield piece
        mask = mask & ~piece


def _centre(piece: BoolArray) -> Point:
    rows, columns = np.nonzero(piece)
    return float(columns.mean()), float(rows.mean())


# ---------------------------------------------------------------- without an oracle


def box_of(attention: FloatArray) -> Box | None:
    """The box that an attention map (h, w), 0…1, makes by itself; None of an empty map.

    Split in two by Otsu's threshold, which nobody chose; the box is that of the connected piece
    with the highest mean.
    """
    heat = on_stored_pixels(attention, (RESIZED, RESIZED))
    above = heat > otsu(heat)
    best = max(_pieces(above), key=lambda piece: float(heat[piece].mean()), default=None)
    if best is None:
        return None
    rows, columns = np.flatnonzero(best.any(axis=1)), np.flatnonzero(best.any(axis=0))
    left, top, right, bottom = (
        float(v) / RESIZED for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    )
    return left, top, right, bottom


def otsu(values: FloatArray) -> float:
    """The level, 0…1, that parts values into two kinds with the greatest variance between them."""
    count, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    weight = np.cumsum(count) / max(1, count.sum())
    middle = (edges[:-1] + edges[1:]) / 2
    mean = np.cumsum(count * middle) / max(1, count.sum())
    spread = (mean[-1] * weight - mean) ** 2 / np.clip(weight * (1 - weight), 1e-12, None)
    return float(edges[int(spread.argmax()) + 1])


def hottest(attention: FloatArray) -> Point | None:
    """The centre of the cell looked at most, in shares 0…1; None of an empty map."""
    if not attention.max() > 0:
        return None
    row, column = np.unravel_index(int(attention.argmax()), attention.shape)
    return (int(column) + 0.5) / attention.shape[1], (int(row) + 0.5) / attention.shape[0]


def holds(box: Box, point: Point | None) -> bool:
    """Whether a point lies in a box: a hit of the pointing game."""
    return point is not None and box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def fixed_points(judged: Sequence[DrawnBox], drawn: Sequence[DrawnBox]) -> list[Point | None]:
    """For each judged box the mean centre of its finding's boxes on other radiographs of `drawn`.

    What pointing without looking would do; None where no other radiograph has such a box.
    """
    return [_mean_centre(one, drawn) for one in judged]


def _mean_centre(one: DrawnBox, drawn: Sequence[DrawnBox]) -> Point | None:
    centres = [b.centre for b in drawn if b.label == one.label and b.stem != one.stem]
    if not centres:
        return None
    column, row = np.mean(np.array(centres), axis=0)
    return float(column), float(row)
