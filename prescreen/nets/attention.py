"""Attention maps brought back to the pixels of the stored image.

The networks see the whole radiograph squashed to a square, so the way back is a scale for each
axis: cell (r, c) of an h x w map lies over the rows r/h … (r+1)/h and the columns c/w … (c+1)/w of
the image.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from prescreen.study import FloatArray


def on_stored_pixels(attention: FloatArray, stored_shape: tuple[int, int]) -> FloatArray:
    """A map (h, w), 0…1, at (Rows, Columns) of the stored image, float32, 0…1.

    Bilinear between the centres of the cells. Where the network looked; not a lesion outline.
    """
    grid = torch.from_numpy(attention)[None, None]
    large = functional.interpolate(grid, size=stored_shape, mode="bilinear", align_corners=False)
    found: FloatArray = large[0, 0].numpy()
    return found
