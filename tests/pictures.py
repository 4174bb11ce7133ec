"""Synthetic images for tests: a data set around an array, and files of it."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from prescreen.study import generate_uid
from tests import canaries


def data_set(cells: npt.NDArray[Any], **attributes: Any) -> Dataset:
    """A CR image of unsigned `cells` (rows, columns); an attribute given as None is left out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    bits = 8 * cells.dtype.itemsize
    ds.Modality = "CR"
    canaries.plant(ds)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = cells.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", cells.tobytes())
    return ds


def part10(ds: Dataset, implicit: bool = False) -> bytes:
    """`ds` as the bytes of a file."""
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def again(ds: Dataset, implicit: bool = False) -> Dataset:
    """`ds` written and read: its values as raw as those of a received file."""
    return pydicom.dcmread(BytesIO(part10(ds, implicit)))


def with_bytes(ds: Dataset, values: dict[str, bytes]) -> bytes:
    """The file of `ds`, which holds no sequence, in Implicit VR, with values nobody has checked."""
    whole = part10(ds, implicit=True)
    (meta_length,) = struct.unpack_from("<I", whole, 140)
    start = position = 144 + meta_length
    elements = {}
    while position < len(whole):
        group, element, length = struct.unpack_from("<HHI", whole, position)
        elements[group << 16 | element] = whole[position + 8 : position + 8 + length]
        position += 8 + length
    for keyword, value in values.items():
        elements[int(tag_for_keyword(keyword) or 0)] = value + b" " * (len(value) % 2)
    packed = (
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
        for tag, value in sorted(elements.items())
    )
    return whole[:start] + b"".join(packed)


def saved(folder: Path, ds: Dataset, name: str = "image.dcm") -> Path:
    """The path of `ds` written to `folder`."""
    path = folder / name
    path.write_bytes(part10(ds))
    return path


def ramp(rows: int = 64, columns: int = 48, top: int = 4095) -> npt.NDArray[np.uint16]:
    """Cells from 0 to `top`, each row brighter than the one above."""
    values = np.linspace(0, top, rows * columns).round().astype(np.uint16)
    return values.reshape(rows, columns)
