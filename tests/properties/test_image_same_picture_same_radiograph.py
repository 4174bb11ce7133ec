"""The same picture, however it is coded, is the same radiograph.

Exact codings (each grey level has a stored value of its own) agree to 1e-6, coarser ones to half
of their grey level. Every data set is written and read again, in Explicit and in Implicit VR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from prescreen.dicom.image import render
from tests.pictures import again, data_set

LEVELS = 200  # leaves room in 8 bits for a padding value
SHAPE = (33, 40)
EXACT = 1e-6


@dataclass(frozen=True)
class Coding:
    """One way to write a picture down."""

    bits_allocated: int
    bits_stored: int
    signed: bool
    low_bit: int
    inverse: str  # how it is said: "", "photometric", "shape", "both"
    modality: str  # "", "rescale", "lut"
    voi: str  # "", "linear", "linear_exact", "lut"
    padded: bool
    implicit: bool
    step: int
    junk: int

    def stored(self, levels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lowest = -(1 << (self.bits_stored - 1)) if self.signed else 0
        turned = LEVELS - 1 - levels if self.inverse else levels
        return lowest + self.step * turned

    @property
    def padding(self) -> int:
        return int(self.stored(np.array([0 if self.inverse else LEVELS - 1])).item()) + self.step


@st.composite
def codings(draw: st.DrawFn) -> Coding:
    bits_allocated = draw(st.sampled_from([8, 16, 16, 16, 32]))
    bits_stored = draw(st.integers(8, min(bits_allocated, 20)))
    widest = ((1 << bits_stored) - 1) // LEVELS
    return Coding(
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        signed=draw(st.booleans()),
        low_bit=draw(st.integers(0, bits_allocated - bits_stored)),
        inverse=draw(st.sampled_from(["", "photometric", "shape", "both"])),
        modality=draw(st.sampled_from(["", "rescale", "lut"] if bits_stored <= 16 else [""])),
        voi=draw(st.sampled_from(["", "linear", "linear_exact", "lut"])),
        padded=draw(st.booleans()) and bits_stored <= 16,  # Pixel Padding Value has 16 bits
        implicit=draw(st.booleans()),
        step=draw(st.integers(1, max(widest, 1))),
        junk=draw(st.integers(0, 2**32 - 1)),
    )


def picture(seed: int) -> npt.NDArray[np.int64]:
    """Grey levels 0…LEVELS - 1, both ends often enough to be no outliers."""
    levels = np.random.default_rng(seed).integers(0, LEVELS, SHAPE)
    levels[:, 0], levels[:, 1] = 0, LEVELS - 1
    return levels


def written(
    coding: Coding, levels: npt.NDArray[np.int64], hidden: npt.NDArray[np.bool_]
) -> Dataset:
    """`levels` in that coding, padding where `hidden`."""
    stored = coding.stored(levels)
    if coding.padded:
        stored = np.where(hidden, coding.padding, stored)
    ds = data_set(
        _cells(coding, stored),
        BitsStored=coding.bits_stored,
        HighBit=coding.low_bit + coding.bits_stored - 1,
        PixelRepresentation=int(coding.signed),
        PhotometricInterpretation=(
            "MONOCHROME1" if coding.inverse in ("photometric", "both") else "MONOCHROME2"
        ),
    )
    if coding.inverse in ("shape", "both"):
        ds.PresentationLUTShape = "INVERSE"
    if coding.padded:
        _add_words(ds, "PixelPaddingValue", coding.padding)
    _add_voi(ds, coding, *_add_modality(ds, coding))
    return again(ds, coding.implicit)


def _cells(coding: Coding, stored: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    mask = (1 << coding.bits_stored) - 1
    junk = np.random.default_rng(coding.junk).integers(0, 2**coding.bits_allocated, SHAPE)
    cells = (stored & mask) << coding.low_bit | junk & ~(mask << coding.low_bit)
    return cells.astype(f"<u{coding.bits_allocated // 8}")


def _add_modality(ds: Dataset, coding: Coding) -> tuple[float, float]:
    """The modality value of the lowest and of the highest grey level of the stored values."""
    ends = coding.stored(np.array([0, LEVELS - 1]))
    low, high = int(ends.min()), int(ends.max())
    if coding.modality == "rescale":
        ds.RescaleSlope, ds.RescaleIntercept = "-0.5", "1000"
        return 1000 - 0.5 * low, 1000 - 0.5 * high
    if coding.modality == "lut":
        ds.ModalityLUTSequence = [_lut(low, coding.step, 12)]
        return 0, 4 * (LEVELS - 1)
    return low, high


def _add_words(ds: Dataset, keyword: str, *numbers: int) -> None:
    """A US or SS attribute; US where a number is too high for SS, whatever sign others have."""
    signed = min(numbers) < 0 and max(numbers) < 32768
    words = list(numbers) if signed else [number & 0xFFFF for number in numbers]
    ds.add_new(keyword, "SS" if signed else "US", words)


def _lut(first: int, step: int, bits: int) -> Dataset:
    """Entries that rise by 4 (12 bits) or 257 (16 bits) from one grey level to the next."""
    count = step * (LEVELS - 1) + 1
    levels = np.arange(count) // step
    scaled = levels * 4 if bits == 12 else np.rint(levels * 65535 / (LEVELS - 1)).astype(int)
    item = Dataset()
    _add_words(item, "LUTDescriptor", count % 65536, first, bits)
    item.add_new("LUTData", "OW", scaled.astype("<u2").tobytes())
    return item


def _add_voi(ds: Dataset, coding: Coding, first: float, last: float) -> None:
    low, high = min(first, last), max(first, last)
    falling = last < first
    if coding.voi == "lut" and coding.bits_stored <= 16 and coding.modality != "rescale":
        step = 4 if coding.modality == "lut" else coding.step
        ds.VOILUTSequence = [_lut(int(low), step, 16)]
    elif coding.voi == "linear":
        ds.WindowCenter, ds.WindowWidth = str((low + high + 1) / 2), str(high - low + 1)
    elif coding.voi in ("linear_exact", "lut"):
        ds.WindowCenter, ds.WindowWidth = str((low + high) / 2), str(high - low)
        ds.VOILUTFunction = "LINEAR_EXACT"
    if falling:  # a negative slope has turned the picture around: say so
        is_inverse = coding.inverse != ""
        ds.PhotometricInterpretation = "MONOCHROME2" if is_inverse else "MONOCHROME1"
        ds.PresentationLUTShape = "IDENTITY" if is_inverse else "INVERSE"


@settings(max_examples=200, deadline=None)
@given(codings(), st.integers(0, 1000))
def test_every_exact_coding_gives_the_same_radiograph(coding: Coding, seed: int) -> None:
    levels = picture(seed)
    hidden = np.zeros(SHAPE, bool)
    hidden[10:20, 10:20] = True
    pixels = render(written(coding, levels, hidden)).pixels
    expected = levels / (LEVELS - 1)
    if coding.padded:
        expected = np.where(hidden, 0, expected)
    rounding = 0.5 / 65535 if "lut" in coding.voi else 0
    assert np.abs(pixels - expected).max() <= EXACT + rounding
    assert pixels.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(
    st.integers(8, 16),
    st.booleans(),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_coarser_codings_stay_within_half_their_grey_level(
    bits: int, signed: bool, photometric: str, windowed: bool, seed: int
) -> None:
    grey = np.random.default_rng(seed).random(SHAPE)
    grey[:, 0], grey[:, 1] = 0, 1
    top = (1 << bits) - 1
    shown = grey if photometric == "MONOCHROME2" else 1 - grey
    stored = np.rint(shown * top).astype(np.int64) - (1 << bits - 1 if signed else 0)
    ds = data_set(
        (stored & top).astype("<u2"),
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
        PhotometricInterpretation=photometric,
    )
    if windowed:
        ds.WindowCenter = str(top / 2 - (1 << bits - 1 if signed else 0))
        ds.WindowWidth, ds.VOILUTFunction = str(top), "LINEAR_EXACT"
    pixels = render(again(ds)).pixels
    assert np.abs(pixels - grey).max() <= 0.5 / top + EXACT


@settings(max_examples=50, deadline=None)
@given(codings(), codings(), st.integers(0, 1000))
def test_the_digest_tells_pictures_apart_and_not_overlays(
    coding: Coding, other: Coding, seed: int
) -> None:
    levels, nothing = picture(seed), np.zeros(SHAPE, bool)
    first = render(written(coding, levels, nothing))
    assert render(written(coding, levels, nothing)).pixel_sha256 == first.pixel_sha256
    overlaid = Coding(**{**vars(coding), "junk": other.junk})
    assert render(written(overlaid, levels, nothing)).pixel_sha256 == first.pixel_sha256
    assert render(written(coding, picture(seed + 1), nothing)).pixel_sha256 != first.pixel_sha256
