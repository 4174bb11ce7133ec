from __future__ import annotations

import io

import highdicom as hd
import numpy as np
import pydicom
import pytest

from prescreen.dicom.outlines import POINTS, outline
from prescreen.dicom.presentation import can_be_presented, presentation_state
from prescreen.dicom.segmentation import segmentation
from tests import results


def _presentation(source: pydicom.Dataset) -> pydicom.Dataset:
    made = presentation_state(results.document(source), results.anatomy())
    return pydicom.dcmread(io.BytesIO(made))


def _segmentation(source: pydicom.Dataset) -> bytes:
    return segmentation(results.document(source), results.anatomy())


def test_highdicom_reads_the_segments_where_the_masks_are() -> None:
    source = results.chest()
    read = hd.seg.segread(io.BytesIO(_segmentation(source)))
    assert [read.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        "Left lung",
        "Right lung",
        "Heart",
    ]
    pixels = read.get_pixels_by_source_instance([str(source.SOPInstanceUID)])[0]
    assert pixels.shape == (source.Rows, source.Columns, 3)
    for place, mask in enumerate(results.anatomy().masks):
        rows = np.linspace(0, source.Rows - 1, 97).astype(int)
        columns = np.linspace(0, source.Columns - 1, 89).astype(int)
        down = ((rows + 0.5) / source.Rows * mask.shape[0]).astype(int)
        across = ((columns + 0.5) / source.Columns * mask.shape[1]).astype(int)
        assert np.array_equal(pixels[np.ix_(rows, columns)][..., place], mask[np.ix_(down, across)])


def test_segments_are_tracked_as_the_outlines_are() -> None:
    from prescreen.dicom.groups import tracking

    source = results.chest()
    ds = pydicom.dcmread(io.BytesIO(_segmentation(source)))
    assert ds.SegmentSequence[2].TrackingUID == tracking(str(source.SOPInstanceUID), "Heart")[1]


def test_a_presentation_state_shows_the_image_as_it_was() -> None:
    source = results.chest()
    source.WindowCenter, source.WindowWidth = "15000", "30000"
    source.RescaleSlope, source.RescaleIntercept = "2", "-3"
    state = _presentation(source)
    window = state.SoftcopyVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (15000, 30000)
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (2, -3, "US")
    area = state.DisplayedAreaSelectionSequence[0]
    assert area.DisplayedAreaBottomRightHandCorner == [source.Columns, source.Rows]


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("X", "IDENTITY")])
def test_a_presentation_state_keeps_the_polarity(photometric: str, shape: str) -> None:
    source = results.chest()
    source.PhotometricInterpretation = photometric
    assert _presentation(source).PresentationLUTShape == shape


def test_the_layer_is_one_and_says_what_it_is_not() -> None:
    state = _presentation(results.chest())
    (layer,) = state.GraphicLayerSequence
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.GraphicLayer == layer.GraphicLayer == "AI"
    assert len(annotation.GraphicObjectSequence) == 3 + 2
    assert "NOT A DIAGNOSIS" in annotation.TextObjectSequence[0].UnformattedTextValue


def test_an_image_shown_through_tables_gets_no_presentation_state() -> None:
    source = results.chest()
    assert can_be_presented(source)
    source.ModalityLUTSequence = [pydicom.Dataset()]
    assert not can_be_presented(source)
    source = results.chest()
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in source:
            delattr(source, keyword)
    source.VOILUTSequence = [pydicom.Dataset()]
    assert not can_be_presented(source)


def test_an_outline_is_closed_and_lies_on_the_border() -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[16:48, 8:24] = True
    mask[60, 60] = True  # a crumb: the longest border counts
    line = outline(mask, 640, 1280)
    assert line is not None
    assert line.shape == (POINTS + 1, 2)
    assert np.array_equal(line[0], line[-1])
    assert line.min(axis=0) == pytest.approx([8 * 20, 16 * 10], abs=1)
    assert line.max(axis=0) == pytest.approx([24 * 20, 48 * 10], abs=1)


def test_nothing_has_no_outline() -> None:
    assert outline(np.zeros((8, 8), np.bool_), 80, 80) is None


def test_two_cells_that_touch_at_a_corner_end_the_walk() -> None:
    line = outline(np.eye(8, dtype=np.bool_), 80, 80)
    assert line is not None
    assert np.isfinite(line).all()


@pytest.mark.parametrize(
    ("attributes", "ratio"),
    [
        ({"PixelSpacing": ["0.2", "0.1"]}, [2, 1]),
        ({"ImagerPixelSpacing": ["0.1", "0.15"]}, [2, 3]),
        ({"PixelAspectRatio": ["4", "3"]}, [4, 3]),
        ({"PixelSpacing": ["0.139", "0.1390001"]}, [1, 1]),
        ({"PixelSpacing": ["0.139", "139"]}, [1, 1]),  # a mistake, which no picture follows either
        ({}, [1, 1]),
    ],
)
def test_pixels_that_are_not_square_are_shown_as_they_are(
    attributes: dict[str, list[str]], ratio: list[int]
) -> None:
    source = results.chest()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        source.pop(keyword, None)
    for keyword, values in attributes.items():
        setattr(source, keyword, values)
    (area,) = _presentation(source).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == ratio


def test_of_several_windows_a_presentation_state_has_the_first() -> None:
    source = results.chest()
    source.WindowCenter, source.WindowWidth = ["100", "2000"], ["300", "4000"]
    (window,) = _presentation(source).SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (100, 300)


@pytest.mark.parametrize(
    ("width", "function", "is_followed"),
    [("0", None, False), ("-5", None, False), ("0.5", None, False), ("0.5", "SIGMOID", True)],
)
def test_a_window_that_is_none_is_left_out(
    width: str, function: str | None, is_followed: bool
) -> None:
    source = results.chest()
    source.WindowCenter, source.WindowWidth, source.VOILUTFunction = "100", width, function
    assert ("SoftcopyVOILUTSequence" in _presentation(source)) is is_followed


def test_a_slope_without_an_intercept_is_left_out() -> None:
    source = results.chest()
    source.RescaleSlope = "2"
    source.pop("RescaleIntercept", None)
    assert "RescaleSlope" not in _presentation(source)
