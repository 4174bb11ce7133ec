"""Ink on a page: text, lines and outlines drawn into an array of pixels.

A page is uint8, (rows, columns, 3), RGB. It is drawn up with Aileron (CC0), which Pillow carries
within itself; letters of other fonts stand on the same line. A text is rendered once and its mask
kept.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from prescreen.dicom.language import Face
from prescreen.study import FloatArray

Page = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
_Places = npt.NDArray[np.intp]

#: What the page was drawn up with.
AILERON = Face()

#: Rows that are converted at a time: few enough to stay in the processor's cache.
_BLOCK = 32


#: Signs that stand alone in scripts without blanks, with what may not begin a line after them.
_BREAKS = re.compile(
    r"[\u2e80-\u9fff\uf900-\ufaff][\u3001-\u3011\uff00-\uff1f]*"
    r"|[^\s\u2e80-\u9fff\uf900-\ufaff]+|\s+"
)


@functools.lru_cache(maxsize=64)
def _drawn_up_with(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font


@functools.lru_cache(maxsize=64)
def _font(size: int, face: Face, bold: bool) -> ImageFont.FreeTypeFont:
    if not face.path:
        return _drawn_up_with(size)
    path = face.bold if bold and face.bold else face.path
    return ImageFont.truetype(path, round(size * face.scale), face.index)


@functools.lru_cache(maxsize=1024)
def _block(text: str, size: int, colour: Colour, ground: Colour, bold: bool, face: Face) -> Page:
    """The text on its ground, a box as high as the font."""
    ink = _mask(text, size, bold, face)[:, :, None]
    block = np.array(ground, np.uint16) * (256 - ink) + np.array(colour, np.uint16) * ink
    return (block >> 8).astype(np.uint8)


def _mask(text: str, size: int, bold: bool, face: Face) -> npt.NDArray[np.uint16]:
    """How much ink lies on each pixel, 0…256.

    Bold, where the font has no such letters, is drawn letter by letter, set further apart.
    """
    font, by_stroke = _font(size, face, bold), bold and not face.bold
    stroke = size / 36 if by_stroke else 0.0
    canvas = Image.new("L", (max(width_of(text, size, bold, face), 1), height_of(size)))
    draw, x = ImageDraw.Draw(canvas), stroke
    # the line that letters stand on is where the page was drawn up to have it
    y = _drawn_up_with(size).getmetrics()[0] - font.getmetrics()[0]
    for part in text if by_stroke else (text,):
        draw.text((x, y), part, fill=255, font=font, stroke_width=stroke)
        x += font.getlength(part) + stroke
    return np.asarray(canvas, np.uint16) * 257 // 255


@functools.lru_cache(maxsize=1024)
def width_of(text: str, size: int, bold: bool = False, face: Face = AILERON) -> int:
    """Columns that the text takes."""
    font = _font(size, face, bold)
    if not bold or face.bold:
        return int(font.getlength(text)) + 2
    return int(sum(font.getlength(letter) + size / 36 for letter in text) + size / 18) + 2


@functools.lru_cache(maxsize=64)
def height_of(size: int) -> int:
    """Rows that a line of this size takes."""
    return sum(_drawn_up_with(size).getmetrics())


def write(
    page: Page,
    x: int,
    y: int,
    text: str,
    size: int,
    colour: Colour,
    *,
    ground: Colour,
    bold: bool = False,
    face: Face = AILERON,
) -> int:
    """Write with the upper left corner at (x, y), cut at the page's edge; the column after it.

    `ground` is what the text stands on; it is painted over.
    """
    block = _block(text, size, colour, ground, bold, face)
    under = page[y : y + block.shape[0], x : x + block.shape[1]]
    under[:] = block[: under.shape[0], : under.shape[1]]
    return x + int(block.shape[1])


def wrapped(text: str, size: int, width: int, face: Face = AILERON) -> list[str]:
    """The text in lines no wider than `width`, broken at blanks, and between Chinese signs."""
    lines = [""]
    for part in _BREAKS.findall(text):
        longer = lines[-1] + part
        if width_of(longer.rstrip(), size, face=face) <= width or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(part)
    return [line.strip() for line in lines if line.strip()] or [""]


def fill(page: Page, x: int, y: int, width: int, height: int, colour: Colour) -> None:
    """A filled rectangle, cut at the page's edge."""
    under = page[y : y + height, x : x + width]
    under[:1] = colour
    under[1:] = under[:1]  # whole rows are copied much faster than colours


