"""Every transfer syntax, encoded by DCMTK or pydicom, decodes to the same stored values."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom import uid

from prescreen.dicom.decode import read_image
from prescreen.dicom.identity import TRANSFER_SYNTAXES
from prescreen.dicom.render import render
from prescreen.study import Radiograph
from tests.pictures import data_set, saved


def picture(bits: int) -> npt.NDArray[Any]:
    """A smooth picture with an edge and some noise, so that codecs have work."""
    rows, columns = np.mgrid[0:120, 0:96]
    smooth = np.sin(rows / 17) * np.cos(columns / 23) / 2 + 0.5
    smooth[40:80, 30:60] *= 0.5
    noise = np.random.default_rng(7).normal(0, 0.005, smooth.shape)
    levels = np.clip(smooth + noise, 0, 1) * ((1 << bits) - 1)
    return np.asarray(levels, np.uint8 if bits == 8 else np.uint16)


def image(bits: int) -> pydicom.Dataset:
    ds = data_set(picture(bits), BitsStored=bits, HighBit=bits - 1)
    ds.WindowCenter, ds.WindowWidth = str((1 << bits) / 2), str(1 << bits)
    return ds


def read(path: Path) -> Radiograph:
    return read_image(path, 64, lambda shape: np.empty(shape, np.float32))


def by_dcmtk(folder: Path, ds: pydicom.Dataset, *options: str) -> Path:
    target = folder / "encoded.dcm"
    command = ["dcmcjpeg", *options, str(saved(folder, ds)), str(target)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return target


LOSSLESS = [
    (["+e1"], uid.JPEGLosslessSV1),
    (["+el", "+sv", "1"], uid.JPEGLossless),
    (["+el", "+sv", "6"], uid.JPEGLossless),
]


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize(("options", "syntax"), LOSSLESS)
def test_lossless_jpeg_of_dcmtk(tmp_path: Path, options: list[str], syntax: str, bits: int) -> None:
    radiograph = read(by_dcmtk(tmp_path, image(bits), *options))
    assert radiograph.header.transfer_syntax_uid == syntax
    original = render(image(bits))
    assert radiograph.pixel_sha256 == original.pixel_sha256
    assert np.array_equal(radiograph.pixels, original.pixels)


@pytest.mark.parametrize(
    ("options", "syntax", "bits"),
    [
        (["+eb", "+q", "95"], uid.JPEGBaseline8Bit, 8),
        (["+ee", "+q", "95"], uid.JPEGExtended12Bit, 8),
        (["+ee", "+q", "95"], uid.JPEGExtended12Bit, 12),
    ],
)
def test_lossy_jpeg_of_dcmtk(tmp_path: Path, options: list[str], syntax: str, bits: int) -> None:
    encoded = by_dcmtk(tmp_path, image(bits), *options)
    radiograph = read(encoded)
    assert radiograph.header.transfer_syntax_uid == syntax
    assert np.abs(radiograph.pixels - render(image(bits)).pixels).max() < 0.05
    decoded = tmp_path / "decoded.dcm"
    command = ["dcmdjpeg", str(encoded), str(decoded)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert np.abs(radiograph.pixels - read(decoded).pixels).max() <= 1.5 / 255


ENCODED_BY_PYDICOM = [
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", ENCODED_BY_PYDICOM)
def test_lossless_codecs_of_pydicom(
    tmp_path: Path, syntax: uid.UID, bits: int, signed: bool
) -> None:
    ds = image(bits)
    ds.PixelRepresentation = int(signed)
    if signed:
        half = 1 << (bits - 1)
        ds.WindowCenter = "0"
        shifted = picture(bits).astype(np.int32) - half
        ds.PixelData = shifted.astype(np.int8 if bits == 8 else np.int16).tobytes()
    original = render(ds)
    ds.compress(syntax)
    radiograph = read(saved(tmp_path, ds))
    assert radiograph.header.transfer_syntax_uid == syntax
    assert np.array_equal(radiograph.pixels, original.pixels)
    assert radiograph.pixel_sha256 == original.pixel_sha256


@pytest.mark.parametrize(
    ("syntax", "options"),
    [(uid.JPEGLSNearLossless, {"jls_error": 2}), (uid.JPEG2000, {"j2k_cr": [5]})],
)
def test_lossy_codecs_of_pydicom(tmp_path: Path, syntax: uid.UID, options: dict[str, Any]) -> None:
    ds = image(12)
    original = render(ds)
    ds.compress(syntax, **options)
    radiograph = read(saved(tmp_path, ds))
    assert radiograph.header.transfer_syntax_uid == syntax
    assert np.abs(radiograph.pixels - original.pixels).max() < 0.05


def test_rle_keeps_high_bit_and_overlay_bits_where_they_were(tmp_path: Path) -> None:
    cells = (picture(12) << np.uint16(2)) | np.uint16(0x8001)
    ds = data_set(cells, BitsStored=12, HighBit=13)
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.compress(uid.RLELossless)
    assert np.array_equal(read(saved(tmp_path, ds)).pixels, render(image(12)).pixels)


def test_grey_secondary_capture_in_jpeg_colour_is_read(tmp_path: Path) -> None:
    channels = np.repeat(picture(8)[..., None], 3, axis=2)
    ds = data_set(channels, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    ds.PlanarConfiguration = 0
    radiograph = read(by_dcmtk(tmp_path, ds, "+eb", "+q", "95"))
    plain = render(data_set(picture(8)))
    assert np.abs(radiograph.pixels - plain.pixels).mean() < 0.02


def test_no_transfer_syntax_is_untested() -> None:
    tested = {syntax for _, syntax in LOSSLESS} | set(ENCODED_BY_PYDICOM)
    tested |= {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
    tested |= {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian}  # the property tests
    assert tested == set(TRANSFER_SYNTAXES)
