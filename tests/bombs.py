"""Files that ask for far more than they are: what they unpack to, how deep, how many, how long."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.parcels import element, nested, with_element
from tests.pictures import data_set, part10, ramp

SIZ = b"\xff\x4f\xff\x51\x00\x29\x00\x00"


def jpeg_2000(side: int) -> bytes:
    """The head of a code stream of side × side pixels, as long as the smallest real one."""
    size = side.to_bytes(4, "big") * 2
    return SIZ + size + bytes(8) + size + bytes(8) + b"\x00\x01\x0f\x01\x01" + bytes(780)


def jpeg(side: int) -> bytes:
    two = side.to_bytes(2, "big") * 2
    return b"\xff\xd8\xff\xc3\x00\x0b\x10" + two + b"\x01\x01\x11\x00" + bytes(200)


def rle(segments: int = 2) -> bytes:
    return struct.pack("<16I", segments, 64, 164, *[0] * 13) + b"\x81\x00" * 100


def compressed(syntax: str, stream: bytes, side: int) -> bytes:
    ds = data_set(ramp(), Rows=side, Columns=side)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.PixelData = encapsulate([stream])
    return part10(ds)


def deflated() -> bytes:
    """512 MiB of zeros behind a few hundred KiB."""
    whole = part10(data_set(ramp(), Rows=16384, Columns=16384))
    start = (
        whole.index(b"\x08\x00\x05\x00")
        if b"\x08\x00\x05\x00" in whole
        else whole.index(b"\x08\x00\x16\x00")
    )
    old, new = pydicom.uid.ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian
    padded = new.encode() + b"\0" * (len(new) % 2)
    was = element(0x00020010, b"UI", old.encode() + b"\0")
    head = whole[:start].replace(was, element(0x00020010, b"UI", padded))
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = [packer.compress(whole[start:])]
    packed += [packer.compress(bytes(1 << 24)) for _ in range(32)]
    return head + b"".join(packed) + packer.flush()


def many_elements() -> bytes:
    """A million elements of nothing, eight bytes each."""
    numbers = np.arange(1_000_000)
    cells = np.zeros((1_000_000, 4), "<u2")
    cells[:, 0], cells[:, 1] = 0x0019 + 2 * (numbers >> 16), numbers & 0xFFFF
    cells[:, 2] = int.from_bytes(b"LO", "little")
    return with_element(part10(data_set(ramp())), 0x00190000, cells.tobytes())


def many_items(defined: bool) -> bytes:
    """A million empty items in one sequence."""
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000
    end = b"" if defined else b"\xfe\xff\xdd\xe0\0\0\0\0"
    length = len(items) if defined else 0xFFFFFFFF
    encoded = element(0x00082112, b"SQ", items + end, length)
    return with_element(part10(data_set(ramp())), 0x00082112, encoded)


def malformed_items() -> bytes:
    """The same behind an item that is none: a parser that goes on makes a million objects."""
    items = b"\x08\x00\x60\x00\0\0\0\0" + b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000
    return with_element(part10(data_set(ramp())), 0x00082112, element(0x00082112, b"SQ", items))


def many_values() -> bytes:
    """An Image Type of five million values."""
    whole = part10(data_set(ramp()), implicit=True)
    value = b"A\\" * 5_000_000
    start = whole.index(b"\x08\x00\x16\x00")
    return (
        whole[:start]
        + b"\x08\x00\x08\x00"
        + struct.pack("<I", len(value))
        + value
        + (whole[start:])
    )


def large_header() -> bytes:
    """A private element of 40 MB before the pixels."""
    encoded = element(0x00191010, b"OB", bytes(40_000_000))
    return with_element(part10(data_set(ramp())), 0x00191010, encoded)


def lying_length() -> bytes:
    """An element that claims 4 GiB."""
    encoded = element(0x00191010, b"OB", b"ab", 0xFFFFFFF0)
    return with_element(part10(data_set(ramp())), 0x00191010, encoded)


def deep(levels: int, defined: bool = False) -> Callable[[], bytes]:
    encoded = nested(levels, defined)
    return lambda: with_element(part10(data_set(ramp())), 0x00091010, encoded)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(500)

#: Row D4: what is unpacked to more than it is. For each the reason that it is not decoded.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated": (deflated, "unsupported_transfer_syntax"),
    "jpeg 2000 of 400 megapixels": (
        lambda: compressed(JPEG2000Lossless, jpeg_2000(20_000), 20_000),
        "too_large",
    ),
    "jpeg 2000 larger than its data set says": (
        lambda: compressed(JPEG2000Lossless, jpeg_2000(20_000), 64),
        "implausible_pixels",
    ),
    "jpeg 2000 of 838 bytes": (
        lambda: compressed(JPEG2000Lossless, jpeg_2000(8_000), 8_000),
        "implausible_pixels",
    ),
    "jpeg ls of 200 bytes": (
        lambda: compressed(JPEGLSLossless, jpeg(8_000), 8_000),
        "implausible_pixels",
    ),
    "rle of 65535 squared": (lambda: compressed(RLELossless, rle(), 65_535), "too_large"),
    "rle of 264 bytes": (lambda: compressed(RLELossless, rle(), 8_000), "implausible_pixels"),
    "rle with fifteen segments": (
        lambda: compressed(RLELossless, rle(15), 64),
        "implausible_pixels",
    ),
    "jpeg with a lying SOF": (
        lambda: compressed(JPEGLosslessSV1, jpeg(60_000), 512),
        "implausible_pixels",
    ),
    "png in OB": (lambda: compressed(JPEGLosslessSV1, PNG, 256), "decode_failed"),
    "png in native pixels": (
        lambda: part10(data_set(ramp(), Rows=4_000, Columns=4_000)),
        "truncated",
    ),
    "a million elements": (many_elements, "implausible_data_set"),
    "a million items": (lambda: many_items(False), "implausible_data_set"),
    "a million items of defined length": (lambda: many_items(True), "implausible_data_set"),
    "a million items behind a malformed one": (malformed_items, "unparsable"),
    # read as if it had no Image Type: a malformed tag refuses nothing
    "five million values": (many_values, "accepted"),
    "40 MB beside the pixels": (large_header, "implausible_data_set"),
    "4 GiB claimed": (lying_length, "truncated"),
}
#: Row D5: sequences in sequences.
NESTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "65 deep": (deep(65), "implausible_data_set"),
    "65 deep of defined length": (deep(65, defined=True), "implausible_data_set"),
    "500 deep": (deep(500), "implausible_data_set"),
    "400 deep of defined length": (deep(400, defined=True), "implausible_data_set"),
    "100000 deep": (deep(100_000), "implausible_data_set"),
}
