from __future__ import annotations

import datetime
import io
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prescreen.dicom import ink, page, wording
from prescreen.dicom.capture import Capture, Sheet, capture, png
from prescreen.dicom.outlines import inside, outline, outlines
from prescreen.settings import URGENCY, Report
from prescreen.study import LABELS, Anatomy, BoolArray, FindingState, ImageResult, Radiograph
from tests import results

SETTINGS = Report()


def _radiograph(source: pydicom.Dataset, shape: tuple[int, int] = (1955, 1841)) -> Radiograph:
    ramp = np.linspace(0, 1, shape[1], dtype=np.float32)
    pixels = np.broadcast_to(ramp, shape)
    return Radiograph(results.screened(source).header, pixels, shape, None, "0" * 64)


def _capture(
    result: ImageResult | None = None,
    source: pydicom.Dataset | None = None,
    radiograph: Radiograph | None = None,
    anatomy: Anatomy | None = None,
    **more: Any,
) -> Capture:
    source = results.chest() if source is None else source
    fixed: dict[str, Any] = {
        "settings": SETTINGS,
        "made": results.MADE,
        "series_instance_uid": results.SERIES_UID,
        "sop_instance_uid": results.SOP_UID,
    }
    result = result or results.screened(source)
    sheet = Sheet(source, result, results.model(), **(fixed | more))
    return capture(sheet, radiograph, anatomy)


def _read(made: Capture) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(made.part10))


def _has(pixels: ink.Page, colour: ink.Colour) -> bool:
    return bool((pixels == np.array(colour, np.uint8)).all(axis=2).any())


def test_attributes_are_those_of_a_composed_page() -> None:
    ds = _read(_capture())
    assert (ds.Modality, ds.ConversionType, ds.ContentQualification) == ("OT", "WSD", "RESEARCH")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert ds.BodyPartExamined == "CHEST"
    assert ds.SeriesNumber == SETTINGS.series_number + 1
    for keyword in ("Laterality", "PixelSpacing", "ImagerPixelSpacing"):
        assert keyword not in ds
    reference = ds.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == results.chest().SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert [e.ManufacturerModelName for e in ds.ContributingEquipmentSequence] == [
        "prescreen findings",
        "prescreen lungs_heart",
    ]
    assert (ds.SamplesPerPixel, ds.BitsAllocated, ds.PhotometricInterpretation) == (3, 8, "RGB")


@pytest.mark.parametrize(("says", "expected"), [("YES", "YES"), ("NO", "NO"), (None, None)])
def test_burned_in_annotation_is_the_sources(says: str | None, expected: str | None) -> None:
    source = results.chest()
    if says is not None:
        source.BurnedInAnnotation = says
    assert _read(_capture(source=source)).get("BurnedInAnnotation") == expected


def test_requests_and_time_zone_are_taken_over_only_if_there() -> None:
    source = results.chest()
    assert "ReferencedRequestSequence" not in _read(_capture(source=source))
    request = pydicom.Dataset()
    request.AccessionNumber = "CANARYACC"
    source.ReferencedRequestSequence = [request]
    ds = _read(_capture(source=source))
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "CANARYACC"
    assert ds.TimezoneOffsetFromUTC == "-0400"
    del source.TimezoneOffsetFromUTC
    assert "TimezoneOffsetFromUTC" not in _read(_capture(source=source))


def test_what_was_lossy_stays_so() -> None:
    source = results.chest()
    assert "LossyImageCompression" not in _read(_capture(source=source))
    source.LossyImageCompression, source.LossyImageCompressionRatio = "01", "12"
    ds = _read(_capture(source=source))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12)


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert _capture().part10 == _capture().part10


def test_a_page_is_no_more_than_six_megabytes() -> None:
    made = _capture()
    assert made.pixels.shape == (1080, 1728, 3)
    assert len(made.part10) < 6_000_000


