"""C-FIND as SCU (PS3.4 Annex C): is a study still there, whose is it, is an object of it there?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
)

from prescreen.dicom.attributes import Attributes
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

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    accession_number: str


def study(destination: Destination, calling_ae_title: str, uid: str) -> Listed | None:
    """How the peer lists a study, None where it has none of that UID.

    ContextRejected where it takes no C-FIND, PeerRefused where it answers with a failure,
    PeerUnavailable where it does not answer.
    """
    keys = _keys("STUDY", StudyInstanceUID=uid)
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber"):
        setattr(keys, keyword, "")
    found = _found(destination, calling_ae_title, [keys])[0]
    told = [Attributes(item) for item in found]
    mine = [one for one in told if one.text("StudyInstanceUID") == uid]
    return _listed(mine[0]) if mine else None


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
    return Listed(
        patient_id=told.text("PatientID") or "",
        issuer_of_patient_id=told.text("IssuerOfPatientID") or "",
        patient_name=told.text("PatientName") or "",
        accession_number=told.text("AccessionNumber") or "",
    )
