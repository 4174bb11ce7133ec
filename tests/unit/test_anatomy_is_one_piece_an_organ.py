"""Masks out of sigmoids: finer, threshold, the heart's precedence, the largest piece, no holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prescreen.nets.anatomy import anatomy_of, doubled, largest_piece, shares, solid
from prescreen.study import BoolArray

SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
masks_of_any_kind = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def flooded(
    mask: BoolArray, row: int, column: int, ways: Sequence[tuple[int, int]] = SIDES
) -> set[tuple[int, int]]:
    """The piece at one pixel, the slow and obvious way."""
    found, waiting = set(), [(row, column)]
    while waiting:
        r, c = waiting.pop()
        inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]
        if not inside or not mask[r, c] or (r, c) in found:
            continue
        found.add((r, c))
        waiting += [(r + down, c + right) for down, right in ways]
    return found


@settings(max_examples=150, deadline=None)
@given(masks_of_any_kind)
def test_largest_piece_is_what_flooding_finds(mask: BoolArray) -> None:
    pieces = [flooded(mask, int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)]
    kept = {(int(r), int(c)) for r, c in zip(*np.nonzero(largest_piece(mask)), strict=True)}
    assert kept in pieces or (not pieces and not kept)
    assert len(kept) == max((len(p) for p in pieces), default=0)


@settings(max_examples=150, deadline=None)
@given(masks_of_any_kind)
def test_holes_are_what_water_from_outside_does_not_reach(mask: BoolArray) -> None:
    piece = largest_piece(mask)
    water = flooded(np.pad(~piece, 1, constant_values=True), 0, 0, SIDES + CORNERS)
    dry = np.ones((mask.shape[0] + 2, mask.shape[1] + 2), dtype=np.bool_)
    dry[tuple(zip(*water, strict=True))] = False
    whole = solid(mask)
    assert (whole == dry[1:-1, 1:-1]).all()
    assert solid(whole) is whole


def test_a_lung_has_no_hole_where_a_shadow_lay() -> None:
    sigmoids = np.zeros((3, 32, 32), dtype=np.float32)
    sigmoids[0, 4:28, 18:30] = 1.0
    sigmoids[0, 10:13, 22:25] = 0.2
    with_hole, whole = anatomy_of(sigmoids).masks[0], sigmoids[0].repeat(2, 0).repeat(2, 1) > 0
    assert (with_hole == whole).all()


def test_doubling_is_bilinear() -> None:
    values = np.random.default_rng(1).random((3, 7, 5), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None], scale_factor=2, mode="bilinear", align_corners=False
    )
    found = doubled(doubled(values, axis=1), axis=2)
    assert np.allclose(found, expected[0].numpy(), atol=1e-6)


def test_the_outline_runs_where_the_sigmoids_cross_the_threshold() -> None:
    sigmoids = np.zeros((3, 8, 8), dtype=np.float32)
    sigmoids[1, :, 2], sigmoids[1, :, 3:] = 0.4, 1.0
    sure = anatomy_of(sigmoids).masks[1]
    sigmoids[1, :, 2] = 0.1
    unsure = anatomy_of(sigmoids).masks[1]
    assert sure.shape == (16, 16)
    assert (np.argmax(sure, axis=1) == 5).all()  # half a cell further out
    assert (np.argmax(unsure, axis=1) == 6).all()


def test_lungs_end_where_the_heart_begins_and_certainty_is_of_the_piece() -> None:
    sigmoids = np.zeros((3, 16, 16), dtype=np.float32)
    sigmoids[0, 2:10, 8:14] = 0.9
    sigmoids[2, 6:12, 6:11] = 0.8
    sigmoids[0, 15, 0] = 0.99  # a speck
    anatomy = anatomy_of(sigmoids)
    assert not (anatomy.masks[0] & anatomy.masks[2]).any()
    assert not anatomy.masks[0, 31, 0]
    assert not anatomy.masks[1].any()
    left, right, heart = anatomy.certainty
    assert 0.8 < left < 0.9  # less along its border
    assert right == 0.0
    assert 0.7 < heart < 0.8


@pytest.mark.parametrize("side", [64, 512, 1024])
def test_shares_are_means_of_cells(side: int) -> None:
    masks = np.random.default_rng(1).random((3, side, side)) < 0.3
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), 64)
    assert np.allclose(shares(masks), expected.numpy(), atol=1e-6)