@pytest.mark.parametrize("rows", [720, 1080, 2160])
def test_every_size_of_page_is_drawn_whole(rows: int) -> None:
    source = results.chest()
    made = _capture(
        settings=Report(capture_rows=rows),
        radiograph=_radiograph(source),
        anatomy=results.anatomy(),
        replaces=results.MADE,
        below_bar=frozenset(LABELS),
    )
    assert made.pixels.shape[0] == rows
    for colour in (page.LOUD, page.LUNGS, page.HEART, page.BAND, page.WHITE):
        assert _has(made.pixels, colour)


@pytest.mark.parametrize("shape", [(300, 2000), (2000, 300), (900, 900), (17, 13)])
def test_the_radiograph_keeps_its_aspect_and_fits(shape: tuple[int, int]) -> None:
    pixels = np.ones(shape, np.float32)
    fitted = ink.fitted(pixels, 880, 856)
    assert fitted.shape[0] <= 880 and fitted.shape[1] <= 856
    assert fitted.shape[0] / fitted.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert (fitted == 255).all()


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_a_bar_crosses_the_threshold_exactly_when_the_probability_does(
    probability: float, threshold: float
) -> None:
    share = page.bar_share(probability, threshold)
    assert 0 <= share <= 1
    assert (share >= page.THRESHOLD_AT) == (probability >= threshold) or share == pytest.approx(
        page.THRESHOLD_AT
    )


def test_flagged_come_first_and_not_evaluated_last_each_by_urgency() -> None:
    shown = [f.label for f in wording.ordered(results.BUSY, URGENCY)]
    assert shown[:3] == ["Pneumothorax", "Effusion", "Nodule"]
    assert shown[-1] == "Hernia"
    middle = [URGENCY.index(label) for label in shown[3:-1]]
    assert middle == sorted(middle)


def test_only_what_is_flagged_or_undetermined_is_loud() -> None:
    source = results.chest()
    quiet = results.screened(source, results.findings())
    assert not _has(_capture(quiet).pixels, page.LOUD)
    one = {"Mass": FindingState.UNDETERMINED}
    assert _has(_capture(replace(quiet, findings=results.findings(states=one))).pixels, page.LOUD)


def test_lines_of_the_ratio_are_drawn_only_with_a_ratio() -> None:
    source = results.chest()
    given_both: dict[str, Any] = {"radiograph": _radiograph(source), "anatomy": results.anatomy()}
    measured = _capture(results.screened(source), **given_both)
    unmeasured = _capture(results.screened(source, ratio=None), **given_both)
    assert not np.array_equal(measured.pixels[:, :900], unmeasured.pixels[:, :900])


def test_a_notice_has_neither_outlines_nor_bars() -> None:
    source = results.chest()
    notice = _capture(
        results.not_screened(source), radiograph=_radiograph(source), anatomy=results.anatomy()
    )
    assert not _has(notice.pixels, page.LUNGS)
    assert not _has(notice.pixels, page.BAR)
    assert _read(notice).SeriesDescription == "AI pre-screening - NOT SCREENED"


def test_replacing_says_when_the_replaced_one_was_made() -> None:
    earlier = results.MADE - datetime.timedelta(minutes=10)
    before, after = _capture(), _capture(replaces=earlier)
    assert not np.array_equal(before.pixels, after.pixels)


