"""How unlike the radiographs of the training a picture is: one number for the gate.

The Mahalanobis distance of what the segmentation network sees, divided by the square root of the
number of features, so that a radiograph of the training has about 1. Networks answer anything they
are shown; this is what tells a lateral, a hand or a CT slice from a frontal chest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prescreen.nets.weights import STATISTICS, Weights, fitting
from prescreen.study import FloatArray

#: The first level of the U-Net whose features are compared, counted from the finest.
FIRST_LEVEL = 2
_SHRINKAGE = 0.005


def describe(levels: Sequence[Tensor]) -> Tensor:
    """(N, K): the mean over the picture of every feature of the deeper levels of `UNet.encode`."""
    return torch.cat([level.mean(dim=(2, 3)) for level in levels[FIRST_LEVEL:]], dim=1)


@dataclass(frozen=True)
class Typical:
    """The training radiographs' features: mean (K,) and a root (K, K) of the inverse covariance."""

    mean: FloatArray
    root: FloatArray

    @classmethod
    def fitted(cls, features: FloatArray) -> Typical:
        """From (n, K) features; the covariance is shrunk towards a sphere."""
        mean = features.mean(axis=0)
        covariance = np.cov((features - mean).T.astype(np.float64))
        size = len(covariance)
        covariance += _SHRINKAGE * np.trace(covariance) / size * np.eye(size)
        root = np.linalg.cholesky(np.linalg.inv(covariance))
        return cls(mean.astype(np.float32), root.astype(np.float32))

    @classmethod
    def of(cls, weights: Weights, count: int) -> Typical:
        """As shipped with the segmentation network of `count` features, or WeightsError."""
        shapes = {"mean": (count,), "root": (count, count)}
        found = fitting(weights, shapes, STATISTICS)
        return cls(found["mean"], found["root"])

    def tensors(self) -> dict[str, FloatArray]:
        """What is shipped beside the network's own tensors."""
        return {STATISTICS + "mean": self.mean, STATISTICS + "root": self.root}

    def distances(self, features: FloatArray) -> FloatArray:
        """(N,), at least 0, from (N, K) features."""
        whitened = (features - self.mean) @ self.root
        distances: FloatArray = np.sqrt(np.mean(whitened**2, axis=1)).astype(np.float32)
        return distances
