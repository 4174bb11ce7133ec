"""From the segmentation network's sigmoids to `Anatomy`: one connected piece an organ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prescreen.study import Anatomy, BoolArray, FloatArray

THRESHOLD = 0.5
#: Of the rule below; to be raised whenever the same sigmoids give other masks.
RULE = 2

#: Cells to a side that the findings' features are weighted by, in training and in use.
CELLS = 64

_Places = npt.NDArray[np.intp]


def anatomy_of(sigmoids: FloatArray) -> Anatomy:
    """The masks (3, 2h, 2w) in (3, h, w) sigmoids: above 0.5, lungs end at the heart.

    They are twice as fine, so that an outline runs where the sigmoids cross the threshold and not
    along the borders of their cells. Of each organ the largest piece, without holes: what a network
    leaves out inside of a lung is a vessel or a shadow, not the end of the lung.
    """
    sigmoids = np.ascontiguousarray(sigmoids)  # an organ at a time, other than networks give them
    masks = np.zeros((len(sigmoids), *(2 * n for n in sigmoids.shape[1:])), dtype=np.bool_)
    rows, columns = _around(sigmoids.max(axis=0) > THRESHOLD)
    fine = doubled(doubled(sigmoids[:, rows, columns], axis=1), axis=2)
    drawn = fine > THRESHOLD
    drawn[:2] &= ~drawn[2]
    drawn = np.stack([solid(mask) for mask in drawn])
    drawn[:2] &= ~drawn[2]
    rows, columns = (slice(2 * side.start, 2 * side.stop) for side in (rows, columns))
    masks[:, rows, columns] = drawn
    left, right, heart = (
        float(sigmoid[mask].mean()) if mask.any() else 0.0
        for sigmoid, mask in zip(fine, drawn, strict=True)
    )
    return Anatomy(masks, (left, right, heart))


def shares(masks: BoolArray) -> FloatArray:
    """The share of each cell that an organ covers, (n, CELLS, CELLS) of 0…1.

    From masks (n, h, w) whose sides are multiples of CELLS, as those of `anatomy_of` are.
    """
    count, height, width = masks.shape
    bands = masks.view(np.uint8).reshape(count, CELLS, height // CELLS, width)
    rows = np.add.reduce(bands, axis=2, dtype=np.uint16)
    cells = rows.reshape(count, CELLS, CELLS, width // CELLS).sum(axis=3, dtype=np.uint16)
    return np.asarray(cells * (CELLS**2 / (height * width)), np.float32)


def _around(mask: BoolArray) -> tuple[slice, slice]:
    """The box of what is set and one cell more to each side; nothing of nothing."""
    places = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(max(p[0] - 1, 0), p[-1] + 2) if p.size else slice(0, 0) for p in places)
    return rows, columns


def doubled(values: FloatArray, axis: int) -> FloatArray:
    """Twice as many values along the axis, each between its neighbours; the outermost go on."""
    shape = list(values.shape)
    shape[axis] *= 2
    twice = np.empty(shape, np.float32)
    cells, halves = np.moveaxis(values, axis, 0), np.moveaxis(twice, axis, 0)
    halves[:1], halves[-1:] = cells[:1], cells[-1:]
    quarters = (cells[1:] - cells[:-1]) / 4
    np.add(cells[:-1], quarters, out=halves[1:-1:2])
    np.subtract(cells[1:], quarters, out=halves[2::2])
    return twice


def solid(mask: BoolArray) -> BoolArray:
    """The largest piece of a (h, w) mask and whatever it encloses.

    Most masks are that already: then it is returned as it is.
    """
    piece, has_hole = _largest(mask)
    return _filled(piece) if has_hole else piece


def largest_piece(mask: BoolArray) -> BoolArray:
    """The largest 4-connected piece of a (h, w) mask; the first of equals; nothing of nothing."""
    return _largest(mask)[0]


def _largest(mask: BoolArray) -> tuple[BoolArray, bool]:
    """The largest piece, and whether it encloses something.

    Of one piece, runs less joints are one less its holes (Euler); joints at corners are none.
    """
    rows, starts, ends = _runs(mask)
    if rows.size == 0:
        return mask, False
    touching = _touching(rows, starts, ends, mask.shape[1])
    piece = _pieces(rows.size, touching)
    lengths = np.bincount(piece, weights=ends - starts)
    largest = piece == int(lengths.argmax())
    if not largest.all():
        mask = _painted(mask.shape, *(a[largest] for a in (rows, starts, ends)))
    return mask, bool(largest.sum() <= largest[touching[0]].sum())


def _filled(mask: BoolArray) -> BoolArray:
    """The (h, w) mask, one 4-connected piece, and whatever it encloses."""
    outside = np.pad(~mask, 1, constant_values=True)
    rows, starts, ends = _runs(outside)
    piece = _pieces(len(rows), _touching(rows, starts, ends + 1, outside.shape[1] + 1))
    around = _painted(outside.shape, *(a[piece == piece[0]] for a in (rows, starts, ends)))
    result: BoolArray = ~around[1:-1, 1:-1]
    return result


def _runs(mask: BoolArray) -> tuple[_Places, _Places, _Places]:
    """Row, first column and last column + 1 of every run of True, in reading order."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1).ravel()
    # found in a flat array and then divided: five times as fast as in two dimensions
    rows, starts = np.divmod(np.flatnonzero(edges == 1), mask.shape[1] + 1)
    return rows, starts, np.flatnonzero(edges == -1) % (mask.shape[1] + 1)


def _touching(rows: _Places, starts: _Places, ends: _Places, width: int) -> tuple[_Places, _Places]:
    """Pairs of runs, the upper and the lower, that lie in adjacent rows and share a column."""
    place = rows * (width + 1)
    # of the runs of the row above, those that end after this one starts and start before it ends
    first = np.searchsorted(place + ends, place - (width + 1) + starts, side="right")
    last = np.searchsorted(place + starts, place - (width + 1) + ends, side="left")
    count = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(rows)), count)
    upper = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return upper + np.repeat(first, count), lower


def _pieces(count: int, touching: tuple[_Places, _Places]) -> _Places:
    """For each run the first run of its piece: union-find over those that touch.

    Each run hangs from the first that touches it from above; whole chains are followed at once.
    Where it touches more of them, which is rare, their chains are joined one by one.
    """
    upper, lower = touching
    above = np.arange(count)
    is_first = np.diff(lower, prepend=-1) > 0
    above[lower[is_first]] = upper[is_first]
    while True:
        further = above[above]
        if (further == above).all():
            break
        above = further
    parent = {root: root for root in np.unique(above).tolist()}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    pairs = (above[side[~is_first]].tolist() for side in (upper, lower))
    for one, other in zip(*pairs, strict=True):
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    first = np.arange(count)
    for i in parent:
        first[i] = root(i)
    found: _Places = first[above]
    return found


def _painted(shape: tuple[int, ...], rows: _Places, starts: _Places, ends: _Places) -> BoolArray:
    """A mask of these runs."""
    result = np.zeros(shape, dtype=np.bool_)
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        result[row, start:end] = True
    return result
