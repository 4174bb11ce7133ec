"""A map of the networks' grid, brought back to stored pixels, keeps its place on each axis."""

from __future__ import annotations

import numpy as np
import pytest

from prescreen.nets.attention import on_stored_pixels


@pytest.mark.parametrize("shape", [(1955, 1841), (700, 1400), (1400, 700)])
@pytest.mark.parametrize("cell", [(0, 6), (6, 0), (2, 5)])
def test_the_hottest_cell_is_hottest_where_it_lies(
    shape: tuple[int, int], cell: tuple[int, int]
) -> None:
    grid = np.zeros((7, 7), dtype=np.float32)
    grid[cell] = 1.0
    large = on_stored_pixels(grid, shape)
    assert large.shape == shape and large.dtype == np.float32
    centre = tuple(int((place + 0.5) * side / 7) for place, side in zip(cell, shape, strict=True))
    assert large[centre] == pytest.approx(1.0, abs=0.01)
    mirrored = large[centre[1] * shape[0] // shape[1], centre[0] * shape[1] // shape[0]]
    assert mirrored == 0.0, "rows and columns are not swapped"


def test_it_stays_between_nothing_and_one() -> None:
    grid = np.random.default_rng(0).random((7, 7), dtype=np.float32)
    large = on_stored_pixels(grid, (100, 60))
    assert large.min() >= 0.0 and large.max() <= 1.0
