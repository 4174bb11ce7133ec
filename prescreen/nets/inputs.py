"""From a radiograph of any size to what the networks see: the one way, in training and in use.

Every radiograph is squashed whole to a common square by area averaging, so that nothing at its
border is lost and grids map back to it by plain scaling. The grey scale is then stretched image by
image, because radiographs from other machines differ in little else as much.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

#: Side of the square that both networks' inputs are made from.
COMMON_SIZE = 512
#: The shares of pixels of the coarse picture that become black and white.
STRETCH_QUANTILES = (0.01, 0.99)
_COARSE_SIZE = 64
_LEAST_SPAN = 1e-3


def stretch(pictures: Tensor) -> Tensor:
    """Stretch each picture's grey scale to 0…1, (N, 1, h, w) float32 in and out.

    Black and white are quantiles of the picture averaged to 64 x 64, where neither a marker's
    edge nor noise counts. A picture without contrast becomes about zero.
    """
    coarse = functional.adaptive_avg_pool2d(pictures, _COARSE_SIZE).flatten(1)
    ordered = coarse.sort(dim=1).values
    last = ordered.shape[1] - 1
    low, high = (ordered[:, round(q * last)].view(-1, 1, 1, 1) for q in STRETCH_QUANTILES)
    return ((pictures - low) / (high - low).clamp_min(_LEAST_SPAN)).clamp(0.0, 1.0)


def resized(pictures: Tensor, size: int) -> Tensor:
    """Squash (N, 1, h, w) to (N, 1, size, size), antialiased: a pixel averages what it covers."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    return functional.interpolate(
        pictures, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )


def common_square(pixels: npt.NDArray[np.float32]) -> Tensor:
    """The square picture, (1, 1, 512, 512), of (rows, columns) pixels; contrast untouched."""
    own = np.require(pixels, np.float32, ["C", "W"])  # torch shares memory; it wants it writable
    return resized(torch.from_numpy(own)[None, None], COMMON_SIZE)
