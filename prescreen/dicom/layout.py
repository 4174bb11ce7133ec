"""What a data set says of its pixels, and whether that can be true, before anything is decoded.

A few bytes of header can ask for gigabytes; here they are held against each other, against the
length of the pixel data and against the code stream's own header.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import UID

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.identity import check_transfer_syntax
from prescreen.dicom.reasons import ImageReason
from prescreen.errors import UnusableImage

#: No radiograph is smaller; the networks look at 224 × 224.
SMALLEST = 32
#: Bytes of pixels that one byte of a code stream may stand for. RLE cannot reach it (64) nor JPEG
#: (85); only JPEG 2000 and JPEG-LS can, with a picture that has nothing in it.
DENSEST = 500
#: Bytes up to which that is not asked: small pictures, mostly of what surrounds them.
_SMALLEST_STREAM = 1_024
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_J2K_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Layout:
    """The Image Pixel Module (PS3.3 C.7.6.3) of one frame, found plausible.

    `high_bit` is where the topmost stored bit lies in a cell of `bits_allocated` bits, as the
    decoder will hand the cells out.
    """

    transfer_syntax_uid: str
    photometric_interpretation: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    planar_configuration: int = 0

    @property
    def signed(self) -> bool:
        return self.pixel_representation == 1

    @property
    def encapsulated(self) -> bool:
        return UID(self.transfer_syntax_uid).is_encapsulated


def layout_of(ds: pydicom.Dataset, max_megapixels: float) -> Layout:
    """The layout of the one grey frame of `ds`.

    Raises UnusableImage, its text naming the attribute, where there are no pixels to screen or
    where what is said of them cannot be.
    """
    attributes = Attributes(ds)
    meta = getattr(ds, "file_meta", None)
    uid = None if meta is None else Attributes(meta).text("TransferSyntaxUID")
    check_transfer_syntax(uid, _unsupported_transfer_syntax)
    _check_kind(attributes, ds)
    _check_frames(attributes)
    rows, columns = _size(attributes, max_megapixels)
    photometric = _photometric(attributes)
    allocated, stored, high_bit = _bits(attributes)
    layout = Layout(
        transfer_syntax_uid=str(uid),
        photometric_interpretation=photometric,
        rows=rows,
        columns=columns,
        samples_per_pixel=1 if photometric in _GREYS else 3,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        pixel_representation=1 if attributes.integer("PixelRepresentation") == 1 else 0,
        planar_configuration=1 if attributes.integer("PlanarConfiguration") == 1 else 0,
    )
    if not layout.encapsulated:
        _check_native_length(layout, len(attributes.content("PixelData")))
    return layout


def _unsupported_transfer_syntax(message: str) -> UnusableImage:
    return UnusableImage(message, ImageReason.UNSUPPORTED_TRANSFER_SYNTAX)


def _check_kind(attributes: Attributes, ds: pydicom.Dataset) -> None:
    if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        raise UnusableImage(
            "floating-point pixel data is no radiograph", ImageReason.UNSUPPORTED_PIXELS
        )
    if not attributes.content("PixelData"):
        raise UnusableImage(
            "the object has no Pixel Data (7FE0,0010): it is no image, or the file is cut short",
            ImageReason.NO_PIXEL_DATA,
        )


def _check_frames(attributes: Attributes) -> None:
    if attributes.text("NumberOfFrames") is None:
        return
    frames = attributes.integer("NumberOfFrames")
    if frames is None or frames < 1:
        raise _implausible("NumberOfFrames is not a whole number above 0")
    if frames > 1:
        raise UnusableImage(
            f"NumberOfFrames is {frames}: only single images are screened", ImageReason.MULTI_FRAME
        )


def _size(attributes: Attributes, max_megapixels: float) -> tuple[int, int]:
    rows, columns = (_positive(attributes, keyword) for keyword in ("Rows", "Columns"))
    if min(rows, columns) < SMALLEST:
        raise UnusableImage(
            f"Rows × Columns is {rows} × {columns}: no radiograph is smaller than "
            f"{SMALLEST} × {SMALLEST}",
            ImageReason.TOO_SMALL,
        )
    if rows * columns > max_megapixels * 1e6:
        raise UnusableImage(
            f"Rows × Columns is {rows} × {columns}: more than max_megapixels = "
            f"{max_megapixels:g} allows",
            ImageReason.TOO_LARGE,
        )
    return rows, columns


def _positive(attributes: Attributes, keyword: str) -> int:
    value = attributes.integer(keyword)
    if value is None:
        raise _implausible(f"{keyword} is missing or not a number")
    if value < 1:
        raise _implausible(f"{keyword} is {value}: an impossible value")
    return value


def _photometric(attributes: Attributes) -> str:
    """One of the greys, or a colour space whose channels may turn out to be equal."""
    photometric = attributes.code("PhotometricInterpretation")
    samples = attributes.integer("SamplesPerPixel")
    if photometric in _GREYS:
        if samples not in (None, 1):
            raise _implausible(f"SamplesPerPixel is {samples} with {photometric}: it must be 1")
        return photometric
    if photometric in _COLOURS:
        if samples != 3:
            raise _implausible(f"SamplesPerPixel is {samples} with {photometric}: it must be 3")
        if attributes.integer("BitsAllocated") != 8:
            raise UnusableImage("colour of more than 8 bits is not screened", ImageReason.COLOUR)
        return photometric
    if photometric is None:
        raise _implausible("PhotometricInterpretation is missing")
    raise UnusableImage(
        "PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2: colour is not screened",
        ImageReason.COLOUR,
    )


def _bits(attributes: Attributes) -> tuple[int, int, int]:
    allocated = _positive(attributes, "BitsAllocated")
    if allocated not in (8, 16, 32):
        raise UnusableImage(
            f"BitsAllocated is {allocated}: only 8, 16 and 32 are screened",
            ImageReason.UNSUPPORTED_PIXELS,
        )
    stored = _positive(attributes, "BitsStored")
    high_bit = attributes.integer("HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if stored > allocated:
        raise _implausible(f"BitsStored is {stored}, more than BitsAllocated, {allocated}")
    if not stored - 1 <= high_bit < allocated:
        raise _implausible(
            f"HighBit is {high_bit}: impossible with BitsStored {stored} "
            f"and BitsAllocated {allocated}"
        )
    return allocated, stored, high_bit


def _check_native_length(layout: Layout, length: int) -> None:
    samples = layout.samples_per_pixel
    if layout.photometric_interpretation == "YBR_FULL_422":
        samples = 2
    expected = layout.rows * layout.columns * samples * layout.bits_allocated // 8
    if length < expected:
        raise UnusableImage(
            f"Pixel Data is truncated: {length} bytes, where Rows × Columns ask for {expected}; "
            "send it again",
            ImageReason.TRUNCATED,
        )
    if length > expected + 1:  # one byte pads to an even length
        raise _implausible(
            f"Pixel Data has {length} bytes, where Rows × Columns ask for {expected}: "
            "one of them is wrong"
        )


def _implausible(message: str) -> UnusableImage:
    return UnusableImage(message, ImageReason.IMPLAUSIBLE_PIXELS)


def code_stream(pixel_data: bytes) -> bytes:
    """The code stream of the one frame, its fragments joined (PS3.5 A.4).

    Raises UnusableImage (`truncated`) where the items do not add up.
    """
    try:
        frame = get_frame(pixel_data, 0, number_of_frames=1)
    except Exception as error:  # struct.error, ValueError, EOFError … as the damage has it
        raise UnusableImage(
            f"the compressed Pixel Data is truncated or damaged ({type(error).__name__}); "
            "send it again",
            ImageReason.TRUNCATED,
        ) from None
    return bytes(frame)


def check_code_stream(layout: Layout, stream: bytes) -> int | None:
    """Hold the code stream's own size against the data set's; the bits a sample, if it says.

    Raises UnusableImage where they differ: the data set or the stream lies.
    """
    _check_density(layout, stream)
    if layout.transfer_syntax_uid in pydicom.uid.JPEG2000TransferSyntaxes:
        found = _jpeg_2000_size(stream)
    elif layout.transfer_syntax_uid == pydicom.uid.RLELossless:
        _check_rle_header(layout, stream)
        return None
    else:
        found = _jpeg_size(stream)
    if found is None:
        raise UnusableImage(
            "the compressed Pixel Data has no header of its transfer syntax: it is damaged, "
            "or the transfer syntax is wrong",
            ImageReason.DECODE_FAILED,
        )
    rows, columns, precision = found
    if (rows, columns) != (layout.rows, layout.columns):
        raise _implausible(
            f"Rows × Columns is {layout.rows} × {layout.columns}, but the compressed Pixel Data "
            f"is {rows} × {columns}"
        )
    return precision


def _check_density(layout: Layout, stream: bytes) -> None:
    """A picture of an X-ray detector has noise: what is packed beyond reason is a blank or a trap.

    A trap of 838 bytes makes a codec ask for gigabytes.
    """
    unpacked = layout.rows * layout.columns * layout.samples_per_pixel * layout.bits_allocated // 8
    if unpacked > DENSEST * max(len(stream), _SMALLEST_STREAM):
        raise _implausible(
            f"{len(stream)} bytes of compressed Pixel Data cannot hold "
            f"{layout.rows} × {layout.columns} pixels of a radiograph"
        )


def _check_rle_header(layout: Layout, stream: bytes) -> None:
    """One segment a byte of a pixel, each inside the frame, in order (PS3.5 G.5)."""
    wanted = layout.samples_per_pixel * layout.bits_allocated // 8
    if len(stream) < 64:
        raise _damaged_rle()
    count, *offsets = struct.unpack_from("<16I", stream)
    if count != wanted:
        raise _implausible(f"the RLE header names {count} segments, where {wanted} are needed")
    ends = [*offsets[1:count], len(stream)]
    if offsets[0] < 64 or any(b <= a for a, b in zip(offsets[:count], ends, strict=True)):
        raise _damaged_rle()


def _damaged_rle() -> UnusableImage:
    return UnusableImage(
        "the RLE header of the compressed Pixel Data does not decode: it is damaged; send it again",
        ImageReason.DECODE_FAILED,
    )


def _jpeg_2000_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and bits of the SIZ marker segment (ISO 15444-1 A.5.1)."""
    start = stream.find(_J2K_START, 0, 4096)
    if start < 0 or len(stream) < start + 43:
        return None
    width, height, x, y = struct.unpack_from(">4I", stream, start + 8)
    (precision,) = struct.unpack_from(">B", stream, start + 42)
    return height - y, width - x, (precision & 0x7F) + 1


_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# SOF0…SOF15 without DHT, JPG and DAC (ISO 10918-1 table B.1), and SOF55 of JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def _jpeg_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and bits of the frame header (ISO 10918-1 B.2.2)."""
    position = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while match := _MARKER.match(stream, position):
        position = match.end()
        if position + 7 > len(stream):
            break
        if match[1][0] in _FRAME_MARKERS:
            precision, rows, columns = struct.unpack_from(">BHH", stream, position + 2)
            return rows, columns, precision
        position += int.from_bytes(stream[position : position + 2], "big")
    return None
