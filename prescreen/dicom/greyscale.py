"""The grey-scale pipeline of PS3.4 N.2 on a table: stored values → 0…1, air dark.

pydicom's `apply_modality_lut` and `apply_voi_lut` are not used: they fail on a Modality LUT of 12
bits and on "US or SS" in Implicit VR, wrap around in a VOI LUT of 8 bits with more than 256
entries, turn a negative slope around, refuse windows narrower than 1, and answer in a range that
has to be found out again. On a table of at most 65,536 entries the whole of it is a page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.cells import Stored
from prescreen.study import FloatArray

_Table = npt.NDArray[np.float64]

#: Without a window the display range leaves out this share of the pixels at either end.
OUTLIERS = 0.001
_SAMPLE = 1_000_000  # pixels that are enough to find it


def greyscale(attributes: Attributes, stored: Stored) -> FloatArray:
    """The displayed grey of every possible cell: float32, (len(stored.values),), 0…1, air dark.

    Modality LUT or rescale (PS3.3 C.11.1), VOI LUT or window (C.11.2), of several the first, and
    without either the range of the pixels but for OUTLIERS; MONOCHROME1 or Presentation LUT Shape
    INVERSE turn it around once, as they say the same (C.8.11.3.1.2). Padding (C.7.5.1.1.2) takes
    no part in the range, and is 0.
    """
    padding = _padding(attributes, stored)
    modality = _modality(attributes, stored)
    shown = _voi(attributes, modality)
    if shown is None:
        shown = _stretched(modality, _counts(stored, padding))
    if _is_inverse(attributes, stored):
        shown = 1.0 - shown
    shown[padding] = 0.0
    return shown.astype(np.float32)


def _is_inverse(attributes: Attributes, stored: Stored) -> bool:
    return (
        stored.layout.photometric_interpretation == "MONOCHROME1"
        or attributes.code("PresentationLUTShape") == "INVERSE"
    )


def _padding(attributes: Attributes, stored: Stored) -> npt.NDArray[np.bool_]:
    """Which cells are padding: the value, or the range up to the limit, either way round.

    A padding value that Bits Stored cannot hold fills the whole cell, unused bits included.
    """
    layout = stored.layout
    words = attributes.words("PixelPaddingValue")
    if words.size == 0:
        return np.zeros(stored.values.shape, bool)
    limits = attributes.words("PixelPaddingRangeLimit")
    ends = [int(_signed(word[:1], layout.signed)[0]) for word in (words, limits) if word.size]
    low, high = min(ends), max(ends)
    padding = (stored.values >= low) & (stored.values <= high)
    fits = _representable(layout.bits_stored, layout.signed)
    if layout.bits_allocated == 16 and len(stored.values) == 1 << 16 and words[0] not in fits:
        padding[int(words[0])] = True
    return padding


def _representable(bits: int, signed: bool) -> range:
    """Words that are themselves stored values of that many bits (signed ones: never apart)."""
    return range(1 << 16) if signed and bits >= 16 else range(1 << min(bits, 16))


def _signed(words: npt.NDArray[np.uint16], signed: bool) -> npt.NDArray[np.int64]:
    return np.asarray(words.view(np.int16) if signed else words, np.int64)


def _modality(attributes: Attributes, stored: Stored) -> _Table:
    values = stored.values.astype(np.float64)
    for item in attributes.items("ModalityLUTSequence"):
        lut = _lut(item, stored.layout.signed)
        if lut is not None:
            return lut.entries[lut.indices(values)]
        break
    slope, intercept = attributes.number("RescaleSlope"), attributes.number("RescaleIntercept")
    if not slope or intercept is None:  # a slope of 0 would leave no picture: it is malformed
        return values
    return values * slope + intercept


@dataclass(frozen=True)
class _Lut:
    """One item of a LUT sequence: entries, the first value mapped, and the full scale."""

    entries: _Table
    first: int
    full_scale: float

    def indices(self, values: _Table) -> npt.NDArray[np.intp]:
        """Where each value looks; beyond the ends the last entry counts (C.11.1.1.1)."""
        indices = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(indices, np.intp)


def _lut(item: Attributes, signed: bool) -> _Lut | None:
    descriptor = item.words("LUTDescriptor")
    words = item.words("LUTData")
    if descriptor.size < 3 or words.size == 0:
        return None
    count = int(descriptor[0]) or 1 << 16
    if int(descriptor[2]) == 8 and words.size == (count + 1) // 2 and count > 1:
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)  # two entries in each word
    if words.size < count:
        return None
    entries = words[:count].astype(np.float64)
    first = int(_signed(descriptor[1:2], signed)[0])
    return _Lut(entries, first, _full_scale(int(descriptor[2]), int(entries.max())))


def _full_scale(bits: int, highest: int) -> float:
    """2^bits − 1; the bits that the entries really have where the descriptor cannot be right.

    A table that leaves the upper half of its scale empty would show a picture half as bright.
    """
    needed = max(highest.bit_length(), 1)
    return float((1 << (bits if bits == needed else needed)) - 1)


def _voi(attributes: Attributes, modality: _Table) -> _Table | None:
    """0…1 by the first VOI LUT, or else by the first window; None where there is neither."""
    for item in attributes.items("VOILUTSequence"):
        lut = _lut(item, signed=bool(modality.min() < 0))
        if lut is not None:
            return lut.entries[lut.indices(modality)] / lut.full_scale
        break
    center, width = attributes.number("WindowCenter"), attributes.number("WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    return _window(modality, center, width, attributes.code("VOILUTFunction"))


def _window(values: _Table, center: float, width: float, function: str | None) -> _Table:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT)."""
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / width, -700, 700)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))
    if function != "LINEAR_EXACT" and width >= 1:
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.asarray(values > center, np.float64)
    return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))


def _counts(stored: Stored, padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How often each cell occurs in an even sample of the image, padding left out."""
    step = max(1, math.isqrt(stored.cells.size // _SAMPLE))
    sample = stored.cells[::step, ::step].ravel()
    counts = np.bincount(sample, minlength=len(stored.values))
    return np.where(padding, 0, counts)


def _stretched(values: _Table, counts: npt.NDArray[np.int64]) -> _Table:
    """0…1 between the lowest and the highest value but for OUTLIERS at either end."""
    occurring = np.flatnonzero(counts)
    if occurring.size == 0:
        return np.zeros(values.shape)
    order = occurring[np.argsort(values[occurring], kind="stable")]
    up, down = np.cumsum(counts[order]), np.cumsum(counts[order[::-1]])
    skipped = int(OUTLIERS * up[-1])
    low = values[order[np.searchsorted(up, skipped, side="right")]]
    high = values[order[::-1][np.searchsorted(down, skipped, side="right")]]
    if high <= low:
        return np.zeros(values.shape)
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0))