def test_banners_stand_above_and_below() -> None:
    pixels = _capture().pixels
    assert tuple(pixels[0, 0]) == tuple(pixels[-1, -1]) == page.BAND
    assert np.array_equal(pixels[:58], pixels[-58:])


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 1.0])
def test_outlines_of_strange_masks_are_drawn_where_they_are(fraction: float) -> None:
    area = np.zeros((90, 70, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask.flat[: round(mask.size * fraction) or 1] = True
    points = outline(mask, 90, 70)
    assert points is not None
    ink.draw_line(area, points, page.HEART, 2)
    drawn = np.flatnonzero(area.any(axis=(1, 2)))
    assert drawn[0] == 0
    assert abs(drawn[-1] - 90 * fraction) <= 2


def test_an_outline_is_drawn_along_the_border_in_its_thickness() -> None:
    area = np.zeros((120, 100, 3), np.uint8)
    corners = np.array([[20, 30], [80, 30], [80, 90], [20, 90], [20, 30]], np.float32)
    ink.draw_line(area, corners, page.LUNGS, 3)
    drawn: BoolArray = area[..., 2] > 0
    assert (drawn[28:32, 22:78].sum(axis=0) == 3).all()
    assert np.count_nonzero(drawn[:, 50]) == 6
    assert not drawn[40:80, 30:70].any()
    assert not drawn[:27].any()


def test_the_outlines_of_neighbours_are_drawn_beside_each_other() -> None:
    left, right = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    left[8:56, 8:32], right[8:56, 32:56] = True, True
    drawn = []
    for mask in (left, right):
        area = np.zeros((512, 512, 3), np.uint8)
        line = outline(mask, 512, 512)
        assert line is not None
        ink.draw_line(area, inside(line, 1.5), page.LUNGS, 3)
        drawn.append(np.flatnonzero(area[256, 128:384, 2]) + 128)
    assert len(drawn[0]) == len(drawn[1]) == 3
    assert drawn[0].max() < drawn[1].min() <= drawn[0].max() + 3


def test_the_line_is_that_of_the_regions_of_the_report() -> None:
    """What the eye sees and what a machine reads are the same points, whatever the size."""
    anatomy = results.anatomy()
    small, large = outlines(anatomy, 900, 700), outlines(anatomy, 1800, 1400)
    for one, other in zip(small, large, strict=True):
        assert one is not None
        assert other is not None
        assert np.allclose(2 * one, other, atol=1e-3)


def test_no_colour_of_ours_is_a_shade_of_green() -> None:
    colours = [v for v in vars(page).values() if isinstance(v, tuple) and len(v) == 3]
    for red, green, blue in (c for c in colours if all(isinstance(v, int) for v in c)):
        assert not (green > red + 20 and green > blue + 20)


def test_png_holds_the_same_pixels() -> None:
    pixels = _capture().pixels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_notes_and_foot_do_not_overlap_at_their_longest() -> None:
    """All that may stand under the rows: between them and the foot some ground is left."""
    source = results.chest()
    states = dict.fromkeys(LABELS, FindingState.UNDETERMINED)
    made = _capture(
        results.screened(source, results.findings(states=states)),
        replaces=results.MADE,
        below_bar=frozenset(LABELS),
    )
    panel = made.pixels[:, page.Grid(1080).panel :]
    empty = (panel == np.array(page.GROUND, np.uint8)).all(axis=(1, 2))
    gaps = np.flatnonzero(np.diff(empty[780:1020].astype(int)) == 1)
    assert gaps.size >= 6  # two notes, the ratio, what is never looked for, versions, time


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_legend_stands_clear_of_the_text_however_narrow_the_picture(
    language: Literal["en", "de"],
) -> None:
    """Under a narrow picture it began where that does, and ran into what stands beside."""
    settings = Report(language=language)
    grid = page.grid_of(settings)
    top, bottom = grid.rows - grid.band - grid(46), grid.rows - grid.band - grid(4)
    narrow, wide = (
        _capture(
            replace(results.screened(results.chest()), cardiothoracic_ratio=0.5),
            radiograph=_radiograph(results.chest(), shape),
            anatomy=results.anatomy(),
            settings=settings,
        ).pixels[top:bottom, : grid.panel]
        for shape in ((1800, 900), (1000, 1800))
    )
    assert (narrow == wide).all()
    clear = wide[:, grid.panel - grid(12) :]
    assert (clear == np.array(page.GROUND, np.uint8)).all()
