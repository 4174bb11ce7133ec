"""Masks → outlines: the border of an organ as a closed line in pixels of the stored image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prescreen.study import BoolArray, FloatArray

#: Points of an outline: enough for a lung at the size of a screen, and few kilobytes.
POINTS = 120
#: Cells of the mask's grid over which its steps are smoothed away, to either side.
_SMOOTH = 2

_Steps = dict[tuple[int, int], list[tuple[int, int]]]


def outline(mask: BoolArray, rows: int, columns: int) -> FloatArray | None:
    """The longest border of `mask`, which spans an image of `rows` by `columns` pixels.

    float32, (POINTS + 1, 2), each point (column, row) with (0, 0) the outer corner of the first
    pixel (PS3.3 C.18.6.1.1); the last point is the first. None where the mask is empty.
    """
    loops = _loops(_steps(mask))
    if not loops:
        return None
    line = _smoothed(np.array(max(loops, key=len), np.float64))
    scale = np.array([columns / mask.shape[1], rows / mask.shape[0]])
    points = np.clip(_spaced(line)[:, ::-1] * scale, 0, [columns, rows])
    return np.asarray(points, np.float32)


def _steps(mask: BoolArray) -> _Steps:
    """From each corner of the grid the next ones along the border, the mask on the right hand."""
    inside = np.pad(mask, 1)
    steps: _Steps = {}
    # of a cell that is set: the neighbour that must not be, where the step begins and where it ends
    sides = (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 1)),
        ((1, 0), (1, 1), (1, 0)),
        ((0, -1), (1, 0), (0, 0)),
    )
    for neighbour, begin, end in sides:
        beyond = np.roll(inside, (-neighbour[0], -neighbour[1]), (0, 1))
        # found in a flat array and then divided: five times as fast as in two dimensions
        rows, columns = np.divmod(np.flatnonzero(inside & ~beyond), inside.shape[1])
        for row, column in zip((rows - 1).tolist(), (columns - 1).tolist(), strict=True):
            corner = (row + begin[0], column + begin[1])
            steps.setdefault(corner, []).append((row + end[0], column + end[1]))
    return steps


def _loops(steps: _Steps) -> list[list[tuple[int, int]]]:
    loops = []
    while steps:
        corner = next(iter(steps))
        loop = []
        while corner in steps:
            loop.append(corner)
            following = steps[corner].pop()
            if not steps[corner]:
                del steps[corner]
            corner = following
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
