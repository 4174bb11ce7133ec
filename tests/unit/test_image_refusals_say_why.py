"""Every image that cannot be used is refused with its code, in words that name what is wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from prescreen.dicom.attributes import without_warnings
from prescreen.dicom.decode import read_image
from prescreen.dicom.image import ImageReason, read_header, render
from prescreen.errors import UnusableImage
from tests.pictures import again, data_set, part10, ramp, saved


def without(keyword: str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        del ds[keyword]

    return change


def with_value(**values: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


REFUSED: list[tuple[Callable[[Dataset], None], ImageReason, str]] = [
    (without("PixelData"), ImageReason.NO_PIXEL_DATA, r"no Pixel Data \(7FE0,0010\)"),
    (without("Rows"), ImageReason.IMPLAUSIBLE_PIXELS, "Rows is missing"),
    (with_value(Rows=0), ImageReason.IMPLAUSIBLE_PIXELS, "Rows is 0: an impossible value"),
    (with_value(Columns=0), ImageReason.IMPLAUSIBLE_PIXELS, "Columns is 0: an impossible"),
    (with_value(Rows=1), ImageReason.TOO_SMALL, "Rows × Columns is 1 × 48"),
    (with_value(Rows=65535, Columns=65535), ImageReason.TOO_LARGE, "max_megapixels = 64"),
    (with_value(Rows=65), ImageReason.TRUNCATED, "truncated: 6144 bytes.*ask for 6240"),
    (with_value(Columns=47), ImageReason.IMPLAUSIBLE_PIXELS, "6144 bytes.*ask for 6016"),
    (with_value(NumberOfFrames=2), ImageReason.MULTI_FRAME, "NumberOfFrames is 2"),
    (with_value(NumberOfFrames=0), ImageReason.IMPLAUSIBLE_PIXELS, "NumberOfFrames is not"),
    (with_value(BitsAllocated=1), ImageReason.UNSUPPORTED_PIXELS, "BitsAllocated is 1"),
    (with_value(BitsAllocated=12), ImageReason.UNSUPPORTED_PIXELS, "BitsAllocated is 12"),
    (with_value(BitsAllocated=64), ImageReason.UNSUPPORTED_PIXELS, "BitsAllocated is 64"),
    (with_value(BitsStored=17), ImageReason.IMPLAUSIBLE_PIXELS, "BitsStored is 17"),
    (with_value(BitsStored=0), ImageReason.IMPLAUSIBLE_PIXELS, "BitsStored is 0"),
    (with_value(HighBit=3), ImageReason.IMPLAUSIBLE_PIXELS, "HighBit is 3"),
    (with_value(HighBit=16), ImageReason.IMPLAUSIBLE_PIXELS, "HighBit is 16"),
    (with_value(SamplesPerPixel=3), ImageReason.IMPLAUSIBLE_PIXELS, "SamplesPerPixel is 3"),
    (without("PhotometricInterpretation"), ImageReason.IMPLAUSIBLE_PIXELS, "is missing"),
    (
        with_value(PhotometricInterpretation="PALETTE COLOR"),
        ImageReason.COLOUR,
        "colour is not screened",
    ),
    (
        with_value(PhotometricInterpretation="RGB", SamplesPerPixel=3),
        ImageReason.COLOUR,
        "colour of more than 8 bits",
    ),
]


@pytest.mark.parametrize(("change", "reason", "words"), REFUSED, ids=lambda v: str(v)[:40])
def test_implausible_attributes_are_named(
    change: Callable[[Dataset], None], reason: ImageReason, words: str
) -> None:
    ds = data_set(ramp())
    change(ds)
    with pytest.raises(UnusableImage, match=words) as refusal:
        render(again(ds))
    assert refusal.value.reason == reason
    assert "Canary" not in str(refusal.value)


def test_float_pixels_are_refused() -> None:
    ds = data_set(ramp())
    del ds.PixelData
    ds.FloatPixelData = np.zeros(64 * 48, np.float32).tobytes()
    with pytest.raises(UnusableImage, match="floating-point") as refusal:
        render(again(ds))
    assert refusal.value.reason == ImageReason.UNSUPPORTED_PIXELS


def colour(channels: np.ndarray[Any, np.dtype[np.uint8]]) -> Dataset:
    return data_set(channels, SamplesPerPixel=3, PhotometricInterpretation="RGB")


def test_colour_is_refused_and_grey_in_three_channels_is_not() -> None:
    grey = (ramp(top=255)).astype(np.uint8)
    equal = np.repeat(grey[..., None], 3, axis=2)
    ds = colour(equal)
    ds.PlanarConfiguration = 0
    expected = render(data_set(grey)).pixels
    assert np.array_equal(render(again(ds)).pixels, expected)
    equal[5, 5, 0] ^= 0x40
    ds = colour(equal)
    ds.PlanarConfiguration = 0
    with pytest.raises(UnusableImage, match=r"the image is colour \(RGB\)") as refusal:
        render(again(ds))
    assert refusal.value.reason == ImageReason.COLOUR


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.1.2.4.100", r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.100 is not"),
        (DeflatedExplicitVRLittleEndian, "Deflated Explicit VR Little Endian is not supported"),
        ("1.2.840.10008.1.2.2", "use Explicit VR Little Endian"),
        ("Canary^Bird", r"\(malformed\) is not supported"),
    ],
)
def test_an_unknown_transfer_syntax_is_named(uid: str, words: str) -> None:
    ds = data_set(ramp())
    tag = ds.file_meta["TransferSyntaxUID"].tag
    ds.file_meta[tag] = pydicom.DataElement(tag, "UI", uid, validation_mode=0)
    with pytest.raises(UnusableImage, match=words) as refusal:
        render(ds)
    assert refusal.value.reason == ImageReason.UNSUPPORTED_TRANSFER_SYNTAX


def test_a_file_cut_short_says_so_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = part10(data_set(ramp()))
    path = tmp_path / "cut.dcm"
    start = whole.index(b"\xe0\x7f\x10\x00")
    for end in (start + 12, start + 500, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(UnusableImage, match=r"cut short|truncated") as refusal:
            read_image(path, 64, lambda shape: np.empty(shape, np.float32))
        assert refusal.value.reason in (ImageReason.TRUNCATED, ImageReason.NO_PIXEL_DATA)
    for end in range(0, start, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UnusableImage) as refusal:
            read_image(path, 64, lambda shape: np.empty(shape, np.float32))
        assert "Canary" not in str(refusal.value)


@pytest.mark.parametrize("read", [read_header, lambda path: read_image(path, 64, np.empty)])
def test_what_is_no_dicom_file_says_so(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "image.dcm"
    with pytest.raises(UnusableImage, match="cannot be read: No such file") as refusal:
        read(path)
    assert refusal.value.reason == ImageReason.UNREADABLE
    path.write_bytes(b"Canary^Bird" * 99)
    with pytest.raises(UnusableImage, match="does not parse as DICOM Part 10") as refusal:
        read(path)
    assert refusal.value.reason == ImageReason.UNPARSABLE
    assert "Canary" not in str(refusal.value)
    with pytest.raises(UnusableImage, match="cannot be read") as refusal:
        read(tmp_path)


J2K_400_MEGAPIXELS = (
    (b"\xff\x4f\xff\x51\x00\x29\x00\x00" + (20000).to_bytes(4, "big") * 2 + bytes(8))
    + (20000).to_bytes(4, "big") * 2
    + bytes(8)
    + b"\x00\x01\x07\x01\x01"
)
JPEG_SOF = b"\xff\xd8\xff\xe0\x00\x04\x00\x00\xff\xc3\x00\x0b\x10\x4e\x20\x4e\x20\x01\x01\x11\x00"


@pytest.mark.parametrize(
    ("uid", "stream", "reason", "words"),
    [
        (JPEG2000Lossless, J2K_400_MEGAPIXELS, "implausible_pixels", "is 20000 × 20000"),
        (JPEGLosslessSV1, JPEG_SOF, "implausible_pixels", "is 20000 × 20000"),
        (JPEGBaseline8Bit, b"no JPEG at all, really", "decode_failed", "no header of its"),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51", "decode_failed", "no header of its"),
        (RLELossless, b"\x01\x00\x00\x00", "decode_failed", "does not decode"),
    ],
)
def test_a_lying_or_damaged_code_stream_is_never_decoded(
    uid: str, stream: bytes, reason: str, words: str
) -> None:
    ds = data_set(ramp())
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    ds.PixelData = encapsulate([stream])
    with pytest.raises(UnusableImage, match=words) as refusal:
        render(ds)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("surplus", [1, 2, 128])
def test_runs_that_go_on_beyond_the_picture_are_damage(surplus: int) -> None:
    ds = data_set(ramp())
    ds.compress(RLELossless)
    (stream,) = generate_frames(ds.PixelData, number_of_frames=1)
    count, first, second = struct.unpack_from("<3I", stream)
    assert (count, first) == (2, 64)
    literal = bytes([surplus - 1]) + bytes(surplus)  # PS3.5 G.3.1: as many bytes as they stand
    high = stream[first:second] + literal + bytes(len(literal) % 2)
    header = struct.pack("<3I", 2, 64, 64 + len(high)) + bytes(52)
    ds.PixelData = encapsulate([header + high + stream[second:]])
    with without_warnings(), pytest.raises(UnusableImage, match="does not decode") as refusal:
        render(ds)
    assert refusal.value.reason == ImageReason.DECODE_FAILED


def test_compressed_pixels_cut_short_say_so(tmp_path: Path) -> None:
    ds = data_set(ramp())
    ds.compress(RLELossless)
    whole = part10(ds)
    path = tmp_path / "cut.dcm"
    start = whole.index(b"\xe0\x7f\x10\x00")
    for end in (start + 12, start + 20, start + 40, len(whole) - 9):
        path.write_bytes(whole[:end])
        with pytest.raises(UnusableImage, match=r"cut short|truncated"):
            read_image(path, 64, lambda shape: np.empty(shape, np.float32))


def test_nesting_beyond_reason_is_refused(tmp_path: Path) -> None:
    whole = part10(data_set(ramp()))
    start = whole.index(b"\x08\x00\x60\x00CS")  # Modality
    head = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path = tmp_path / "nested.dcm"
    path.write_bytes(whole[:start] + head * 100_000 + whole[start:])
    with pytest.raises(UnusableImage, match="nested more than 64 deep") as refusal:
        read_header(path)
    assert refusal.value.reason == ImageReason.IMPLAUSIBLE_DATA_SET


def test_the_header_is_read_without_pixels(tmp_path: Path) -> None:
    ds = read_header(saved(tmp_path, data_set(ramp())))
    assert isinstance(ds, pydicom.Dataset)
    assert ds.Rows == 64
    assert "PixelData" not in ds
