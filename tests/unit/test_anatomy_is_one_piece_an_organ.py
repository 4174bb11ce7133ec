"""Masks out of sigmoids: threshold, the heart's precedence, the largest piece."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prescreen.nets.anatomy import anatomy_of, largest_piece
from prescreen.study import BoolArray


def flooded(mask: BoolArray, row: int, column: int) -> set[tuple[int, int]]:
    """The piece at one pixel, the slow and obvious way."""
    found, waiting = set(), [(row, column)]
    while waiting:
        r, c = waiting.pop()
        inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]
        if not inside or not mask[r, c] or (r, c) in found:
            continue
        found.add((r, c))
        waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    return found


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_largest_piece_is_what_flooding_finds(mask: BoolArray) -> None:
    pieces = [flooded(mask, int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)]
    kept = {(int(r), int(c)) for r, c in zip(*np.nonzero(largest_piece(mask)), strict=True)}
    assert kept in pieces or (not pieces and not kept)
    assert len(kept) == max((len(p) for p in pieces), default=0)


def test_lungs_end_where_the_heart_begins_and_certainty_is_of_the_piece() -> None:
    sigmoids = np.zeros((3, 16, 16), dtype=np.float32)
    sigmoids[0, 2:10, 8:14] = 0.9
    sigmoids[2, 6:12, 6:11] = 0.8
    sigmoids[0, 15, 0] = 0.99  # a speck
    anatomy = anatomy_of(sigmoids)
    assert not (anatomy.masks[0] & anatomy.masks[2]).any()
    assert not anatomy.masks[0, 15, 0]
    assert not anatomy.masks[1].any()
    assert np.allclose(anatomy.certainty, (0.9, 0.0, 0.8))
