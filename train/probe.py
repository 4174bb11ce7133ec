"""Heads in closed form: ridge regression on pooled features, written as logits.

With few labels and a backbone that already sees well this comes before any training: it is exact,
has one number to choose, and says what the features are worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

Features = npt.NDArray[np.float32]
_LEAST_SPREAD = 1e-3


def ridge(seen: Features, labels: Features, strength: float) -> tuple[Features, Features]:
    """Weight (c, k) and bias (c,) of a logit head, from features (n, k) and labels (n, c) of 0, 1.

    Features are standardised first, and that is folded into the answer. `strength` is the penalty
    as a share of n times k. The slope turns to logits at the mean of each label, where
    d logit = dp / (p (1 - p)).
    """
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + _LEAST_SPREAD
    z = ((seen - mean) / spread).astype(np.float64)
    share = labels.mean(axis=0, dtype=np.float64)
    found = _solved(z, labels - share, strength * z.shape[0] * z.shape[1])  # (k, c)
    rate = np.clip(share, 1.0 / (len(z) + 2), 1.0 - 1.0 / (len(z) + 2))
    weight = (found / spread[:, None]).T / (rate * (1.0 - rate))[:, None]
    bias = np.log(rate / (1.0 - rate)) - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32)


def ridge_of_groups(
    seen: Features, labels: Features, strength: float, groups: Sequence[int]
) -> tuple[Features, Features]:
    """As `ridge`, but a head for each group of features, and of their logits the mean.

    Features are (n, pools x sum(groups)). Few features of one network beside many of another would
    else hardly be heard.
    """
    places = np.arange(seen.shape[1]).reshape(-1, sum(groups))
    weight = np.zeros((labels.shape[1], seen.shape[1]), np.float32)
    bias = np.zeros(labels.shape[1], np.float32)
    for part in np.split(places, np.cumsum(groups)[:-1], axis=1):
        own, offset = ridge(seen[:, part.ravel()], labels, strength)
        weight[:, part.ravel()] = own / len(groups)
        bias += offset / len(groups)
    return weight, bias


def _solved(
    z: npt.NDArray[np.float64], y: npt.NDArray[np.float64], penalty: float
) -> npt.NDArray[np.float64]:
    """Ridge weights (k, c), from the smaller of the two square matrices."""
    n, k = z.shape
    if n < k:
        return np.asarray(z.T @ np.linalg.solve(z @ z.T + penalty * np.eye(n), y))
    return np.asarray(np.linalg.solve(z.T @ z + penalty * np.eye(k), z.T @ y))


class Kept:
    """Pooled features on disk, one file a batch: folds share what no label has touched."""

    def __init__(self, folder: Path, network: str) -> None:
        self.folder = folder / network

    def read(self, paths: Sequence[Path], masks: Tensor) -> tuple[Features, Features] | None:
        """What `write` kept for these pictures under these masks, or None."""
        rows = [self._file(path, mask) for path, mask in zip(paths, masks, strict=True)]
        if not all(row.is_file() for row in rows):
            return None
        loaded = [np.load(row) for row in rows]
        return (
            np.stack([one["inside"] for one in loaded]).astype(np.float32),
            np.stack([one["whole"] for one in loaded]).astype(np.float32),
        )

    def write(self, paths: Sequence[Path], masks: Tensor, seen: tuple[Features, Features]) -> None:
        """Keep features (n, k) of both heads, float16, a file a picture, each whole or not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, mask, inside, whole in zip(paths, masks, *seen, strict=True):
            file = self._file(path, mask)
            part = file.with_suffix(".part.npz")
            np.savez(part, inside=inside.astype(np.float16), whole=whole.astype(np.float16))
            part.replace(file)

    def _file(self, path: Path, mask: Tensor) -> Path:
        digest = hashlib.sha256(str(path.resolve()).encode() + mask.numpy().tobytes()).hexdigest()
        return self.folder / f"{digest[:32]}.npz"
