"""The modules that report and capture share (PS3.3 C.7 and C.12)."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import replace

import pydicom

from prescreen import __version__
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.codes import LOCAL_SCHEME, PROCESSING_EQUIPMENT
from prescreen.dicom.content import concept_item
from prescreen.dicom.elements import Elements
from prescreen.dicom.entity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from prescreen.dicom.origin import OWN_MODEL, mark
from prescreen.study import Model, Network

#: Implementation Class UID and Version Name of the files we write.
IMPLEMENTATION = (str(IMPLEMENTATION_CLASS_UID), IMPLEMENTATION_VERSION_NAME)

# Type 2 attributes of the Patient and General Study modules: there, if only empty.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
_TAKEN_OVER = (
    *_TYPE_2,
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthTime",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
)


def patient_and_study(source: pydicom.Dataset, study_instance_uid: str) -> Elements:
    """Patient, General Study and Patient Study (C.7.1.1, C.7.2.1, C.7.2.2) as in the source.

    Texts keep their bytes, under the source's Specific Character Set; type 2 attributes that it
    lacks are empty.
    """
    elements = Elements()
    elements.copy(source, _TAKEN_OVER)
    for keyword in _TYPE_2:
        elements.put_default(keyword)
    elements.put("StudyInstanceUID", study_instance_uid)
    return elements


def put_equipment(
    elements: Elements,
    manufacturer: str,
    model: Model,
    made: datetime.datetime,
    earlier: Iterable[Network] = (),
) -> None:
    """General Equipment (C.7.5.1) and, for each network, one Contributing Equipment (C.12.1).

    Each contributing item is of purpose (109102, DCM, "Processing Equipment") and equals the
    algorithm identification (TID 4019) in the report's tree; `earlier` are the networks whose
    answers are carried over.
    """
    elements.put("Manufacturer", manufacturer)
    elements.put("ManufacturerModelName", OWN_MODEL)
    elements.put("SoftwareVersions", __version__)
    every = (model.findings, model.lungs_heart, *earlier)
    networks = dict.fromkeys(replace(network, engine="") for network in every)  # each weights once
    items = [_contributing(manufacturer, network, made) for network in networks]
    elements.put("ContributingEquipmentSequence", items)


def _contributing(manufacturer: str, network: Network, made: datetime.datetime) -> bytes:
    return Elements(
        Manufacturer=manufacturer,
        ManufacturerModelName=network.name[:64],
        SoftwareVersions=network.version[:64],
        DeviceUID=network.device_uid,
        ContributionDateTime=f"{made:%Y%m%d%H%M%S}",
        ContributionDescription=mark(network.sha256),
        PurposeOfReferenceCodeSequence=[concept_item(PROCESSING_EQUIPMENT)],
    ).item()


def put_coding_scheme(elements: Elements, manufacturer: str) -> None:
    """Who is behind our local codes: Coding Scheme Identification Sequence (C.12.1)."""
    scheme = Elements(
        CodingSchemeDesignator=LOCAL_SCHEME,
        CodingSchemeName="prescreen local concepts",
        CodingSchemeResponsibleOrganization=manufacturer,
    )
    elements.put("CodingSchemeIdentificationSequence", [scheme.item()])


def local_time(source: pydicom.Dataset, made: datetime.datetime) -> datetime.datetime:
    """`made` in the time zone that the source states, as the data set's times are read so.

    A naive `made`, or a source that states none, keeps the wall clock.
    """
    text = Attributes(source).text("TimezoneOffsetFromUTC") or ""
    if made.tzinfo is None:
        return made
    try:
        zone = datetime.datetime.strptime(text, "%z").tzinfo
    except ValueError:
        return made.astimezone()  # the clock on the wall of this house
    return made.astimezone(zone)


def put_times(
    elements: Elements,
    local: datetime.datetime,
    names: Iterable[str] = ("Content", "InstanceCreation", "Series"),
) -> None:
    """Content and creation of the instance, start of the series (C.7.3.1, C.12.1)."""
    date, time = f"{local:%Y%m%d}", f"{local:%H%M%S}"
    for name in names:
        elements.put(f"{name}Date", date)
        elements.put(f"{name}Time", time)
