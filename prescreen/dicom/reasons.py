"""Why an image can never be screened: the codes that stand in the audit log."""

from __future__ import annotations

import enum


class ImageReason(enum.StrEnum):
    """`UnusableImage.reason` of everything that reads pixels. The text beside it says more."""

    #: the file cannot be opened or read
    UNREADABLE = "unreadable"
    #: not DICOM Part 10, or damaged so that it does not parse
    UNPARSABLE = "unparsable"
    #: the file or its pixel data ends too early
    TRUNCATED = "truncated"
    #: nesting, number, size or kind of data elements that no radiograph has
    IMPLAUSIBLE_DATA_SET = "implausible_data_set"
    #: none of the transfer syntaxes that are decoded
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    #: an object without Pixel Data (a report, a presentation state)
    NO_PIXEL_DATA = "no_pixel_data"
    #: Rows, Columns, bits or lengths that are missing, impossible or contradict each other
    IMPLAUSIBLE_PIXELS = "implausible_pixels"
    #: fewer pixels than any radiograph has
    TOO_SMALL = "too_small"
    #: more pixels than the setting `max_megapixels` allows
    TOO_LARGE = "too_large"
    #: more than one frame
    MULTI_FRAME = "multi_frame"
    #: colour with content in it
    COLOUR = "colour"
    #: floating-point pixels or 1 bit a pixel
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    #: the compressed pixels do not decode
    DECODE_FAILED = "decode_failed"
    #: the decoding process died
    DECODE_CRASHED = "decode_crashed"
    #: the decoding process took more processor time than the setting `decode_seconds`
    DECODE_TIMEOUT = "decode_timeout"
    #: the decoding process wanted more than the setting `decode_memory_mb`
    DECODE_MEMORY = "decode_memory"