def fitted(pixels: FloatArray, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The radiograph at the largest size that fits, its aspect kept; 0…1 becomes 0…255."""
    rows, columns = pixels.shape
    scale = min(height / rows, width / columns)
    size = max(int(columns * scale), 1), max(int(rows * scale), 1)
    grey = np.empty(pixels.shape, np.uint8)
    for start in range(0, rows, _BLOCK):
        block = slice(start, start + _BLOCK)
        grey[block] = pixels[block] * np.float32(255)
    step = int(1 / scale)
    if step > 1:
        grey = np.asarray(Image.fromarray(grey).reduce(step))
    return _between(grey, size[1], size[0])


def _between(grey: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Grey values between those of four neighbours: bilinear, in half the time of a general filter.

    In bands that stay in the processor's cache; 256 steps between two pixels are all that shows.
    """
    above, below, down = _places(grey.shape[0], rows)
    left, right, across = _places(grey.shape[1], columns)
    result = np.empty((rows, columns), np.uint8)
    for start in range(0, rows, 2 * _BLOCK):
        band = slice(start, start + 2 * _BLOCK)
        mixed = _mixed(grey[above[band]], grey[below[band]], down[band, None])
        result[band] = _mixed(mixed.take(left, axis=1), mixed.take(right, axis=1), across)
    return result


def _mixed(
    first: npt.NDArray[Any], second: npt.NDArray[Any], share: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint16]:
    """`share` 256ths of the second, the rest of the first; grey values in and out."""
    mixed, other = first.astype(np.uint16), second.astype(np.uint16)
    mixed *= 256 - share
    other *= share
    mixed += other
    mixed += 128  # halves go up; 255 * 256 + 128 still fits
    mixed >>= 8
    return mixed


def _places(count: int, wanted: int) -> tuple[_Places, _Places, npt.NDArray[np.uint16]]:
    """For each of `wanted` places among `count` pixels its two neighbours, and 256ths between."""
    places = np.clip((np.arange(wanted) + 0.5) * count / wanted - 0.5, 0, count - 1)
    first = places.astype(np.intp)
    share = np.rint((places - first) * 256).astype(np.uint16)
    return first, np.minimum(first + 1, count - 1), share


def draw_line(area: Page, points: FloatArray, colour: Colour, thickness: int) -> None:
    """A line through `points`, (n, 2), each (column, row) of `area` as `outline` has them."""
    margin = thickness + 1
    first = np.floor(points.min(axis=0)).astype(int) - margin
    wide, tall = np.ceil(points.max(axis=0)).astype(int) + margin - first
    canvas = Image.new("L", (int(wide), int(tall)))
    # the middle of a pixel is what the library counts from
    places = [tuple(point) for point in (points - first - 0.5).tolist()]
    ImageDraw.Draw(canvas).line(places, fill=1, width=thickness, joint="curve")
    # found in a flat array and then divided: five times as fast as np.nonzero in two dimensions
    drawn = np.asarray(canvas).view(np.bool_)
    rows, columns = np.divmod(np.flatnonzero(drawn), wide)
    rows, columns = rows + first[1], columns + first[0]
    inside = (rows >= 0) & (columns >= 0) & (rows < area.shape[0]) & (columns < area.shape[1])
    area[rows[inside], columns[inside]] = colour


def measure(area: Page, row: int, first: int, last: int, colour: Colour, thickness: int) -> None:
    """A horizontal line from column `first` to `last` with an upright at either end."""
    arm = 5 * thickness
    row = min(max(row, arm), area.shape[0] - arm - 1)
    fill(area, first, row - thickness // 2, max(last - first, 1), thickness, colour)
    for end in (first, last - thickness):
        fill(area, max(end, 0), row - arm, thickness, 2 * arm, colour)
