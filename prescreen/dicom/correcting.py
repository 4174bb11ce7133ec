"""A data set under the patient and order that an archive has it under by now."""

from __future__ import annotations

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.identity import identity_of
from prescreen.dicom.transcoding import UNICODE, in_unicode, without_guesses
from prescreen.study import Correction

_TEXTS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
}
#: What belongs to the former patient, or is another way to say what was corrected.
_OF_PATIENT = (
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientBirthTime",
)
#: The same of an order.
_OF_ORDER = (
    "IssuerOfAccessionNumberSequence",
    "ReferencedRequestSequence",
    "RequestAttributesSequence",
)


def corrected(source: pydicom.Dataset, correction: Correction) -> pydicom.Dataset:
    """The data set as the archive has it; `source` is not changed.

    Where a text needs letters beyond ASCII all text goes over to UTF-8; what would have to be
    guessed for that is left out. The age at acquisition stays unless the birth date is another.
    """
    was = identity_of(source)
    changed = {
        name: text
        for name in _TEXTS
        if (text := str(getattr(correction, name))) != getattr(was, name)
    }
    if not changed:
        return source
    found = _room_for(source, "".join(changed.values()))
    for name, text in changed.items():
        _put(found, _TEXTS[name], text)
    if {"patient_id", "issuer_of_patient_id"} & set(changed):
        _leave_out(found, _OF_PATIENT)
    if "accession_number" in changed:
        _leave_out(found, _OF_ORDER)
    if changed.get("patient_birth_date"):
        _leave_out(found, ("PatientAge",))
    if correction.patient_sex is not None:
        _put(found, "PatientSex", correction.patient_sex)
    return found


def _room_for(source: pydicom.Dataset, text: str) -> pydicom.Dataset:
    """A copy whose character set has the text."""
    if not text.isascii() and Attributes(source).text("SpecificCharacterSet") != UNICODE:
        found = in_unicode(source)
        return without_guesses(source) if found is source else found
    found = pydicom.Dataset()
    for tag in list(source.keys()):
        found[tag] = source.get_item(tag)
    return found


def _put(ds: pydicom.Dataset, keyword: str, text: str) -> None:
    """As bytes, in UTF-8: nothing converts them to another character set later."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    value = text.encode()
    ds[tag] = RawDataElement(
        tag, dictionary_VR(tag), len(value), value, 0, False, True, True, False
    )


def _leave_out(ds: pydicom.Dataset, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if keyword in ds:
            del ds[keyword]
