"""Attention maps on the pixels of an image: where the network looked, never where a disease ends.

A map (h, w), 0…1, spans the whole radiograph, whatever its size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from prescreen.dicom.outlines import outline
from prescreen.study import BoolArray, FloatArray

#: A region is the part around the hottest place that is at least so hot, in shares of its heat.
LEVEL = 0.5
#: Cells a side of the grid that a region is cut out on.
_GRID = 96


def spread(attention: FloatArray, rows: int, columns: int) -> FloatArray:
    """The map at `rows` by `columns`, float32, 0…1, bilinear between the centres of its cells."""
    small = Image.fromarray(np.ascontiguousarray(attention, np.float32), mode="F")
    large = small.resize((columns, rows), Image.Resampling.BILINEAR)
    return np.array(large, np.float32)


def looked_at(attention: FloatArray, rows: int, columns: int) -> FloatArray | None:
    """A closed line around where the network looked most, in pixels of the image.

    float32, (n, 2), each point (column, row), as `outline` has them. None where the map is empty.
    """
    piece = _around_the_hottest(attention)
    return None if piece is None else outline(piece, rows, columns)


def _around_the_hottest(attention: FloatArray) -> BoolArray | None:
    """The connected piece of at least LEVEL that holds the hottest cell, (_GRID, _GRID)."""
    highest = float(attention.max())
    if not highest > 0:
        return None
    place = np.unravel_index(int(attention.argmax()), attention.shape)
    hot = spread(attention, _GRID, _GRID) >= LEVEL * highest
    row, column = (
        int((at + 0.5) * _GRID / side) for at, side in zip(place, attention.shape, strict=True)
    )
    piece = np.zeros_like(hot)
    piece[row, column] = True
    while True:
        grown = _grown(piece) & (hot | piece)
        if np.array_equal(grown, piece):
            return piece
        piece = grown


def _grown(piece: BoolArray) -> BoolArray:
    """With the cells above, below, left and right of it."""
    grown = piece.copy()
    grown[1:] |= piece[:-1]
    grown[:-1] |= piece[1:]
    grown[:, 1:] |= piece[:, :-1]
    grown[:, :-1] |= piece[:, 1:]
    return grown
