"""The radiograph on the page: as large as fits, every grey value where it was."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from prescreen.dicom.ink import fitted


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1024, 1024), (856, 856)),
        ((2048, 2048), (856, 856)),
        ((200, 300), (570, 856)),
        ((3000, 1000), (900, 300)),
        ((1, 40), (21, 856)),
        ((901, 856), (900, 855)),
    ],
)
def test_it_is_as_large_as_fits(shape: tuple[int, int], size: tuple[int, int]) -> None:
    for grey in (0.0, 0.5, 1.0):
        picture = fitted(np.full(shape, grey, np.float32), 900, 856)
        assert picture.shape == size
        assert (picture == int(grey * 255)).all()


@pytest.mark.parametrize("side", [300, 700, 1000, 1900])
def test_it_looks_as_pillow_shows_it(side: int) -> None:
    rows, columns = np.mgrid[0:side, 0:side] / side
    pixels = (np.sin(9 * rows) * np.cos(7 * columns) / 2 + 0.5).astype(np.float32)
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    size = (856, 856)
    known = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0), int)
    assert np.abs(fitted(pixels, 900, 856) - known).max() <= 2
