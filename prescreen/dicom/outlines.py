"""Masks → outlines: the border of an organ as a closed line in pixels of the stored image."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from prescreen.study import Anatomy, BoolArray, FloatArray

#: Points of an outline: enough for a lung at the size of a screen, and few kilobytes.
POINTS = 120
#: Cells of the mask's grid over which its steps are smoothed away, to either side.
_SMOOTH = 4

_Corners = npt.NDArray[np.intp]
_Line = npt.NDArray[np.float64]

#: Those of the organs: every object of a study that shows them shows the same.
_KNOWN: WeakKeyDictionary[Anatomy, tuple[_Line | None, ...]] = WeakKeyDictionary()


def outlines(anatomy: Anatomy, rows: int, columns: int) -> list[FloatArray | None]:
    """The outlines of the three organs, in the order of ORGANS, as `outline` gives them."""
    if anatomy not in _KNOWN:
        _KNOWN[anatomy] = tuple(map(_border, anatomy.masks))
    return [_stretched(line, rows, columns) for line in _KNOWN[anatomy]]


def outline(mask: BoolArray, rows: int, columns: int) -> FloatArray | None:
    """The longest border of `mask`, which spans an image of `rows` by `columns` pixels.

    float32, (POINTS + 1, 2), each point (column, row) with (0, 0) the outer corner of the first
    pixel (PS3.3 C.18.6.1.1); the last point is the first. None where the mask is empty.
    """
    return _stretched(_border(mask), rows, columns)


def inside(line: FloatArray, distance: float) -> FloatArray:
    """An outline moved inwards, so that those of neighbours lie beside each other."""
    along = np.roll(line[:-1], -1, 0) - np.roll(line[:-1], 1, 0)
    inwards = along[:, ::-1] * [-1, 1]  # the mask is on the right hand
    moved = line[:-1] + inwards * (distance / np.maximum(np.hypot(*along.T), 1e-6))[:, None]
    return np.asarray(np.vstack([moved, moved[:1]]), np.float32)


def _stretched(line: _Line | None, rows: int, columns: int) -> FloatArray | None:
    return None if line is None else np.asarray(line * [columns, rows], np.float32)


def _border(mask: BoolArray) -> _Line | None:
    """Points (column, row) as shares 0…1 of the mask's grid."""
    occupied = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not occupied[0].size:
        return None
    (top, bottom), (left, right) = ((int(o[0]), int(o[-1]) + 1) for o in occupied)
    begins, ends = _steps(mask[top:bottom, left:right])
    longest = max(_loops(begins, ends), key=len)
    corners = np.stack(np.divmod(begins[longest], right - left + 2), axis=1)
    line = _spaced(_smoothed(corners + np.array([top - 1.0, left - 1.0])))
    return np.clip((line / mask.shape)[:, ::-1], 0, 1)


def _steps(mask: BoolArray) -> tuple[_Corners, _Corners]:
    """The steps along the border, the mask on the right hand: the corners where they begin and end.

    Corners of the grid are counted in reading order, the mask having a margin of one cell.
    """
    padded = np.pad(mask, 1)
    inside = padded.ravel()
    below = mask.shape[1] + 2  # a row further down
    # of a cell that is set: the neighbour that must not be, where the step begins and where it ends
    sides = (
        (-below, 0, 1),
        (1, 1, below + 1),
        (below, below + 1, below),
        (-1, below, 0),
    )
    begins, ends = [], []
    surrounded = np.zeros_like(padded)  # most cells: no step begins there
    surrounded[1:-1, 1:-1] = padded[:-2, 1:-1] & padded[2:, 1:-1]
    surrounded[1:-1, 1:-1] &= padded[1:-1, :-2] & padded[1:-1, 2:]
    cells = np.flatnonzero(padded & ~surrounded)
    for neighbour, begin, end in sides:
        free = cells[~inside[cells + neighbour]]
        begins.append(free + begin)
        ends.append(free + end)
    return np.concatenate(begins), np.concatenate(ends)


def _loops(begins: _Corners, ends: _Corners) -> list[list[int]]:
    """The steps of each closed line in their order.

    As many steps end in a corner as begin there; where these are two, either may follow.
    """
    follows = np.empty_like(begins)
    follows[np.argsort(ends, kind="stable")] = np.argsort(begins, kind="stable")
    following = follows.tolist()
    fresh = [True] * len(following)
    loops = []
    for first in range(len(following)):
        loop, step = [], first
        while fresh[step]:
            fresh[step] = False
            loop.append(step)
            step = following[step]
        if loop:
            loops.append(loop)
    return loops


def _smoothed(line: _Line) -> _Line:
    shifts = range(-_SMOOTH, _SMOOTH + 1)
    return np.asarray(sum(np.roll(line, shift, 0) for shift in shifts)) / len(shifts)


def _spaced(line: _Line) -> _Line:
    """POINTS points at equal distances along the closed line, and the first again."""
    closed = np.vstack([line, line[:1]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    places = np.linspace(0, along[-1], POINTS + 1)
    return np.stack([np.interp(places, along, closed[:, axis]) for axis in (0, 1)], axis=1)
