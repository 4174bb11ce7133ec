"""Picture files and lists: read as 8-bit greyscale, or refused with the file's name and a remedy.

Where the data lies comes from PRESCREEN_DATA (default `../shared/data`); runs are written outside
the tree.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

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
