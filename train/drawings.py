"""Figures as PNG: ROC curves, reliability, pages of radiographs. Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from prescreen.study import BoolArray, FloatArray
from train.figures import Numbers
from train.pictures import Picture

Colour = tuple[int, int, int]
Curve = tuple[Numbers, Numbers]
Rgb = npt.NDArray[np.uint8]
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
GREY: Colour = (150, 150, 150)
TRUE: Colour = (230, 60, 50)
FOUND: Colour = (60, 130, 255)
#: Fourteen colours that stay apart on white.
COLOURS: tuple[Colour, ...] = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (90, 90, 90),
    (160, 160, 20),
    (23, 190, 207),
    (0, 60, 120),
    (120, 60, 0),
    (0, 110, 60),
    (150, 0, 90),
)
_FONT, _LEFT, _TOP, _SIDE = 20, 90, 60, 800


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


# ---------------------------------------------------------------- curves in a unit square


def curves(
    path: Path,
    title: str,
    axes: tuple[str, str],
    drawn: Mapping[str, Curve],
    diagonal: bool = True,
) -> None:
    """A unit square with its diagonal, one curve (x, y) for each name, the names as legend."""
    page = Image.new("RGB", (_LEFT + _SIDE + 420, _TOP + _SIDE + 90), WHITE)
    ink = ImageDraw.Draw(page)
    _frame(ink, title, axes, diagonal)
    for k, (name, (x, y)) in enumerate(drawn.items()):
        colour = COLOURS[k % len(COLOURS)]
        points = [_place(a, b) for a, b in zip(x, y, strict=True)]
        ink.line(points, fill=colour, width=3, joint="curve")
        row = _TOP + 10 + 28 * k
        ink.line([(_LEFT + _SIDE + 20, row + 12), (_LEFT + _SIDE + 55, row + 12)], colour, 4)
        ink.text((_LEFT + _SIDE + 65, row), name, fill=BLACK, font=_font(_FONT))
    page.save(path)


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + float(x) * _SIDE, _TOP + (1 - float(y)) * _SIDE


def _frame(ink: ImageDraw.ImageDraw, title: str, axes: tuple[str, str], diagonal: bool) -> None:
    font = _font(_FONT)
    ink.text((_LEFT, 15), title, fill=BLACK, font=_font(_FONT + 2))
    for tenth in range(0, 11, 2):
        share = tenth / 10
        ink.line([_place(share, 0), _place(share, 1)], fill=(225, 225, 225))
        ink.line([_place(0, share), _place(1, share)], fill=(225, 225, 225))
        x, y = _place(share, 0)
        ink.text((x - 12, y + 8), f"{share:.1f}", fill=BLACK, font=font)
        x, y = _place(0, share)
        ink.text((x - 40, y - 12), f"{share:.1f}", fill=BLACK, font=font)
    if diagonal:
        ink.line([_place(0, 0), _place(1, 1)], fill=GREY, width=2)
    ink.rectangle([_place(0, 1), _place(1, 0)], outline=BLACK, width=2)
    ink.text((_LEFT + _SIDE / 3, _TOP + _SIDE + 42), axes[0], fill=BLACK, font=font)
    upright = Image.new("L", (_SIDE, 28), 0)
    ImageDraw.Draw(upright).text((_SIDE / 3, 0), axes[1], fill=255, font=font)
    ink.bitmap((8, _TOP), upright.rotate(90, expand=True), fill=BLACK)


# ---------------------------------------------------------------- one small square for each


def panels(
    path: Path,
    title: str,
    axes: tuple[str, str],
    drawn: Mapping[str, Sequence[tuple[Curve, Colour]]],
) -> None:
    """A small square with its diagonal for each name, the dots of its curves joined.

    All squares reach from 0 to the same end: the least tenth that nothing lies beyond.
    """
    reach = _reach([curve for curves in drawn.values() for curve, _ in curves])
    down = -(-len(drawn) // _ACROSS)
    size = (_ACROSS * _STEP[0] + _GAP, down * _STEP[1] + _TOP + _GAP)
    page = Image.new("RGB", size, WHITE)
    ink = ImageDraw.Draw(page)
    ink.text((_GAP, 15), title, fill=BLACK, font=_font(_FONT + 2))
    for k, (name, curves) in enumerate(drawn.items()):
        corner = (_GAP + k % _ACROSS * _STEP[0], _TOP + 30 + k // _ACROSS * _STEP[1])
        ink.text((corner[0], corner[1] - 26), name, fill=BLACK, font=_font(17))
        _panel(ink, corner, curves, reach)
    ink.text((_GAP, size[1] - 40), f"across: {axes[0]}; up: {axes[1]}", BLACK, _font(17))
    page.save(path)


_ACROSS, _PANEL, _GAP = 5, 220, 50
_STEP = (_PANEL + _GAP, _PANEL + 70)


def _reach(curves: Sequence[Curve]) -> float:
    highest = max((float(v.max()) for curve in curves for v in curve if len(v)), default=1.0)
    return min(1.0, np.ceil(highest * 10) / 10) or 1.0


def _panel(
    ink: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    curves: Sequence[tuple[Curve, Colour]],
    reach: float,
) -> None:
    left, top = corner

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / reach * _PANEL, top + (1 - y / reach) * _PANEL

    ink.rectangle([place(0, reach), place(reach, 0)], outline=BLACK)
    ink.line([place(0, 0), place(reach, reach)], fill=GREY)
    for end in (0.0, reach):
        ink.text((place(end, 0)[0] - 10, top + _PANEL + 4), f"{end:.1f}", BLACK, _font(14))
        ink.text((left - 26, place(0, end)[1] - 8), f"{end:.1f}", BLACK, _font(14))
    for (xs, ys), colour in curves:
        points = [place(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        ink.line(points, fill=colour, width=2, joint="curve")
        for x, y in points:
            ink.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)


# ---------------------------------------------------------------- pages of radiographs


@dataclass(frozen=True)
class Tile:
    """One radiograph of a page, uint8 RGB (s, s, 3), with lines of text below it."""

    picture: Rgb
    lines: tuple[str, ...]


def page(path: Path, title: str, tiles: Sequence[Sequence[Tile]]) -> None:
    """Rows of tiles, all of one size, under a title."""
    side = max(t.picture.shape[0] for row in tiles for t in row) if tiles else 1
    lines = max((len(t.lines) for row in tiles for t in row), default=0)
    step = (side + 10, side + 10 + 22 * lines)
    across = max((len(row) for row in tiles), default=1)
    canvas = Image.new("RGB", (max(900, across * step[0] + 10), 50 + len(tiles) * step[1]), WHITE)
    ink = ImageDraw.Draw(canvas)
    ink.text((10, 12), title, fill=BLACK, font=_font(_FONT))
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            x, y = 10 + j * step[0], 50 + i * step[1]
            canvas.paste(Image.fromarray(tile.picture), (x, y))
            for k, line in enumerate(tile.lines):
                ink.text((x, y + side + 4 + 22 * k), line, fill=BLACK, font=_font(16))
    canvas.save(path)


def grey(picture: Picture, side: int) -> Rgb:
    """A picture as RGB (side, side, 3), its middle 98 % of greys spread from black to white."""
    resized = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    low, high = np.quantile(picture, (0.01, 0.99))
    spread = (np.asarray(resized, dtype=np.float32) - low) * (255.0 / max(high - low, 1.0))
    return np.repeat(spread.round().clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def plain(name: str) -> str:
    """A label or an organ as a page writes it."""
    return name.replace("_", " ")


def heated(picture: Rgb, attention: FloatArray) -> Rgb:
    """The picture with an attention map (h, w) of its size, 0…1, laid over it in warm colours."""
    heat = np.clip(attention, 0.0, 1.0)[:, :, None]
    warm = np.concatenate([np.ones_like(heat), 1.0 - heat * 0.6, np.zeros_like(heat)], axis=2)
    mixed = picture * (1.0 - 0.45 * heat) + warm * 255.0 * 0.45 * heat
    return mixed.round().clip(0, 255).astype(np.uint8)


def framed(picture: Rgb, boxes: Sequence[tuple[Sequence[float], Colour]]) -> Rgb:
    """The picture with boxes (left, top, right, bottom) in shares 0…1 of it."""
    canvas, side = Image.fromarray(picture), picture.shape[0]
    ink = ImageDraw.Draw(canvas)
    for box, colour in boxes:
        ink.rectangle([float(v) * side for v in box], outline=colour, width=3)
    return np.asarray(canvas)


def outlined(picture: Rgb, masks: Sequence[tuple[BoolArray, Colour]]) -> Rgb:
    """The picture with the borders of masks of its own size."""
    drawn = picture.copy()
    for mask, colour in masks:
        drawn[border(mask)] = colour
    return drawn


def border(mask: BoolArray) -> BoolArray:
    """The pixels of a mask (h, w) that have one outside it beside them; the edge is outside."""
    padded = np.pad(mask, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~core
