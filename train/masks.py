"""Radiographs with lungs and heart drawn on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prescreen.study import ORGANS
from train.pictures import DataError, Picture, files_by_stem, read_picture, read_rows, told

#: What such radiographs are for, among the sources that a manifest names.
MASKS = "masks"
_COLUMNS = ("source", "image", "cardiothoracic_ratio")


@dataclass(frozen=True)
class MaskedPicture:
    """A picture, uint8 (s, s), and its masks, bool (3, s, s) in the order of ORGANS."""

    source: str
    name: str
    pixels: Picture
    masks: npt.NDArray[np.bool_]
    cardiothoracic_ratio: float | None = None


@dataclass(frozen=True)
class MaskedFile:
    """Where a picture and its masks lie, in the order of ORGANS; nothing is opened yet."""

    source: str
    name: str
    path: Path
    masks: tuple[Path, ...]
    cardiothoracic_ratio: float | None = None

    def drawn(self, size: int | None = None) -> npt.NDArray[np.bool_]:
        """The masks, bool (3, h, w), as large as they are drawn or (3, size, size).

        Where lung and heart overlap the pixel is the heart's: the drawings differ in this, and the
        networks are taught one convention. Where heart and left lung lie under each other's name
        (see `swapped`) they are given back their own. Raises DataError where the three differ in
        size.
        """
        organs = [read_picture(path, size) for path in self.masks]
        if len({organ.shape for organ in organs}) > 1:
            raise DataError(f"{self.masks[0]}: the masks of one radiograph differ in size")
        masks = np.stack(organs) >= 128
        if swapped(masks):
            masks = masks[[2, 1, 0]]
        masks[:2] &= ~masks[2]
        return masks

    def masked(self, pixels: Picture, size: int) -> MaskedPicture:
        """These pixels (size, size) with the masks."""
        drawn = self.drawn(size)
        return MaskedPicture(self.source, self.name, pixels, drawn, self.cardiothoracic_ratio)


def swapped(masks: npt.NDArray[np.bool_]) -> bool:
    """Whether what is called heart lies left of what is called left lung, in the patient's sense.

    The patient's left is on the picture's right, and a heart, wherever it is displaced to, lies
    between the lungs. One radiograph of the Wingspan data (053) has the two under each other's
    name; a network taught so draws the one as the other.
    """
    left, right, heart = (_centre(mask) for mask in masks)
    return right < left < heart


def _centre(mask: npt.NDArray[np.bool_]) -> float:
    """Mean column of a mask (h, w); NaN, which compares as false, where it is empty."""
    columns = np.flatnonzero(mask) % mask.shape[1]
    return float(columns.mean()) if len(columns) else math.nan


def list_lungs_heart(folder: Path) -> list[MaskedFile]:
    """All pictures of `folder`: `<source>/{images,masks/<organ>}` and, if there, `index.csv`.

    The index says which pictures count and what cardiothoracic ratio was measured on them; without
    one all pictures count. Pictures and masks match by stem. Raises DataError for what is missing.
    """
    if (folder / "index.csv").is_file():
        rows = read_rows(folder / "index.csv", _COLUMNS)
    else:
        rows = _unlisted(folder)
    sources = {row["source"]: _Source(folder / row["source"]) for row in rows}
    return [
        sources[row["source"]].file(row["image"], _ratio(folder / "index.csv", line, row))
        for line, row in enumerate(rows, start=2)
    ]


def _ratio(path: Path, line: int, row: dict[str, str]) -> float | None:
    """The cardiothoracic ratio of a row of the index, 0…1; None where nobody measured it."""
    text = row["cardiothoracic_ratio"].strip()
    if not text:
        return None
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0.0 < ratio < 1.0:
        raise DataError(
            f"{path}, line {line}: the cardiothoracic_ratio of {row['image']} is {text!r}, and it "
            "has to be a number between 0 and 1, or empty where nobody measured it"
        )
    return ratio


def _unlisted(folder: Path) -> list[dict[str, str]]:
    rows = [
        {"source": source.name, "image": stem, "cardiothoracic_ratio": ""}
        for source in sorted(folder.glob("*"))
        if (source / "images").is_dir()
        for stem in files_by_stem(source / "images")
    ]
    if not rows:
        raise DataError(
            f"{folder} has neither index.csv nor a folder with images/ and masks/ in it"
        )
    return rows


class _Source:
    """One source's folder: its files by stem, listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = files_by_stem(folder / "images")
        self.masks = {organ: files_by_stem(folder / "masks" / organ) for organ in ORGANS}

    def file(self, name: str, ratio: float | None) -> MaskedFile:
        organs = [self.masks[organ].get(name) for organ in ORGANS]
        found = [path for path in organs if path is not None]
        picture = self.images.get(name)
        if picture is None or len(found) < len(ORGANS):
            what = "picture" if picture is None else f"mask of the {ORGANS[organs.index(None)]}"
            raise DataError(f"{self.folder}: {name} has no {what}")
        return MaskedFile(self.folder.name, name, picture, tuple(found), ratio)


def read_lungs_heart(folder: Path, size: int) -> list[MaskedPicture]:
    """All pictures of `list_lungs_heart` with their masks, squashed to (size, size)."""
    files = list_lungs_heart(folder)
    read = told(files, len(files), "radiographs with masks")
    return [one.masked(read_picture(one.path, size), size) for one in read]


def picture_path(folder: Path, picture: MaskedPicture) -> Path:
    """Where the picture's file lies under the folder that `read_lungs_heart` was given."""
    return files_by_stem(folder / picture.source / "images")[picture.name]
