"""One way from radiograph to network input, and it keeps rows rows and columns columns."""

from __future__ import annotations

import numpy as np
import torch

from prescreen.nets import inputs


def test_a_point_of_an_oblong_radiograph_lands_where_it_belongs() -> None:
    pixels = np.zeros((3000, 1500), dtype=np.float32)
    pixels[600:612, 1200:1206] = 1.0  # 0.202 of the rows, 0.802 of the columns
    square = inputs.common_square(pixels)[0, 0]
    row, column = divmod(int(square.argmax()), inputs.COMMON_SIZE)
    assert abs((row + 0.5) / inputs.COMMON_SIZE - 606 / 3000) < 1 / inputs.COMMON_SIZE
    assert abs((column + 0.5) / inputs.COMMON_SIZE - 1203 / 1500) < 1 / inputs.COMMON_SIZE


def test_a_fine_pattern_is_averaged_and_not_sampled() -> None:
    rows, columns = np.indices((2048, 2048))
    board = ((rows + columns) % 2).astype(np.float32)
    square = inputs.common_square(board)
    assert torch.allclose(square[..., 4:-4, 4:-4], torch.tensor(0.5), atol=1e-3)


def test_contrast_and_brightness_make_no_difference() -> None:
    picture = torch.rand(1, 1, 256, 256)
    stretched = inputs.stretch(picture)
    assert torch.allclose(stretched, inputs.stretch(0.2 * picture + 0.5), atol=1e-4)
    assert stretched.min() == 0 and stretched.max() == 1


def test_a_blank_picture_stays_finite() -> None:
    stretched = inputs.stretch(torch.full((1, 1, 256, 256), 0.7))
    assert stretched.isfinite().all() and stretched.max() < 1e-3


def test_read_only_pixels_are_taken_as_they_are() -> None:
    pixels = np.full((600, 700), 0.25, dtype=np.float32)
    pixels.flags.writeable = False
    assert torch.allclose(inputs.common_square(pixels), torch.tensor(0.25))
