"""Pixel data → cells: the integers of one grey image and the stored value each of them means.

A cell is what Bits Allocated reserves for a pixel; the stored value are Bits Stored of its bits.
Overlay bits, sign and High Bit are settled once per possible cell, not once per pixel.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.pixels.decoders.base import JPEGExtended12BitDecoder, get_decoder

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.layout import Layout, check_code_stream, code_stream
from prescreen.dicom.reasons import ImageReason
from prescreen.errors import UnusableImage

Cells = npt.NDArray[np.unsignedinteger[Any]]
Values = npt.NDArray[np.int64]

# One decoder per transfer syntax, none of them GPL: what decodes never depends on what else is
# installed. 12-bit JPEG is read by GDCM, which pydicom's own plugin for it refuses to try.
_GDCM_12_BIT = "gdcm_12_bit"
_DECODERS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: _GDCM_12_BIT,
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.RLELossless: "pydicom",
}
#: What pydicom warns of, and then cuts off.
_TOO_LONG = "The decoded RLE segment contains non-conformant padding"
_NEAREST_GREY = 2  # grey levels between channels that lossy compression leaves of one grey


@dataclass(frozen=True)
class Stored:
    """`cells` (rows, columns) unsigned; `values[cell]` is the stored value of that cell."""

    cells: Cells
    values: Values
    layout: Layout

    @property
    def sha256(self) -> str:
        """Digest of the stored values, little-endian, in as few bytes a pixel as Bits Stored needs.

        The same for every lossless transfer syntax, and blind to overlay bits.
        """
        size = next(n for n in (1, 2, 4) if self.layout.bits_stored <= 8 * n)
        dtype = np.dtype(f"<{'i' if self.layout.signed else 'u'}{size}")
        if self.cells.dtype == np.dtype(f"<u{size}") and self._is_plain():
            return hashlib.sha256(np.ascontiguousarray(self.cells).data).hexdigest()
        return hashlib.sha256(self.values.astype(dtype)[self.cells].tobytes()).hexdigest()

    def _is_plain(self) -> bool:
        """Whether no cell has bits beside those of its value, so that it can be hashed as it is."""
        if self.layout.signed or self.layout.high_bit != self.layout.bits_stored - 1:
            return False
        return int(self.cells.max()) < 1 << self.layout.bits_stored


def stored_pixels(ds: pydicom.Dataset, layout: Layout) -> Stored:
    """The pixels of `ds`, decoded if they are compressed; native ones are not copied.

    Raises UnusableImage where they do not decode, or are colour that is more than grey.
    """
    pixel_data = Attributes(ds).content("PixelData")
    if layout.samples_per_pixel == 3:
        cells, layout = _grey_of_colour(pixel_data, layout)
    elif layout.encapsulated:
        cells, layout = _decoded(pixel_data, layout)
    else:
        count = layout.rows * layout.columns
        cells = np.frombuffer(pixel_data, f"<u{layout.bits_allocated // 8}", count)
        cells = cells.reshape(layout.rows, layout.columns)
    if cells.dtype.itemsize > 2:
        return _stored_32_bit(cells, layout)
    possible = np.arange(1 << 8 * cells.dtype.itemsize, dtype=np.int64)
    return Stored(cells, _values(possible, layout), layout)


def _values(cells: Values, layout: Layout) -> Values:
    """The stored value in each cell (PS3.5 8.1.1): shifted down, cut to size, sign extended."""
    values = (cells >> (layout.high_bit + 1 - layout.bits_stored)) & ((1 << layout.bits_stored) - 1)
    if layout.signed:
        values = np.where(
            values >> (layout.bits_stored - 1), values - (1 << layout.bits_stored), values
        )
    return values


def _stored_32_bit(cells: Cells, layout: Layout) -> Stored:
    """Too many possible cells for a table: number those that occur."""
    occurring, numbers = np.unique(cells, return_inverse=True)
    named: Cells = np.asarray(numbers, np.uint32).reshape(cells.shape)
    return Stored(named, _values(occurring.astype(np.int64), layout), layout)


def _decoded(pixel_data: bytes, layout: Layout) -> tuple[Cells, Layout]:
    precision = check_code_stream(layout, code_stream(pixel_data))
    array = _as_array(pixel_data, layout, raw=True)
    shifted = precision is None or precision > layout.high_bit
    high_bit = layout.high_bit if shifted else layout.bits_stored - 1
    cells = array.view(f"u{array.dtype.itemsize}")
    return cells, replace(layout, high_bit=min(high_bit, 8 * array.dtype.itemsize - 1))


def _grey_of_colour(pixel_data: bytes, layout: Layout) -> tuple[Cells, Layout]:
    """The grey image that a colour one is, if its three channels are the same."""
    if layout.encapsulated:
        check_code_stream(layout, code_stream(pixel_data))
    channels = _as_array(pixel_data, layout, raw=False).astype(np.int16)
    if np.ptp(channels, axis=2).max() > _NEAREST_GREY:
        raise UnusableImage(
            f"the image is colour ({layout.photometric_interpretation}): "
            "only grey radiographs are screened",
            ImageReason.COLOUR,
        )
    grey = replace(layout, samples_per_pixel=1, photometric_interpretation="MONOCHROME2")
    return np.ascontiguousarray(channels[..., 1]).astype(np.uint8), grey


def _as_array(pixel_data: bytes, layout: Layout, raw: bool) -> npt.NDArray[Any]:
    """Decode by pydicom, told of the layout found plausible and not of the data set's words."""
    syntax = layout.transfer_syntax_uid
    extended_8_bit = syntax == uid.JPEGExtended12Bit and layout.bits_allocated == 8
    plugin = "pillow" if extended_8_bit else _DECODERS.get(uid.UID(syntax), "")
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples_per_pixel,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": layout.pixel_representation,
        "photometric_interpretation": layout.photometric_interpretation,
        "planar_configuration": layout.planar_configuration,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
    }
    try:
        with warnings.catch_warnings():
            # a run that goes on beyond the picture is damaged, and what comes after it misplaced
            warnings.filterwarnings("error", message=_TOO_LONG)
            array, _ = get_decoder(syntax).as_array(
                pixel_data, raw=raw, decoding_plugin=plugin, **options
            )
    except MemoryError:
        raise
    except Exception as error:  # each codec has errors of its own, with offsets and paths in them
        raise UnusableImage(
            f"the compressed Pixel Data does not decode ({type(error).__name__}): "
            "it is damaged; send it again",
            ImageReason.DECODE_FAILED,
        ) from None
    return array


def _register_gdcm_12_bit() -> None:
    if _GDCM_12_BIT not in JPEGExtended12BitDecoder.available_plugins:
        JPEGExtended12BitDecoder.add_plugin(
            _GDCM_12_BIT, ("prescreen.dicom.jpeg_12_bit", "_decode_frame")
        )


_register_gdcm_12_bit()
