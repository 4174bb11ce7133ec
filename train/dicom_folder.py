"""A site's own DICOM radiographs with a CSV of labels, read as the node itself reads them.

The CSV has `image` (file name, with or without suffix, or SOP Instance UID) and `labels`
(`|`-separated), and may have `patient` and `view`; what it does not say is taken from the headers.
Files are decoded in this very process by native codecs: they should be one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom

from prescreen.dicom.decode import read_image
from prescreen.dicom.image import header_of, read_header
from prescreen.errors import UnusableImage
from prescreen.study import Radiograph
from train import screening
from train.chestxray14 import LabelledPicture, read_labels
from train.pictures import DataError, files_by_stem, stem_of, told

_MEGAPIXELS = 64.0


def read_radiograph(path: Path) -> Radiograph:
    """One DICOM file as the node sees it. Raises DataError, naming the file and why not."""
    try:
        return read_image(path, _MEGAPIXELS, lambda shape: np.empty(shape, np.float32))
    except UnusableImage as error:
        raise DataError(f"{path} cannot be used: {error} ({error.reason})") from error
    except Exception as error:  # codecs raise what they like
        raise DataError(f"{path} cannot be decoded ({type(error).__name__})") from error


def read_dicom_folder(folder: Path, labels: Path) -> list[LabelledPicture]:
    """The radiographs of a list of labels, with their files; no pixels are read.

    Raises DataError where a radiograph of the list is not there or is not DICOM.
    """
    rows = read_labels(labels)
    found = screening.located([stem_of(row.path.name) for row in rows], files_by_stem(folder))
    missing = [row.path.name for row in rows if stem_of(row.path.name) not in found]
    if missing:
        raise DataError(
            f"{labels}: {len(missing)} of {len(rows)} radiographs are not in {folder}, "
            f"{missing[0]} the first: names are those of files or SOP Instance UIDs"
        )
    placed = [replace(row, path=found[stem_of(row.path.name)]) for row in rows]
    return list(told(map(screening.completed, placed), len(placed), "headers read"))


def with_header(picture: LabelledPicture) -> LabelledPicture:
    """The row of a DICOM file with patient and view from its header where the list has not said.

    Patients' numbers serve to keep the radiographs of one together; they are written nowhere.
    """
    ds = _header(picture.path)
    patient = picture.patient or str(ds.get("PatientID", "") or "")
    return replace(picture, patient=patient, view=picture.view or header_of(ds).view or "")


def by_uid(paths: Sequence[Path]) -> dict[str, Path]:
    """The DICOM files among these, by SOP Instance UID."""
    return {_uid(path): path for path in told(paths, len(paths), "headers read")}


def _uid(path: Path) -> str:
    try:
        return header_of(_header(path)).sop_instance_uid
    except DataError:
        return ""


def _header(path: Path) -> pydicom.Dataset:
    try:
        return read_header(path)
    except UnusableImage as error:
        raise DataError(f"{path} cannot be used: {error} ({error.reason})") from error
