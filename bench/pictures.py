"""The radiographs the bench sends: one real chest, brought to size, under placeholder UIDs."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from bench.sender import PLACEHOLDERS, Object
from tests.canaries import sample
from tests.peers.dcmtk import data_set_of

#: Short name → transfer syntax of the compressed codings that are reported apart.
CODINGS = {
    "JPEG 2000 lossless": JPEG2000Lossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS lossless": JPEGLSLossless,
    "RLE": RLELossless,
}


def computed(side: int = 2048) -> pydicom.FileDataset:
    """An uncompressed CR of `side` x `side` pixels, 15 of 16 bits stored (4 megapixels)."""
    return _chest(side, side)


def digital(rows: int = 2500, columns: int = 2000) -> pydicom.FileDataset:
    """An uncompressed DX For Presentation of 10 MB of pixels."""
    ds = _chest(rows, columns)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    return ds


def _chest(rows: int, columns: int) -> pydicom.FileDataset:
    """RG1 of pydicom-data, scaled to cover rows x columns and cut to it around its middle."""
    ds = pydicom.dcmread(sample())
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = map(UID, PLACEHOLDERS)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.PixelData = _covering(ds.pixel_array, rows, columns).tobytes()
    ds.Rows, ds.Columns = rows, columns
    del ds.PixelSpacing  # it is 0\\0
    return ds


def _covering(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    scale = max(rows / picture.shape[0], columns / picture.shape[1])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    grey = Image.fromarray(picture.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    top, left = (size[1] - rows) // 2, (size[0] - columns) // 2
    cut = np.asarray(grey)[top : top + rows, left : left + columns]
    return np.asarray(cut.round().clip(0, 2**15 - 1), dtype=np.uint16)


def coded(ds: pydicom.FileDataset, transfer_syntax_uid: UID, folder: Path) -> pydicom.FileDataset:
    """The same picture in a compressed transfer syntax; JPEG lossless is dcmcjpeg's work."""
    plain = folder / "plain.dcm"
    ds.save_as(plain)
    if transfer_syntax_uid == JPEGLosslessSV1:
        subprocess.run(["dcmcjpeg", "+e1", "+un", plain, folder / "jpeg.dcm"], check=True)
        return pydicom.dcmread(folder / "jpeg.dcm")
    copy = pydicom.dcmread(plain)
    copy.compress(transfer_syntax_uid, generate_instance_uid=False)
    return copy


def on_the_wire(ds: pydicom.FileDataset) -> Object:
    """The data set as a sender puts it on the wire."""
    part10 = BytesIO()
    ds.save_as(part10)
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    return Object(UID(ds.SOPClassUID), syntax, data_set_of(part10.getvalue()))
