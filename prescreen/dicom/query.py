"""C-FIND as SCU (PS3.4 Annex C): is a study still there, whose is it, is an object of it there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
)

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.persons import is_same_name
from prescreen.dicom.send import UNCOMPRESSED, Link
from prescreen.errors import ContextRejected, PeerRefused
from prescreen.settings import Destination
from prescreen.study import Reference

_MODEL = StudyRootQueryRetrieveInformationModelFind
FIND = str(_MODEL)
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000


@dataclass(frozen=True)
class Listed:
    """A study as a peer lists it; text is decoded, what it does not say is empty."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""

    def changes(self, known: Mapping[str, str]) -> dict[str, str]:
        """What of an identity this makes another, with its new values; empty: they agree.

        What the peer does not say is no change, one name written otherwise neither; nor is an
        issuer or a birth date of which only one of the two knows. Where the patient is another
        one, what the peer does not say of him is not known any more.
        """
        found = {name: told for name in _COMPARED if (told := self._change(name, known[name]))}
        if not {"patient_id", "issuer_of_patient_id"} & set(found):
            return found
        theirs = {name: getattr(self, name) for name in _OF_PATIENT}
        return found | {name: told for name, told in theirs.items() if told != known[name]}

    def _change(self, name: str, ours: str) -> str | None:
        theirs = str(getattr(self, name))
        if not theirs or theirs == ours or (not ours and name in _SOMETIMES_SAID):
            return None
        if name == "patient_name" and ours and is_same_name(ours, theirs):
            return None
        if name == "patient_birth_date" and _digits(ours) == _digits(theirs):
            return None
        return theirs


def _digits(date: str) -> str:
    """Of a date its digits: 1970.01.01 is how it was once written (PS3.5 6.2)."""
    return "".join(letter for letter in date if letter.isdigit())


_OF_PATIENT = ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date")
_COMPARED = (*_OF_PATIENT, "accession_number")
#: Archives add the first to what they keep, and modalities leave out the second.
_SOMETIMES_SAID = ("issuer_of_patient_id", "patient_birth_date")
_KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
}


def study(destination: Destination, calling_ae_title: str, uid: str) -> tuple[Listed, ...]:
    """How the peer lists a study: each of its answers once, none where it has no such study.

    ContextRejected where it takes no C-FIND, PeerRefused where it answers with a failure,
    PeerUnavailable where it does not answer.
    """
    keys = _keys("STUDY", StudyInstanceUID=uid)
    for keyword in _KEYWORDS.values():
        setattr(keys, keyword, "")
    found = _found(destination, calling_ae_title, [keys])[0]
    told = [Attributes(item) for item in found]
    mine = (_listed(one) for one in told if one.text("StudyInstanceUID") == uid)
    return tuple(dict.fromkeys(mine))


def present(
    destination: Destination, calling_ae_title: str, references: Sequence[Reference]
) -> frozenset[str]:
    """SOP Instance UIDs of those objects that the peer lists; errors as for `study`."""
    questions = [
        _keys(
            "IMAGE",
            StudyInstanceUID=one.study_instance_uid,
            SeriesInstanceUID=one.series_instance_uid,
            SOPInstanceUID=one.sop_instance_uid,
        )
        for one in references
    ]
    found = _found(destination, calling_ae_title, questions)
    listed = {Attributes(item).text("SOPInstanceUID") for answers in found for item in answers}
    return frozenset(one.sop_instance_uid for one in references if one.sop_instance_uid in listed)


def _keys(level: str, **uids: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    for keyword, value in uids.items():
        setattr(keys, keyword, value)
    return keys


def _found(
    destination: Destination, calling_ae_title: str, questions: Sequence[Dataset]
) -> list[list[Dataset]]:
    """The matches of each question, all asked over one association."""
    link = Link(destination, calling_ae_title)
    link.open([build_context(_MODEL, list(UNCOMPRESSED))])
    try:
        if not link.accepted:
            raise ContextRejected(f"{link.who}: takes no C-FIND of the study root model")
        return [_matches(link, keys) for keys in questions]
    finally:
        link.close()


def _matches(link: Link, keys: Dataset) -> list[Dataset]:
    found: list[Dataset] = []

    def ask(association: Association) -> Dataset:
        last = Dataset()
        for status, identifier in association.send_c_find(keys, _MODEL):
            last = status
            if identifier is not None and status.get("Status") in _PENDING:
                found.append(identifier)
        return last

    status = link.exchange("C-FIND", ask)
    if status != _SUCCESS:
        raise PeerRefused(f"{link.who}: C-FIND failed with 0x{status:04X}", status)
    return found


def _listed(told: Attributes) -> Listed:
    return Listed(**{name: _legible(told, keyword) for name, keyword in _KEYWORDS.items()})


def _legible(told: Attributes, keyword: str) -> str:
    """Text that can be relied on: not letters beyond ASCII of which nothing says what they are."""
    text = told.text(keyword) or ""
    return text if text.isascii() or told.text("SpecificCharacterSet") else ""
