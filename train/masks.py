"""Radiographs with lungs and heart drawn on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prescreen.study import ORGANS
from train.pictures import Picture, read_picture, read_rows


@dataclass(frozen=True)
class MaskedPicture:
    """A picture, uint8 (s, s), and its masks, bool (3, s, s) in the order of ORGANS."""

    source: str
    name: str
    pixels: Picture
    masks: npt.NDArray[np.bool_]
    cardiothoracic_ratio: float | None = None


def read_lungs_heart(folder: Path, size: int) -> list[MaskedPicture]:
    """All pictures of `folder`: `index.csv` and `<source>/{images,masks/<organ>}`.

    Where lung and heart overlap the pixel is the heart's: the drawings differ in this, and the
    networks are taught one convention.
    """
    rows = read_rows(folder / "index.csv", ("source", "image", "cardiothoracic_ratio"))
    return [_read_masked(folder / row["source"], row, size) for row in rows]


def picture_path(folder: Path, picture: MaskedPicture) -> Path:
    """Where the picture's file lies under the folder that `read_lungs_heart` was given."""
    return folder / picture.source / "images" / f"{picture.name}.jpg"


def _read_masked(folder: Path, row: dict[str, str], size: int) -> MaskedPicture:
    name = row["image"]
    pixels = read_picture(folder / "images" / f"{name}.jpg", size)
    drawn = [read_picture(folder / "masks" / organ / f"{name}.png", size) for organ in ORGANS]
    masks = np.stack(drawn) >= 128
    masks[:2] &= ~masks[2]
    ratio = row["cardiothoracic_ratio"]
    return MaskedPicture(row["source"], name, pixels, masks, float(ratio) if ratio else None)
