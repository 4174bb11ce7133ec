"""Of a large image the node keeps means of whole pixels: the same picture, less work."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from prescreen.dicom.image import LEAST_SIDE, Decoder, read_image, render
from prescreen.dicom.render import means
from prescreen.study import FloatArray, Radiograph
from tests.pictures import data_set, saved


def _picture(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 4096, (rows, columns)).astype(np.uint16)


def _by_hand(pixels: FloatArray, step: int) -> FloatArray:
    rows, columns = (range(0, n, step) for n in pixels.shape)
    return np.array([[pixels[r : r + step, c : c + step].mean() for c in columns] for r in rows])


@pytest.mark.parametrize("shape", [(200, 200), (201, 203), (240, 399), (131, 640)])
def test_pixels_are_means_of_those_there_are(shape: tuple[int, int]) -> None:
    ds = data_set(_picture(*shape), BitsStored=12)
    whole = render(ds)
    coarse = render(ds, least_side=66)
    step = min(shape) // 66
    assert step > 1 or shape == (131, 640)
    np.testing.assert_allclose(coarse.pixels, _by_hand(whole.pixels, step), atol=1e-6)
    assert coarse.pixels.dtype == np.float32
    assert coarse.pixels.min() >= 0 and coarse.pixels.max() <= 1
    assert coarse.stored_shape == whole.stored_shape == shape
    assert coarse.pixel_sha256 == whole.pixel_sha256


def test_no_side_falls_below_the_least() -> None:
    for side in (80, 99, 100, 149, 150, 200, 777):
        pixels = render(data_set(_picture(side, side + 40)), least_side=50).pixels
        assert 50 <= min(pixels.shape) < 100 or side < 100


def test_pixels_that_are_not_square_are_made_so_first() -> None:
    ds = data_set(_picture(200, 200), PixelAspectRatio=[2, 1])
    assert render(ds).pixels.shape == (400, 200)
    coarse = render(ds, least_side=100)
    assert coarse.pixels.shape == (200, 100)
    np.testing.assert_allclose(coarse.pixels, means(render(ds).pixels, 2), atol=1e-6)


def test_white_stays_white() -> None:
    for step in range(1, 9):
        assert (means(np.ones((40, 41), np.float32), step) == 1).all()


def test_the_decoder_digests_where_it_is_asked(tmp_path: Path) -> None:
    path = saved(tmp_path, data_set(_picture(1900, 1850)))
    with Decoder(read=partial(read_image, least_side=LEAST_SIDE)) as decoder:
        (asked,) = decoder.read_all([path])
        (unasked,) = decoder.read_all([path], digested=False)
    assert isinstance(asked, Radiograph) and isinstance(unasked, Radiograph)
    assert asked.pixels.shape == unasked.pixels.shape == (950, 925)
    assert asked.pixel_sha256 is not None and unasked.pixel_sha256 is None
