"""Masks → outlines: the border of an organ as a closed line in pixels of the stored image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prescreen.study import BoolArray, FloatArray

#: Points of an outline: enough for a lung at the size of a screen, and few kilobytes.
POINTS = 120
#: Cells of the mask's grid over which its steps are smoothed away, to either side.
_SMOOTH = 4

_Corners = npt.NDArray[np.intp]


def outline(mask: BoolArray, rows: int, columns: int) -> FloatArray | None:
    """The longest border of `mask`, which spans an image of `rows` by `columns` pixels.

    float32, (POINTS + 1, 2), each point (column, row) with (0, 0) the outer corner of the first
    pixel (PS3.3 C.18.6.1.1); the last point is the first. None where the mask is empty.
    """
    if not mask.any():
        return None
    begins, ends = _steps(mask)
    longest = max(_loops(begins, ends), key=len)
    corners = np.divmod(begins[longest], mask.shape[1] + 2)
    line = _smoothed(np.stack(corners, axis=1) - 1.0)
    scale = np.array([columns / mask.shape[1], rows / mask.shape[0]])
    points = np.clip(_spaced(line)[:, ::-1] * scale, 0, [columns, rows])
    return np.asarray(points, np.float32)


def _steps(mask: BoolArray) -> tuple[_Corners, _Corners]:
    """The steps along the border, the mask on the right hand: the corners where they begin and end.

    Corners of the grid are counted in reading order, the mask having a margin of one cell.
    """
    inside = np.pad(mask, 1).ravel()
    below = mask.shape[1] + 2  # a row further down
    # of a cell that is set: the neighbour that must not be, where the step begins and where it ends
    sides = (
        (-below, 0, 1),
        (1, 1, below + 1),
        (below, below + 1, below),
        (-1, below, 0),
    )
    begins, ends = [], []
    cells = np.flatnonzero(inside)
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


def _smoothed(line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifts = range(-_SMOOTH, _SMOOTH + 1)
    return np.asarray(sum(np.roll(line, shift, 0) for shift in shifts)) / len(shifts)


def _spaced(line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """POINTS points at equal distances along the closed line, and the first again."""
    closed = np.vstack([line, line[:1]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    places = np.linspace(0, along[-1], POINTS + 1)
    return np.stack([np.interp(places, along, closed[:, axis]) for axis in (0, 1)], axis=1)
