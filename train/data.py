"""Readers of the data sets that the networks are trained on, and the splits by patient.

Every reader yields 8-bit greyscale arrays and says clearly what is missing or malformed. Where the
data lies comes from PRESCREEN_DATA (default `../shared/data`); runs are written outside the tree.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from prescreen.study import LABELS, ORGANS

Picture = npt.NDArray[np.uint8]


class DataError(Exception):
    """A data set is missing or malformed. The text names the file and what is expected of it."""


def data_dir() -> Path:
    """The folder that holds `chestxray14/` and `lungs_heart/`."""
    return Path(os.environ.get("PRESCREEN_DATA", "../shared/data"))


def runs_dir() -> Path:
    """Where runs leave checkpoints, logs and figures: outside the work tree."""
    return Path(os.environ.get("PRESCREEN_RUNS", "~/prescreen-runs")).expanduser()


def read_picture(path: Path, size: int | None = None) -> Picture:
    """One picture as uint8 (h, w), squashed to (size, size) by area averaging if `size` is set."""
    try:
        with Image.open(path) as picture:
            grey = picture.convert("L")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: restore it or take its row out of the list") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
    if size is not None and grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.uint8)


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header that has at least `columns`."""
    if not path.is_file():
        raise DataError(f"{path} is missing: set PRESCREEN_DATA to the folder that holds the data")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: the header lacks {', '.join(missing)}")
        rows = list(reader)
    if not rows:
        raise DataError(f"{path} has a header but no rows")
    return rows


def share_of(key: str, seed: int) -> float:
    """A number 0…1 that depends on `key` and `seed` alone: splits that no later file can move."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# ---------------------------------------------------------------- lungs and heart


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


# ---------------------------------------------------------------- findings


@dataclass(frozen=True)
class LabelledPicture:
    """One row of a ChestX-ray14 list: which file, whose, and the 14 labels as 0 or 1."""

    path: Path
    patient: str
    labels: tuple[int, ...]
    view: str
    official_split: str


def read_chestxray14(folder: Path) -> list[LabelledPicture]:
    """The flat layout: `labels.csv` beside `images/`. Pictures are not opened here."""
    columns = ("image", "labels", "patient", "view", "official_split")
    rows = read_rows(folder / "labels.csv", columns)
    return [_labelled(folder, row) for row in rows]


def _labelled(folder: Path, row: dict[str, str]) -> LabelledPicture:
    named = set(row["labels"].split("|"))
    unknown = named - set(LABELS) - {"No Finding"}
    if unknown:
        raise DataError(f"{folder / 'labels.csv'}: unknown label {sorted(unknown)[0]!r}")
    labels = tuple(int(label in named) for label in LABELS)
    path = folder / "images" / row["image"]
    return LabelledPicture(path, row["patient"], labels, row["view"], row["official_split"])


def split_by_patient(
    pictures: list[LabelledPicture], held_out: float, seed: int
) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Train and validation parts of the official train_val list; no patient is in both.

    Pictures of the official test list are in neither.
    """
    usable = [p for p in pictures if p.official_split == "train_val"]
    train = [p for p in usable if share_of(p.patient, seed) >= held_out]
    validation = [p for p in usable if share_of(p.patient, seed) < held_out]
    shared = {p.patient for p in train} & {p.patient for p in validation}
    if shared:  # cannot happen while the split depends on the patient alone
        raise DataError(f"{len(shared)} patients are in both parts of the split")
    return train, validation
