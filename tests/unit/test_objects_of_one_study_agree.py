"""What is said of one image does not depend on the others of its study, whatever the object."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement

from prescreen import edition
from prescreen.dicom.header import header_of
from prescreen.lightbox import Image
from prescreen.settings import Report
from prescreen.study import (
    ANOTHER_PATIENT,
    Audience,
    ImageResult,
    Model,
    Outcome,
    ViewFigures,
    generate_uid,
)
from tests import results
from tests.unit.test_destinations_get_what_they_ask_for import made_image

DOCUMENTS = frozenset({"sr", "text"})
EVERY = DOCUMENTS | {"regions", "capture", "presentation", "segmentation"}
ABOVE, BELOW = ViewFigures(0.9, 0.85, 90), ViewFigures(0.7, 0.6, 90)


def _image(**attributes: Any) -> Image:
    """A screened image; None leaves an attribute out."""
    image = made_image()
    source = results.chest()
    source.SOPInstanceUID = pydicom.uid.UID(generate_uid())
    for keyword, value in attributes.items():
        source.pop(keyword, None)
        if value is not None:
            setattr(source, keyword, value)
    stream = io.BytesIO()
    source.save_as(stream)
    source = pydicom.dcmread(io.BytesIO(stream.getvalue()))
    return replace(image, source=source, header=header_of(source))


def _model() -> Model:
    """Cardiomegaly is above the release bar on PA films, all else below it."""
    model = results.model()
    views = {"PA": ABOVE, "AP": BELOW}
    figures = (
        replace(f, by_view=views if f.label == "Cardiomegaly" else {"PA": BELOW, "AP": BELOW})
        for f in model.figures
    )
    return replace(model, figures=tuple(figures))


def _objects(
    images: Sequence[Image], kinds: frozenset[str], audience: Audience = Audience.EVALUATION
) -> list[tuple[str, pydicom.Dataset]]:
    """Kind and data set of each object."""
    shared = edition.Edition(_model(), Report(), audience, results.MADE, kinds=kinds)
    made = edition.objects(images, shared)
    return [(item.described.kind, pydicom.dcmread(io.BytesIO(item.part10))) for item in made]


def _sentences(ds: pydicom.Dataset) -> Iterator[str]:
    return (str(element.value) for element in ds.iterall() if element.keyword == "TextValue")


def test_a_finding_is_below_the_bar_on_the_image_whose_view_it_is() -> None:
    images = [_image(ViewPosition="PA"), _image(ViewPosition="AP")]
    for kind, ds in _objects(images, DOCUMENTS):
        said = [words for words in _sentences(ds) if "evaluation only" in words]
        assert sum("Cardiomegaly" in words for words in said) == 1, kind
        assert sum("Pneumothorax" in words for words in said) == 2, kind


def test_what_is_released_is_not_said_to_be_below_the_bar() -> None:
    images = [_image(ViewPosition="PA"), _image(ViewPosition="AP")]
    for kind, ds in _objects(images, DOCUMENTS, Audience.RELEASE):
        assert not any("evaluation only" in words for words in _sentences(ds)), kind


def _request(description: bytes) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.RequestedProcedureID = "P1"
    tag = pydicom.tag.Tag("RequestedProcedureDescription")
    item[tag] = RawDataElement(tag, "LO", len(description), description, 0, False, True)
    return pydicom.Sequence([item])


@pytest.mark.parametrize("newest", ["ISO_IR 192", "ISO_IR 144", None])
def test_a_request_is_legible_beside_a_patient_in_another_character_set(newest: str | None) -> None:
    request = _request("Röntgen ".encode("latin-1"))
    first = _image(SpecificCharacterSet="ISO_IR 100", RequestAttributesSequence=request)
    images = [first, _image(SpecificCharacterSet=newest)]
    (_, page), _ = _objects(images, frozenset({"capture"}))
    assert page.RequestAttributesSequence[0].RequestedProcedureDescription == "Röntgen"


def test_a_request_is_left_out_beside_a_name_that_nothing_tells_how_to_read() -> None:
    request = _request("Röntgen ".encode("latin-1"))
    first = _image(SpecificCharacterSet="ISO_IR 100", RequestAttributesSequence=request)
    newest = _image(SpecificCharacterSet=None)
    tag = pydicom.tag.Tag("PatientName")
    newest.source[tag] = RawDataElement(tag, "PN", 6, b"M\xfcller", 0, False, True)
    (_, page), _ = _objects([first, newest], frozenset({"capture"}))
    assert bytes(page.get_item(tag).value) == b"M\xfcller"
    assert "SpecificCharacterSet" not in page
    assert "RequestAttributesSequence" not in page


def test_times_are_in_the_zone_that_is_stated_beside_them() -> None:
    zones = [_image(TimezoneOffsetFromUTC="-0400"), _image(TimezoneOffsetFromUTC="+0900")]
    for kind, ds in _objects(zones, EVERY):
        assert ds.TimezoneOffsetFromUTC == "+0900"
        assert ds.InstanceCreationTime == "195207", kind


@pytest.mark.parametrize(
    ("at_hand", "purpose"),
    [((0, 1), "121360"), ((0,), "121360"), ((2,), "121361"), ((0, 2), "121360")],
)
def test_a_report_adds_to_another_where_it_says_nothing_anew_of_what_that_spoke_of(
    at_hand: tuple[int, ...], purpose: str
) -> None:
    images = [_image(PatientName=f"CANARY^{number}") for number in range(3)]
    earlier = [replace(image.result, carried_over=True) for image in images[:2]]
    first = edition.Edition(_model(), Report(), Audience.EVALUATION, results.MADE, kinds=DOCUMENTS)
    before = {item.described.kind: item.described for item in edition.objects(images[:2], first)}
    shared = replace(first, replaced=edition.Replaced(before, results.MADE))
    for item in edition.objects([images[number] for number in at_hand], shared, earlier):
        ds = pydicom.dcmread(io.BytesIO(item.part10))
        (series,) = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        (code,) = series.ReferencedSOPSequence[0].PurposeOfReferenceCodeSequence
        assert code.CodeValue == purpose


def test_a_page_shows_nothing_of_another_patient() -> None:
    """Neither the radiograph nor the request of who was the patient of the study before."""
    other = _image(PatientID="CANARYOTHER", RequestAttributesSequence=_request(b"CANARY"))
    other = replace(other, refused=(Outcome.NOT_SCREENED, ANOTHER_PATIENT), screening=None)
    (_, page), _ = _objects([other, _image()], frozenset({"capture"}))
    assert page.PatientID == "CANARYID"
    assert page.SourceImageSequence[0].ReferencedSOPInstanceUID == other.source.SOPInstanceUID
    assert "RequestAttributesSequence" not in page
    field = page.pixel_array[200:-200, 500:800]
    assert np.ptp(field, axis=(0, 1)).max() == 0, "there is no picture"


def test_a_report_on_another_patient_replaces_the_one_before() -> None:
    before, now = _image(PatientID="CANARYOTHER"), _image()
    shared = edition.Edition(_model(), Report(), Audience.EVALUATION, results.MADE, kinds=DOCUMENTS)
    by_kind = {item.described.kind: item.described for item in edition.objects([before], shared)}
    taken = ImageResult(header_of(before.source), Outcome.NOT_SCREENED, ANOTHER_PATIENT)
    follows = replace(shared, replaced=edition.Replaced(by_kind, results.MADE))
    for item in edition.objects([now], follows, [replace(taken, carried_over=True)]):
        assert b"121360" in item.part10 and b"121361" not in item.part10
