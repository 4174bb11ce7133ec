"""Fit prescreen/frontal.npz: what frontal chest radiographs have in common, for the gate.

    python -m train.frontal --weights weights

Only frontal radiographs are used: two thirds of the patients of ChestX-ray14's official train_val
list, and every second Wingspan radiograph, to fit; the other third to say what is usual and to set
the limits; the other Wingspan radiographs are for looking at afterwards. Each is cut out around the
lungs that the segmentation network in --weights draws, so fit again when that changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prescreen import frontal
from prescreen.nets import architecture, inputs, unet, weights
from prescreen.nets.anatomy import anatomy_of
from prescreen.study import Anatomy, FloatArray
from train import data, lungs_heart

# ---------------------------------------------------------------- config

SEED = 1
FITTED = 2 / 3  # share of the patients that the distributions are fitted to
AXES = {"whole": 24, "picture": 32, "masks": 32}
RIDGE = 0.1  # of the mean variance, when the leaning is fitted
#: Quantiles, over radiographs not fitted to, at which the limits lie.
WHOLE_QUANTILE, CUT_QUANTILE, LEANING_QUANTILE = 0.98, 0.985, 0.007
BATCH = 16


@dataclass(frozen=True)
class Example:
    """One radiograph: as a whole, cut out around its lungs, and whether it is fitted to."""

    whole: FloatArray
    cut: frontal.Cut
    is_fitted: bool


# ---------------------------------------------------------------- data


def pictures(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Paths of frontal radiographs, and whether they are to be fitted to."""
    for listed in data.read_chestxray14(folder / "chestxray14"):
        if listed.official_split == "train_val":
            yield listed.path, is_fitted(listed.patient)
    wingspan = sorted((folder / "lungs_heart" / "wingspan" / "images").glob("*.jpg"))
    yield from ((path, True) for path in wingspan[::2])


def is_fitted(patient: str) -> bool:
    """Whether the radiographs of this patient of ChestX-ray14 are fitted to."""
    return data.share_of(f"frontal:{patient}", SEED) < FITTED


def examples(listed: list[tuple[Path, bool]], draw: Drawer) -> Iterator[Example]:
    """The same, read and drawn; where no lungs are drawn there is no example."""
    for start in range(0, len(listed), BATCH):
        batch = listed[start : start + BATCH]
        pixels = [grey(path) for path, _ in batch]
        for (_, to_fit), picture, anatomy in zip(batch, pixels, draw(pixels), strict=True):
            coarse = frontal.coarse(picture)
            cut = frontal.cut(coarse, anatomy)
            if cut is not None:
                yield Example(frontal.whole(coarse), cut, to_fit)


def grey(path: Path) -> FloatArray:
    """The picture at `path` as `Radiograph.pixels` are: float32, 0…1."""
    return np.asarray(data.read_picture(path) / np.float32(255), dtype=np.float32)


class Drawer:
    """The segmentation network: pictures (rows, columns), 0…1, to anatomies."""

    def __init__(self, network: unet.Segmenter) -> None:
        self._network = network.eval()

    @classmethod
    def shipped(cls, folder: Path) -> Drawer:
        return cls(architecture.segmenter_of(weights.load(folder)["lungs_heart"]))

    @classmethod
    def trained(cls, checkpoint: Path) -> Drawer:
        """The network of a run, before it is shipped."""
        return cls(lungs_heart.trained(checkpoint))

    @torch.inference_mode()
    def __call__(self, pixels: list[FloatArray]) -> list[Anatomy]:
        squares = torch.cat([inputs.common_square(picture) for picture in pixels])
        x = inputs.stretch(inputs.resized(squares, unet.INPUT_SIZE))
        return [anatomy_of(one) for one in torch.sigmoid(self._network(x)).numpy()]


# ---------------------------------------------------------------- fitting


def fitted(found: list[Example]) -> frontal.Frontal:
    """Distributions of the examples to fit to, limits from the others."""
    own = [example for example in found if example.is_fitted]
    others = [example for example in found if not example.is_fitted]

    def pattern(name: str) -> frontal.Pattern:
        return frontal.Pattern.fitted(vectors(own, name), vectors(others, name), AXES[name])

    without_limits = frontal.Frontal(
        whole=pattern("whole"),
        picture=pattern("picture"),
        masks=pattern("masks"),
        leaning=leaning(np.stack([example.cut.asymmetry for example in own])),
        whole_limit=1.0,
        cut_limit=1.0,
        least_leaning=0.0,
    )
    return with_limits(without_limits, others)


def vectors(found: list[Example], name: str) -> FloatArray:
    """(N, n) of one of the three things that are compared."""
    if name == "whole":
        return np.stack([example.whole for example in found])
    return np.stack([getattr(example.cut, name).ravel() for example in found])


def leaning(asymmetries: FloatArray) -> FloatArray:
    """Fisher's discriminant between radiographs and their mirror images, 1 on average.

    The two classes have opposite means and one covariance, so it needs nothing but the radiographs.
    """
    mean, covariance = asymmetries.mean(axis=0), np.cov(asymmetries.T)
    covariance += RIDGE * np.trace(covariance) / len(mean) * np.eye(len(mean))
    direction = np.linalg.solve(covariance, mean)
    return np.asarray(direction / (direction @ mean), dtype=np.float32)


def with_limits(model: frontal.Frontal, others: list[Example]) -> frontal.Frontal:
    whole = model.whole.unlikeness(vectors(others, "whole"))
    distances = np.array([model.distance(example.cut) for example in others])
    leans = np.array([example.cut.asymmetry @ model.leaning for example in others])
    return dataclasses.replace(
        model,
        whole_limit=float(np.quantile(whole, WHOLE_QUANTILE)),
        cut_limit=float(np.quantile(distances, CUT_QUANTILE)),
        least_leaning=float(np.quantile(leans, LEANING_QUANTILE)),
    )


# ---------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--checkpoint", type=Path, help="of a run of train.lungs_heart, instead")
    parser.add_argument("--data", type=Path, default=data.data_dir())
    arguments = parser.parse_args()
    draw = (
        Drawer.trained(arguments.checkpoint)
        if arguments.checkpoint
        else Drawer.shipped(arguments.weights)
    )
    found = list(examples(list(pictures(arguments.data)), draw))
    model = fitted(found)
    write(frontal.to_bytes(model))
    own = sum(example.is_fitted for example in found)
    print(f"fitted to {own} radiographs, limits from {len(found) - own} others")
    print(f"limits: {model.whole_limit:.3f} {model.cut_limit:.3f} {model.least_leaning:.3f}")


def write(content: bytes) -> None:
    """The file and the digest that the module holds it to, which belong into one commit."""
    module = Path(frontal.__file__)
    module.with_suffix(".npz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    text = re.sub(r'SHA256 = "[0-9a-f]{64}"', f'SHA256 = "{digest}"', module.read_text())
    module.write_text(text)


if __name__ == "__main__":
    main()
