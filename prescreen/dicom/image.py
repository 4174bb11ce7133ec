"""Part 10 → `study.Radiograph`: the front door of everything that reads images.

`identify` reads a received object's UIDs, `read_header` and `header_of` what rules are made of,
`Decoder` its pixels, in processes of its own. `ImageReason` lists why an image cannot be used.
"""

from __future__ import annotations

from prescreen.dicom.decode import Decoder, read_image
from prescreen.dicom.header import header_of, read_header
from prescreen.dicom.identity import TRANSFER_SYNTAXES, identify
from prescreen.dicom.reasons import ImageReason
from prescreen.dicom.render import LEAST_SIDE, render

__all__ = [
    "LEAST_SIDE",
    "TRANSFER_SYNTAXES",
    "Decoder",
    "ImageReason",
    "header_of",
    "identify",
    "read_header",
    "read_image",
    "render",
]
