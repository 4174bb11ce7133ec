"""The page of where the network looked: an unmarked copy of the radiograph, a picture a finding.

A page of its own, after the one that says what was found: it explains a flag and adds none. The
warmth of a picture is relative to its own hottest place. Nothing has an edge that could be taken
for the outline of a disease.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from prescreen.dicom import ink, wording
from prescreen.dicom.attention import spread
from prescreen.dicom.ink import Colour, Page
from prescreen.dicom.page import (
    DIM,
    LOUD,
    TEXT,
    WHITE,
    Grid,
    blank,
    grid_of,
    made_in_words,
    state_in_words,
    versions,
)
from prescreen.settings import Report
from prescreen.study import Finding, FloatArray, ImageResult, Model, Radiograph

HEAT: Colour = (255, 98, 10)
#: Findings on one page: as many as can be looked at from a metre away.
PER_PAGE = 3
#: Below this share of the hottest place nothing is coloured, at it so much of the picture is.
_FROM, _MOST = 0.15, 0.75


@dataclass(frozen=True)
class Looked:
    """What the page speaks of: maps (h, w), 0…1, by label, in order, and who made them when.

    `number` is which of how many such pages of the image it is.
    """

    result: ImageResult
    maps: Mapping[str, FloatArray]
    model: Model
    made: datetime.datetime
    replaces: datetime.datetime | None = None
    below_bar: frozenset[str] = frozenset()
    number: tuple[int, int] = (1, 1)


def portions(maps: Mapping[str, FloatArray]) -> list[dict[str, FloatArray]]:
    """The maps of one page each, in order."""
    listed = list(maps.items())
    return [dict(listed[start : start + PER_PAGE]) for start in range(0, len(listed), PER_PAGE)]


@dataclass(frozen=True)
class _Tiles:
    """Where pictures of one size stand: so many beside each other, each under its caption."""

    across: int
    left: int
    top: int
    width: int
    height: int

    def place(self, number: int) -> tuple[int, int]:
        """Column and row of the upper left corner of a tile."""
        row, column = divmod(number, self.across)
        return self.left + column * self.width, self.top + row * self.height


def draw(looked: Looked, radiograph: Radiograph, settings: Report) -> Page:
    """The page, uint8, as large as the other, RGB. Times are shown as they are given."""
    grid, said = grid_of(settings), looked.result
    said = replace(said, findings=tuple(wording.ordered(said.findings, settings.urgency)))
    looked = replace(looked, result=said)
    page = blank(grid).copy()
    top = _draw_head(page, grid, looked.number)
    bottom = _draw_notes(page, grid, looked)
    findings = {finding.label: finding for finding in looked.result.findings}
    tiles = _tiles(grid, top, bottom, len(looked.maps) + 1, radiograph)
    caption, gap = _caption(grid), grid(24)
    size = tiles.height - caption - gap, tiles.width - gap
    grey = ink.fitted(radiograph.pixels, *size)
    _draw_tile(page, tiles.place(0), caption, np.repeat(grey[..., None], 3, axis=2), size)
    x, y = tiles.place(0)
    grid.write(page, x, y, grid.words.catalogue.looked.unmarked, grid(29), TEXT)
    for number, (label, attention) in enumerate(looked.maps.items(), start=1):
        place = tiles.place(number)
        _draw_tile(page, place, caption, heated(grey, attention), size)
        _draw_caption(page, grid, place, findings[label], label in looked.below_bar)
    return page


def heated(grey: npt.NDArray[np.uint8], attention: FloatArray) -> Page:
    """The picture with a map laid over it, warm where the network looked most."""
    share = spread(attention, *grey.shape)
    share *= np.float32(1 / max(float(attention.max()), 1e-12))
    share -= np.float32(_FROM)
    share *= np.float32(_MOST / (1 - _FROM))
    np.maximum(share, 0, out=share)
    below = grey.astype(np.float32)
    picture = np.empty((*grey.shape, 3), np.uint8)
    for channel, colour in enumerate(HEAT):  # one after the other: three times as fast as together
        picture[..., channel] = below + share * (np.float32(colour) - below) + np.float32(0.5)
    return picture


def _draw_head(page: Page, grid: Grid, number: tuple[int, int]) -> int:
    """What the page is and is not, and the scale; the row after it."""
    y, words = grid.band + grid(10), grid.words.catalogue
    title = words.looked.name + (f" ({number[0]}/{number[1]})" if number[1] > 1 else "")
    grid.write(page, grid(24), y, title, grid(52), WHITE, bold=True)
    _draw_scale(page, grid, y + grid(20))
    is_not = f"{words.looked.is_not} {words.says.no_exclusion}"
    grid.write(page, grid(24), y + grid(66), is_not, grid(31), WHITE)
    return y + grid(120)


def _draw_scale(page: Page, grid: Grid, y: int) -> None:
    """From least to most, at the right edge."""
    size, width, looked = grid(23), grid(220), grid.words.catalogue.looked
    x = grid.right - grid.width_of(looked.most, size)
    grid.write(page, x, y, looked.most, size, DIM)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None]
    band = heated(np.full((grid(22), width), 70, np.uint8), ramp)
    x -= width + grid(10)
    page[y + grid(3) : y + grid(3) + band.shape[0], x : x + width] = band
    x -= grid.width_of(looked.least, size) + grid(10)
    grid.write(page, x, y, looked.least, size, DIM)


def _draw_notes(page: Page, grid: Grid, looked: Looked) -> int:
    """From the bottom up: when and by what it was made, and what the pictures are worth; the row
    before it."""
    y = grid.rows - grid.band - grid(44)
    made = made_in_words(grid.words, looked.made, looked.replaces)
    grid.write(page, grid(24), y, made, grid(27), TEXT)
    told = versions(looked.model)
    x = grid.right - grid.width_of(told, grid(20))
    grid.write(page, x, y + grid(6), told, grid(20), DIM)
    size = grid(23)
    lines = [
        (line, colour)
        for note, colour in _notes(grid, looked)
        for line in ink.wrapped(note, size, grid.right - grid(24), grid.face)
    ]
    y -= grid(4)
    for line, colour in reversed(lines):
        y -= grid(30)
        grid.write(page, grid(24), y, line, size, colour)
    return y - grid(8)


def _notes(grid: Grid, looked: Looked) -> Iterator[tuple[str, Colour]]:
    words, says = grid.words, grid.words.catalogue.looked
    yield says.scaled, TEXT
    figures = {label: looked.model.figures_of(label).pointing for label in looked.maps}
    hits = [
        says.hit.format(
            finding=words.name_of(label),
            number=round(100 * pointing.hit_rate),
            fixed=round(100 * pointing.to_beat),
        )
        for label, pointing in figures.items()
        if pointing is not None
    ]
    yield says.hits.format(listed=words.catalogue.says.between.join(hits)), TEXT
    loud = wording.in_state(looked.result.findings, *wording.LOUD)
    unproven = [f for f in loud if f.label not in looked.model.pointing_proven]
    if unproven:
        yield says.not_proven.format(listed=words.names(unproven)), TEXT
    if looked.below_bar & set(looked.maps):
        yield f"* {words.catalogue.says.below_release_bar}", LOUD


def _caption(grid: Grid) -> int:
    return grid(72)


def _tiles(grid: Grid, top: int, bottom: int, number: int, radiograph: Radiograph) -> _Tiles:
    """As many tiles beside each other as make the pictures largest."""
    rows, columns = radiograph.pixels.shape
    width, gap = grid.right, grid(24)  # the last tile's gap is the page's edge

    def of(across: int) -> tuple[float, _Tiles]:
        down = math.ceil(number / across)
        tile = _Tiles(across, grid(24), top, width // across, (bottom - top) // down)
        high, wide = tile.height - _caption(grid) - gap, tile.width - gap
        return min(high / rows, wide / columns), tile

    return max((of(across) for across in range(1, number + 1)), key=lambda made: made[0])[1]


def _draw_tile(
    page: Page, place: tuple[int, int], caption: int, picture: Page, size: tuple[int, int]
) -> None:
    x, y = place[0], place[1] + caption
    area = page[y : y + size[0], x : x + size[1]]
    area[: picture.shape[0], : picture.shape[1]] = picture


def _draw_caption(
    page: Page, grid: Grid, place: tuple[int, int], finding: Finding, marked: bool
) -> None:
    x, y = place
    name = grid.words.name_of(finding.label) + (" *" if marked else "")
    grid.write(page, x, y, name, grid(29), WHITE, bold=True)
    state = state_in_words(grid.words, finding.state)
    grid.write(page, x, y + grid(37), state, grid(23), LOUD, bold=True)
