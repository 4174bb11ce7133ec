"""Who and what a received object is, read without touching its pixels."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from io import BytesIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from prescreen.dicom.attributes import Attributes, without_warnings
from prescreen.dicom.origin import is_own
from prescreen.dicom.structure import LONGEST, UNDEFINED, Element, Structure, check_kind
from prescreen.errors import CannotUnderstand, InvalidInstance, UnusableImage
from prescreen.study import Content, Identity

#: What is received and decoded, in the order preferred where a peer offers several in one context.
#: Not Deflated, which unpacks a small message to any size, and not big endian, which the standard
#: retired.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
)

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TEXTS = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "requested_priority": "RequestedProcedurePriority",
}
_KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
    "ManufacturerModelName",
    "ContributingEquipmentSequence",
    *_TEXTS.values(),
)


def identify(part10: Content) -> Identity:
    """The UIDs and identity attributes of a Part 10 object; pixels are neither read nor copied.

    Text is decoded by Specific Character Set; an issuer with more than one part is written
    `local&universal&type` as in HL7. Raises CannotUnderstand where the bytes do not parse or
    the transfer syntax is none of TRANSFER_SYNTAXES, InvalidInstance where a UID is missing or
    malformed (PS3.5 9.1; components with leading zeros are tolerated).
    """
    transfer_syntax_uid, ds = _parsed(part10)
    return identity_of(ds, transfer_syntax_uid)


def identity_of(ds: pydicom.Dataset, transfer_syntax_uid: str = "") -> Identity:
    """The same of a data set that was parsed before. Raises InvalidInstance as `identify` does."""
    attributes = Attributes(ds)
    texts = {name: attributes.text(keyword) or "" for name, keyword in _TEXTS.items()}
    return Identity(
        sop_class_uid=_uid(attributes, "SOPClassUID"),
        sop_instance_uid=_uid(attributes, "SOPInstanceUID"),
        series_instance_uid=_uid(attributes, "SeriesInstanceUID"),
        study_instance_uid=_uid(attributes, "StudyInstanceUID"),
        transfer_syntax_uid=transfer_syntax_uid,
        modality=attributes.code("Modality"),
        issuer_of_patient_id=_issuer_of_patient_id(attributes),
        issuer_of_accession_number=_issuer(attributes, "IssuerOfAccessionNumberSequence"),
        is_own_result=is_own(attributes),
        **texts,
    )


@functools.cache
def _tags() -> list[int]:
    """The tags of an identity, ascending."""
    tags = (tag_for_keyword(keyword) for keyword in _KEYWORDS)
    return sorted(tag for tag in tags if tag is not None)


def _parsed(part10: Content) -> tuple[str, pydicom.Dataset]:
    try:
        with without_warnings():
            return _read(part10)
    except UnusableImage as error:
        raise CannotUnderstand(str(error)) from None
    except CannotUnderstand:
        raise
    except Exception as error:  # pydicom raises what it likes, with values in the text
        raise CannotUnderstand(
            f"the object does not parse as DICOM Part 10 ({type(error).__name__}): "
            "the file is damaged, or it is not DICOM"
        ) from None


def _read(part10: Content) -> tuple[str, pydicom.Dataset]:
    """Transfer syntax, and a data set of what an identity is made of; the rest is passed over."""
    structure = Structure(lambda start, count: part10[start : start + count], len(part10))
    check_transfer_syntax(structure.transfer_syntax_uid, CannotUnderstand)
    tags = _tags()
    wanted = {}
    for element in structure.elements(before=tags[-1] + 1):
        check_kind(element)
        if element.tag in tags and element.end - element.start <= LONGEST:
            wanted[BaseTag(element.tag)] = _element(part10, element, structure.is_implicit)
    return str(structure.transfer_syntax_uid), pydicom.Dataset(wanted)


def _element(part10: Content, element: Element, implicit: bool) -> RawDataElement | DataElement:
    value, tag = part10[element.start : element.end], BaseTag(element.tag)
    if element.length != UNDEFINED:
        return RawDataElement(tag, element.vr, element.length, value, element.start, implicit, True)
    return DataElement(tag, "SQ", read_sequence(BytesIO(value), implicit, True, UNDEFINED, ""))


def check_transfer_syntax(uid: str | None, refused: Callable[[str], Exception]) -> None:
    """Raise `refused` with the way out in its text unless `uid` is of TRANSFER_SYNTAXES."""
    if uid in TRANSFER_SYNTAXES:
        return
    if uid is None:
        raise refused("the file meta information names no TransferSyntaxUID")
    name = "Deflated Explicit VR Little Endian" if uid == DeflatedExplicitVRLittleEndian else uid
    shown = "(malformed)" if name == uid and not is_uid(uid) else name
    raise refused(
        f"transfer syntax {shown} is not supported; let the sender use Explicit VR Little Endian"
    )


def _uid(attributes: Attributes, keyword: str) -> str:
    uid = attributes.text(keyword)
    if uid is None:
        raise InvalidInstance(f"{keyword} is missing or empty")
    if not is_uid(uid):
        raise InvalidInstance(f"{keyword} is not a UID: up to 64 digits with single dots between")
    return uid


def is_uid(text: str) -> bool:
    """Whether it is one (PS3.5 9.1); leading zeros, which some send, are let pass."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _issuer_of_patient_id(attributes: Attributes) -> str:
    issuer = attributes.text("IssuerOfPatientID")
    return issuer or _issuer(attributes, "IssuerOfPatientIDQualifiersSequence")


def _issuer(attributes: Attributes, keyword: str) -> str:
    """The HL7v2 Hierarchic Designator of the sequence's first item (PS3.3 10.14)."""
    for item in attributes.items(keyword):
        parts = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
        return "&".join(item.text(part) or "" for part in parts).rstrip("&")
    return ""
