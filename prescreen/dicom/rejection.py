"""Rejection notes: Key Object Selections of IHE IOCM, read and written (PS3.3 A.35.4, TID 2010)."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import groupby

import pydicom

from prescreen import __version__
from prescreen.dicom import wording
from prescreen.dicom.attributes import Attributes, without_warnings
from prescreen.dicom.codes import Concept
from prescreen.dicom.content import CONTAINS, concept_item, reference_item, template_item
from prescreen.dicom.elements import Elements, part10
from prescreen.dicom.entity import is_uid
from prescreen.dicom.modules import IMPLEMENTATION, local_time, patient_and_study, put_times
from prescreen.dicom.origin import OWN_MODEL
from prescreen.errors import PrescreenError
from prescreen.study import Content, Reference, Rejection

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"

#: CID 7011, Rejected for Quality Reasons and others: what a note says of the objects it names.
TITLES = {
    title.value: title
    for title in (
        Concept("113001", "DCM", "Rejected for Quality Reasons"),
        Concept("113037", "DCM", "Rejected for Patient Safety Reasons"),
        Concept("113038", "DCM", "Incorrect Modality Worklist Entry"),
        Concept("113039", "DCM", "Data Retention Policy Expired"),
    )
}

#: What the setting `quality_rejections` is about.
QUALITY = "113001"

#: A note of a whole study is some hundred kilobytes; more is not read.
LARGEST = 8_000_000

#: Structured reports and presentation states have no pixels.
_NO_IMAGES = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.")


def rejection(content: Content) -> Rejection | None:
    """What a Key Object Selection rejects; None where it is no rejection note, or unreadable."""
    if len(content) > LARGEST:
        return None
    try:
        with without_warnings():
            ds = pydicom.dcmread(BytesIO(content))
            told = Attributes(ds)
            title = told.concept("ConceptNameCodeSequence")
            found = tuple(_references(told))
    except Exception:  # the library raises what it likes: a note that does not parse says nothing
        return None
    if title is None or title[1] != "DCM" or title[0] not in TITLES or not found:
        return None
    return Rejection(title[0], found)


def _references(told: Attributes) -> Iterator[Reference]:
    """Current Requested Procedure Evidence: all that is named, by study and series (C.17.2.3)."""
    for study in told.items("CurrentRequestedProcedureEvidenceSequence"):
        for series in study.items("ReferencedSeriesSequence"):
            for item in series.items("ReferencedSOPSequence"):
                uid = item.text("ReferencedSOPInstanceUID") or ""
                if is_uid(uid):
                    yield Reference(
                        item.text("ReferencedSOPClassUID") or "",
                        uid,
                        series.text("SeriesInstanceUID") or "",
                        study.text("StudyInstanceUID") or "",
                    )


def rejection_note(
    rejected: bytes,
    told: Rejection,
    *,
    manufacturer: str,
    made: datetime.datetime,
    series_instance_uid: str,
    sop_instance_uid: str,
    series_number: int,
    language: str = "en",
) -> bytes:
    """A note that rejects objects of one study, as a DICOM file; the same arguments, same bytes.

    `language` is that of its title where the character set of the patient's name has it.

    `rejected` is one of those objects: patient and study are taken from it. PrescreenError where
    it does not parse, or where the code is none of TITLES.
    """
    if told.code not in TITLES:
        raise PrescreenError(f"{told.code} is no code of a rejection note: {', '.join(TITLES)}")
    source = _read(rejected)
    elements = patient_and_study(source, told.references[0].study_instance_uid)
    elements.put("SOPClassUID", KEY_OBJECT_SELECTION)
    elements.put("SOPInstanceUID", sop_instance_uid)
    put_times(elements, local_time(source, made))
    elements.put("Manufacturer", manufacturer)
    elements.put("ManufacturerModelName", OWN_MODEL)
    elements.put("SoftwareVersions", __version__)
    elements.put("Modality", "KO")
    elements.put("SeriesInstanceUID", series_instance_uid)
    elements.put("SeriesNumber", str(series_number))
    title = wording.fitting(language, source).catalogue.titles.withdrawn
    elements.put("SeriesDescription", title.encode())
    elements.put("ReferencedPerformedProcedureStepSequence", [])
    elements.put("InstanceNumber", "1")
    elements.copy(source, ["ReferencedRequestSequence"])
    elements.put("CurrentRequestedProcedureEvidenceSequence", _evidence(told.references))
    _put_content(elements, told)
    return part10(KEY_OBJECT_SELECTION, sop_instance_uid, IMPLEMENTATION, [elements.encoded()])


def _read(content: bytes) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
    except Exception as error:  # the library raises what it likes, with values in the text
        name = type(error).__name__
        raise PrescreenError(f"an object to be rejected does not parse ({name})") from None


def _put_content(elements: Elements, told: Rejection) -> None:
    """The root and its references (C.17.6.2, TID 2010)."""
    elements.put("ValueType", "CONTAINER")
    elements.put("ConceptNameCodeSequence", [concept_item(TITLES[told.code])])
    elements.put("ContinuityOfContent", "SEPARATE")
    elements.put("ContentTemplateSequence", [template_item("2010")])
    elements.put("ContentSequence", [_item(reference) for reference in told.references])


def _item(reference: Reference) -> bytes:
    is_image = not reference.sop_class_uid.startswith(_NO_IMAGES)
    return Elements(
        RelationshipType=CONTAINS,
        ValueType="IMAGE" if is_image else "COMPOSITE",
        ReferencedSOPSequence=[reference_item(reference.sop_class_uid, reference.sop_instance_uid)],
    ).item()


def _evidence(references: Sequence[Reference]) -> list[bytes]:
    """The references by study and series (C.17.2.3)."""
    ordered = sorted(
        references, key=lambda r: (r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid)
    )
    return [
        Elements(StudyInstanceUID=study, ReferencedSeriesSequence=_series(of_study)).item()
        for study, of_study in groupby(ordered, lambda r: r.study_instance_uid)
    ]


def _series(references: Iterable[Reference]) -> list[bytes]:
    return [
        Elements(
            SeriesInstanceUID=series,
            ReferencedSOPSequence=[
                reference_item(r.sop_class_uid, r.sop_instance_uid) for r in of_series
            ],
        ).item()
        for series, of_series in groupby(references, lambda r: r.series_instance_uid)
    ]
