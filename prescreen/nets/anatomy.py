"""From the segmentation network's sigmoids to `Anatomy`: one connected piece an organ."""

from __future__ import annotations

import numpy as np

from prescreen.study import Anatomy, BoolArray, FloatArray

THRESHOLD = 0.5


def anatomy_of(sigmoids: FloatArray) -> Anatomy:
    """The masks in (3, h, w) sigmoids: above 0.5, lungs end at the heart, largest piece each."""
    drawn = sigmoids > THRESHOLD
    drawn[:2] &= ~drawn[2]
    masks = np.stack([largest_piece(mask) for mask in drawn])
    left, right, heart = (
        float(sigmoid[mask].mean()) if mask.any() else 0.0
        for sigmoid, mask in zip(sigmoids, masks, strict=True)
    )
    return Anatomy(masks, (left, right, heart))


def largest_piece(mask: BoolArray) -> BoolArray:
    """The largest 4-connected piece of a (h, w) mask; the first of equals; nothing of nothing."""
    rows, starts, ends = _runs(mask)
    if rows.size == 0:
        return np.zeros_like(mask)
    piece = _pieces(rows, starts, ends)
    lengths = np.bincount(piece, weights=ends - starts)
    kept = piece == int(lengths.argmax())
    result = np.zeros_like(mask)
    for row, start, end in zip(rows[kept], starts[kept], ends[kept], strict=True):
        result[row, start:end] = True
    return result


def _runs(mask: BoolArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and last column + 1 of every run of True, in reading order."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _pieces(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each run the index of the first run of its piece: union-find over adjacent rows."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = 0
    row_of, start_of, end_of = rows.tolist(), starts.tolist(), ends.tolist()
    for i in range(len(parent)):
        while row_of[above] < row_of[i] - 1:
            above += 1
        j = above
        while row_of[j] == row_of[i] - 1 and start_of[j] < end_of[i]:
            if end_of[j] > start_of[i]:
                a, b = root(i), root(j)
                parent[max(a, b)] = min(a, b)
            j += 1
        while above < i and row_of[above] == row_of[i] - 1 and end_of[above] <= start_of[i]:
            above += 1
    return np.array([root(i) for i in range(len(parent))])
