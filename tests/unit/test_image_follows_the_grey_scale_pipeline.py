"""Modality LUT, VOI LUT, presentation and padding, value by value (PS3.4 N.2)."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_windowing

from prescreen.dicom.image import render
from tests.pictures import again, data_set, ramp


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [("2000", "1500"), ("0", "8000"), ("4000", "2")])
def test_windows_agree_with_pydicom(function: str, center: str, width: str) -> None:
    ds = data_set(ramp(), BitsStored=12, HighBit=11, RescaleSlope="2", RescaleIntercept="-100")
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = center, width, function
    low, high = -100, 4095 * 2 - 100  # pydicom answers in the range of the stored bits
    with np.errstate(over="ignore"):
        answer = apply_windowing(apply_modality_lut(ramp(), ds), ds)
    theirs = (answer - low) / (high - low)
    assert render(again(ds)).pixels == pytest.approx(theirs, abs=1e-6)


def test_of_several_windows_the_first_counts() -> None:
    ds = data_set(ramp(), WindowCenter=["2000", "10"], WindowWidth=["1000", "5"])
    first = data_set(ramp(), WindowCenter="2000", WindowWidth="1000")
    assert np.array_equal(render(again(ds)).pixels, render(first).pixels)


def test_a_window_of_width_1_is_a_step() -> None:
    ds = data_set(ramp(), WindowCenter="2000.5", WindowWidth="1")
    assert np.array_equal(render(again(ds)).pixels, (ramp() > 2000).astype(np.float32))


@pytest.mark.parametrize(("center", "width"), [("2000", "0"), ("2000", "-5"), ("", ""), ("x", "y")])
def test_a_malformed_window_is_as_good_as_none(center: str, width: str) -> None:
    ds = data_set(ramp())
    ds.add_new("WindowCenter", "LO", center)
    ds.add_new("WindowWidth", "LO", width)
    assert np.array_equal(render(again(ds)).pixels, render(data_set(ramp())).pixels)


def test_without_a_window_outliers_do_not_set_the_range() -> None:
    cells = ramp(200, 200, 1000) + 1000
    plain = render(data_set(cells)).pixels
    cells[0, 0], cells[-1, -1] = 0, 65535
    hit = render(data_set(cells)).pixels
    assert np.abs(hit - plain)[1:-1].max() < 0.001


def test_a_flat_picture_without_a_window_is_dark() -> None:
    assert not render(data_set(np.full((64, 48), 700, np.uint16))).pixels.any()


def test_a_slope_of_zero_is_malformed() -> None:
    ds = data_set(ramp(), RescaleSlope="0", RescaleIntercept="7")
    assert np.array_equal(render(ds).pixels, render(data_set(ramp())).pixels)


def lut(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


def test_the_voi_lut_goes_before_a_window_and_holds_its_ends() -> None:
    ds = data_set(ramp(), WindowCenter="2000", WindowWidth="1000")
    ds.VOILUTSequence = [lut([0, 64, 255], 1000, 8)]
    values = ramp()
    expected = np.where(values <= 1000, 0, np.where(values == 1001, 64 / 255, 1)).astype(np.float32)
    assert np.array_equal(render(again(ds)).pixels, expected)


def test_a_descriptor_that_claims_too_many_bits_does_not_darken_the_picture() -> None:
    honest, boasting = data_set(ramp()), data_set(ramp())
    entries = list(range(4096))
    honest.VOILUTSequence = [lut(entries, 0, 12)]
    boasting.VOILUTSequence = [lut(entries, 0, 16)]
    assert np.array_equal(render(honest).pixels, render(boasting).pixels)
    assert render(honest).pixels.max() == 1


def test_eight_bit_entries_may_be_packed_two_in_a_word() -> None:
    packed, plain = data_set(ramp(top=255)), data_set(ramp(top=255))
    entries = np.arange(256)[::-1]
    plain.VOILUTSequence = [lut(entries.tolist(), 0, 8)]
    item = lut([], 0, 8)
    item.LUTDescriptor = [256, 0, 8]
    item.add_new("LUTData", "OW", entries.astype(np.uint8).tobytes())
    packed.VOILUTSequence = [item]
    assert np.array_equal(render(again(packed)).pixels, render(again(plain)).pixels)


@pytest.mark.parametrize("damage", ["LUTData", "LUTDescriptor"])
def test_a_lut_that_misses_a_part_is_passed_over(damage: str) -> None:
    ds = data_set(ramp(), WindowCenter="2000", WindowWidth="1000")
    ds.VOILUTSequence = [lut([0, 64, 255], 1000, 8)]
    del ds.VOILUTSequence[0][damage]
    window = data_set(ramp(), WindowCenter="2000", WindowWidth="1000")
    assert np.array_equal(render(again(ds)).pixels, render(window).pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_range_of_padding_is_dark_and_out_of_the_range(photometric: str) -> None:
    cells = ramp(top=1000)
    cells[:20] = np.arange(60000, 60020, dtype=np.uint16)[:, None]
    ds = data_set(cells, PhotometricInterpretation=photometric)
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 60019, 60000
    pixels = render(again(ds)).pixels
    assert not pixels[:20].any()
    assert pixels[20:].max() == 1
    assert pixels[20:].min() == 0
    assert (pixels[63, 40] > pixels[21, 5]) == (photometric == "MONOCHROME2")


def test_padding_that_bits_stored_cannot_hold_is_still_padding() -> None:
    cells = ramp()
    cells[:20] = 0xF000
    ds = data_set(cells, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    ds.PixelPaddingValue = 0xF000
    assert not render(again(ds)).pixels[:20].any()


@pytest.mark.parametrize(
    ("attributes", "shape", "spacing"),
    [
        ({"PixelSpacing": ["0.2", "0.1"]}, (128, 48), (0.2, 0.1)),
        ({"ImagerPixelSpacing": ["0.1", "0.2"]}, (64, 96), (0.1, 0.2)),
        ({"PixelAspectRatio": ["2", "1"]}, (128, 48), None),
        ({"PixelSpacing": ["0.1435", "0.1436"]}, (64, 48), (0.1435, 0.1436)),
        ({"ImagerPixelSpacing": ["0", "0"]}, (64, 48), None),
        (
            {"PixelSpacing": ["143", "143"], "ImagerPixelSpacing": ["0.1", "0.1"]},
            (64, 48),
            (0.1, 0.1),
        ),
        ({"PixelSpacing": ["1e300", "1e300"]}, (64, 48), None),
        ({"PixelSpacing": ["5", "0.1"]}, (64, 48), (5, 0.1)),
        ({}, (64, 48), None),
    ],
)
def test_pixels_become_square_and_spacing_is_kept(
    attributes: dict[str, list[str]], shape: tuple[int, int], spacing: tuple[float, float] | None
) -> None:
    radiograph = render(again(data_set(ramp(), **attributes)))
    assert radiograph.pixels.shape == shape
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.pixel_spacing == spacing
    assert radiograph.stored_shape == (64, 48)
    assert radiograph.to_stored == (64 / shape[0], 48 / shape[1])
    assert 0 <= radiograph.pixels.min() < 0.02
    assert 0.98 < radiograph.pixels.max() <= 1


def test_rendering_leaves_the_data_set_as_it_was() -> None:
    ds = again(data_set(ramp(), PatientAge="040Y"))
    before = ds.to_json()
    render(ds)
    assert ds.to_json() == before
