"""Picture files and lists: read as 8-bit greyscale, or refused with the file's name and a remedy.

Where the data lies comes from PRESCREEN_DATA (default `../shared/data`); runs are written outside
the tree.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Picture = npt.NDArray[np.uint8]
T = TypeVar("T")

#: Suffixes of files that are looked at as pictures; anything else may be DICOM.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_SECONDS_BETWEEN_WORDS = 10.0


class DataError(Exception):
    """A data set is missing or malformed. The text names the file and what is expected of it."""


def data_dir() -> Path:
    """The folder that holds `chestxray14/` and `lungs_heart/`."""
    return Path(os.environ.get("PRESCREEN_DATA", "../shared/data"))


def runs_dir() -> Path:
    """Where runs leave checkpoints, logs and figures: outside the work tree."""
    return Path(os.environ.get("PRESCREEN_RUNS", "~/prescreen-runs")).expanduser()


def read_picture(path: Path, size: int | None = None) -> Picture:
    """One picture as uint8 (h, w), squashed to (size, size) by area averaging if `size` is set.

    A file with none of SUFFIXES is read as the node reads DICOM. Raises DataError.
    """
    grey = _opened(path) if path.suffix.lower() in SUFFIXES else _rendered(path)
    if size is not None and grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.uint8)


def _rendered(path: Path) -> Image.Image:
    from train.dicom_folder import read_radiograph  # pydicom only where it is needed

    return Image.fromarray((read_radiograph(path).pixels * 255.0).round().astype(np.uint8))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("L")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: restore it or take its row out of the list") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header that has at least `columns`."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing: set PRESCREEN_DATA to the folder that holds the data, "
            "or name the file that is meant"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if missing:
        raise DataError(f"{path}: the header lacks {', '.join(missing)}")
    if not rows:
        raise DataError(f"{path} has a header but no rows")
    return rows


def read_names(path: Path) -> list[str]:
    """The lines of a list of file names, as the official train_val and test lists are."""
    if not path.is_file():
        raise DataError(f"{path} is missing: it comes with the data set, beside its Data_Entry CSV")
    return path.read_text(encoding="utf-8-sig").split()


def stem_of(name: str) -> str:
    """What pictures, labels and boxes are matched by: the name without folder and suffix."""
    path = Path(name.strip())
    return path.stem if path.suffix.lower() in (*SUFFIXES, ".dcm", ".img") else path.name


def files_by_stem(folder: Path, may_be_empty: bool = False) -> dict[str, Path]:
    """Every file under `folder`, by stem, hidden ones left out; the first in order where two share.

    Raises DataError where the folder is not there or, unless it may, holds no file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name the one that holds the pictures")
    found: dict[str, Path] = {}
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and _may_be_picture(name):
                found.setdefault(stem_of(name), Path(where, name))
    if not found and not may_be_empty:
        raise DataError(f"{folder} holds no pictures")
    return found


_NO_PICTURES = (".csv", ".txt", ".json", ".md", ".pdf", ".zip", ".gz", ".tar", ".html", ".xlsx")


def _may_be_picture(name: str) -> bool:
    return Path(name).suffix.lower() not in _NO_PICTURES


def made_ready(report: Path) -> None:
    """Make sure that a report can be written, before hours are spent on it, or raise DataError."""
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        with report.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise DataError(f"--json {report} cannot be written: {error.strerror}") from error


def told(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, with a word on standard error every ten seconds: how many, how fast, how long."""
    began = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_WORDS:
            said, rate = now, done / (now - began)
            left = (total - done) / rate
            print(f"{what}: {done} of {total}, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr)
