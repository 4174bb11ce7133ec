"""Label → coded concept, each line with its status and source; and every other concept we write.

Statuses: IN_CID, the code stands in a context group of PS3.16 (the test looks each one up);
CHECKED, a SNOMED CT code confirmed against a second public source (the Human Phenotype Ontology's
cross references or the SNOMED CT browser), as no context group has it; LOCAL, no code could be
confirmed, so ours is sent under 99PRESCREEN. A site that has better codes hands in its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from prescreen.errors import SettingsError
from prescreen.study import LABELS, Outcome

#: Coding Scheme Designator of our own concepts (PS3.16 chapter 8: 99 marks a local scheme).
LOCAL_SCHEME = "99PRESCREEN"


class Concept(NamedTuple):
    """A coded concept: Code Value (at most 16 characters), scheme, Code Meaning (at most 64)."""

    value: str
    scheme: str
    meaning: str


class Status(enum.Enum):
    """How sure we are that the code means what its meaning says."""

    IN_CID = "in a context group of PS3.16"
    CHECKED = "confirmed by a second public source"
    LOCAL = "no code confirmed"


# --- sites: CID 7151 ----------------------------------------------------------------------------
LUNG = Concept("39607008", "SCT", "Lung")
HEART = Concept("80891009", "SCT", "Heart")
PLEURA = Concept("3120008", "SCT", "Pleura")
CHEST = Concept("816094009", "SCT", "Chest")


@dataclass(frozen=True)
class CodedFinding:
    """One label: its concept, where it sits, and where the code comes from."""

    label: str
    concept: Concept
    site: Concept
    status: Status
    source: str


def _sct(value: str, meaning: str) -> Concept:
    return Concept(value, "SCT", meaning)


_IN_CID, _CHECKED, _LOCAL = Status.IN_CID, Status.CHECKED, Status.LOCAL
_HPO = "HPO 2025-01-16 cross reference"
_BROWSER = "SNOMED CT browser"
_TABLE: tuple[tuple[str, Concept, Concept, Status, str], ...] = (
    ("Atelectasis", _sct("46621007", "Atelectasis"), LUNG, _CHECKED, _HPO),
    ("Cardiomegaly", _sct("8186001", "Cardiomegaly"), HEART, _CHECKED, _HPO),
    ("Effusion", _sct("60046008", "Pleural effusion"), PLEURA, _IN_CID, "CID 645"),
    ("Infiltration", Concept("112121", "DCM", "Infiltrate"), LUNG, _IN_CID, "CID 6102"),
    ("Mass", _sct("309529002", "Lung mass"), LUNG, _CHECKED, _BROWSER),
    ("Nodule", _sct("786838002", "Nodule of lung"), LUNG, _CHECKED, _BROWSER),
    ("Pneumonia", _sct("233604007", "Pneumonia"), LUNG, _CHECKED, _HPO),
    ("Pneumothorax", _sct("36118008", "Pneumothorax"), PLEURA, _IN_CID, "CID 6102"),
    ("Consolidation", _sct("95436008", "Lung consolidation"), LUNG, _CHECKED, _BROWSER),
    ("Edema", _sct("19242006", "Pulmonary edema"), LUNG, _IN_CID, "CID 3700"),
    ("Emphysema", _sct("87433001", "Pulmonary emphysema"), LUNG, _CHECKED, _HPO),
    ("Fibrosis", _sct("51615001", "Fibrosis of lung"), LUNG, _CHECKED, _HPO),
    (
        "Pleural_Thickening",
        Concept("pleural-thick", LOCAL_SCHEME, "Pleural thickening"),
        PLEURA,
        _LOCAL,
        "public tables disagree; RadLex and HPO have none",
    ),
    # in chest radiographs the label is a hiatal hernia, which lies outside the lungs
    ("Hernia", _sct("84089009", "Hiatal hernia"), CHEST, _CHECKED, _HPO),
)

#: The 14 findings, in the order of LABELS.
FINDINGS: Mapping[str, CodedFinding] = {row[0]: CodedFinding(*row) for row in _TABLE}


def coded_findings(
    overrides: Mapping[str, Concept] | None = None,
) -> Mapping[str, CodedFinding]:
    """FINDINGS, with a site's own concepts in place of ours. SettingsError names a bad entry."""
    if not overrides:
        return FINDINGS
    return {**FINDINGS, **{label: _overridden(label, c) for label, c in overrides.items()}}


def _overridden(label: str, concept: Concept) -> CodedFinding:
    if label not in FINDINGS:
        raise SettingsError(f"code for {label!r}: one of the 14 findings: {', '.join(LABELS)}")
    limits = ((concept.value, 16), (concept.scheme, 16), (concept.meaning, 64))
    if any(not (0 < len(text) <= most and text.isascii()) for text, most in limits):
        raise SettingsError(
            f"code for {label!r} = {concept!r}: value and scheme have 1 to 16 characters,"
            " the meaning 1 to 64, all ASCII"
        )
    return replace(FINDINGS[label], concept=concept, source="this site's settings")


def _dcm(value: str, meaning: str) -> Concept:
    return Concept(value, "DCM", meaning)


def _local(value: str, meaning: str) -> Concept:
    return Concept(value, LOCAL_SCHEME, meaning)


# --- what is said of a finding ------------------------------------------------------------------
PRESENCE_OF_PROPERTY = _dcm("121052", "Presence of property")  # TID 1350
PRESENT = _sct("52101004", "Present")  # CID 240
UNDETERMINED = _sct("373068000", "Undetermined")  # CID 240
NOT_FLAGGED = _local("not-flagged", "Not flagged")  # CID 240 has no such thing
LOOKED_FOR = _local("looked-for", "Finding looked for")
FINDING = _dcm("121071", "Finding")
FINDING_SITE = _sct("363698007", "Finding Site")
CERTAINTY_OF_FINDING = _dcm("111012", "Certainty of Finding")
ALGORITHM_OUTPUT = _local("algorithm-output", "Algorithm output, not a certainty of finding")

# --- where the network looked: why it said so, never what is there ------------------------------
VISUAL_EXPLANATION = _dcm("130401", "Visual explanation")
CLASS_ACTIVATION = _dcm("130402", "Class activation")  # CID 217


def looked_at(label: str) -> Concept:
    """What stands beside the line around where the network looked: a heat, of its hottest place.

    OHIF writes the meaning of a number beside a line, and of nothing else but a finding site; a
    line without words would be taken for the outline of a disease. Ours, as no context group has
    such a thing.
    """
    return _local(f"looked-{label[:9].lower()}", f"Where the network looked: {label}; line at heat")


# --- run status: CID 6042 -----------------------------------------------------------------------
SUMMARY_OF_DETECTIONS = _dcm("111064", "Summary of Detections")
SUCCEEDED = _dcm("111222", "Succeeded")
PARTIALLY_SUCCEEDED = _dcm("111223", "Partially Succeeded")
FAILED = _dcm("111224", "Failed")
NOT_ATTEMPTED = _dcm("111225", "Not Attempted")

#: CID 6042 for an image as a whole. What did not pass the gate was not attempted.
RUN_STATUS: Mapping[Outcome, Concept] = {
    Outcome.SCREENED: SUCCEEDED,
    Outcome.NOT_SCREENED: NOT_ATTEMPTED,
    Outcome.OUT_OF_SCOPE: NOT_ATTEMPTED,
    Outcome.FAILED: FAILED,
}

# --- cardiothoracic ratio: of diameters; 59076-0 LN is a ratio of areas -------------------------
CARDIOTHORACIC_RATIO = _local("ct-ratio", "Cardiothoracic ratio of diameters")
CARDIAC_DIAMETER = _local("cardiac-diam", "Cardiac diameter in the image")
THORACIC_DIAMETER = _local("thoracic-diam", "Thoracic diameter in the image")

# --- units: UCUM --------------------------------------------------------------------------------
PERCENT = Concept("%", "UCUM", "Percent")
RATIO = Concept("{ratio}", "UCUM", "ratio")
NO_UNITS = Concept("1", "UCUM", "no units")
MILLIMETER = Concept("mm", "UCUM", "mm")
PIXELS = Concept("{pixels}", "UCUM", "Pixels")

# --- the tree: TID 1500, 1501, 1600, 1602, 4019, 1001, 1204 ---------------------------------------
#: Not 18748-4, "Diagnostic imaging report": it looks like *the* report, and may flip a worklist.
PRE_SCREENING = _local("pre-screening", "AI pre-screening, not a report")
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
DEVICE_OBSERVER_UID = _dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = _dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = _dcm("121015", "Device Observer Model Name")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
CHEST_RADIOGRAPH = _local("chest-radiograph", "Plain radiography of the chest")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
SOURCE = _sct("260753009", "Source")
MODALITY = _dcm("121139", "Modality")
PIXEL_DATA_ROWS = _dcm("110910", "Pixel Data Rows")
PIXEL_DATA_COLUMNS = _dcm("110911", "Pixel Data Columns")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = _dcm("112040", "Tracking Unique Identifier")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")  # CID 7162
COMMENT = _dcm("121106", "Comment")
SUMMARY = _dcm("121111", "Summary")
FINDINGS_SECTION = _dcm("121070", "Findings")
WARNING = _local("warning", "Warning")
FLAGGED = _local("flagged", "Flagged")
MADE_BY = _local("made-by", "Made by")
ANATOMICAL_STRUCTURE = _sct("91723000", "Anatomical Structure")  # CID 7150
SEGMENTATION = _dcm("113076", "Segmentation")  # CID 7203
IMAGE_REGION = _dcm("111030", "Image Region")
LATERALITY = _sct("272741003", "Laterality")
LEFT = _sct("7771000", "Left")  # CID 244
RIGHT = _sct("24028007", "Right")  # CID 244
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")

#: CID 29 as far as a chest radiograph may carry it.
MODALITIES: Mapping[str, Concept] = {
    "CR": _dcm("CR", "Computed Radiography"),
    "DX": _dcm("DX", "Digital Radiography"),
    "OT": _dcm("OT", "Other Modality"),
}

# --- purposes of reference ----------------------------------------------------------------------
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")  # CID 7005
SOURCE_IMAGE = _dcm("121322", "Source image for image processing operation")  # CID 7202
REPLACED_REPORT = _dcm("121360", "Replaced report")  # CID 7009
ADDENDED_REPORT = _dcm("121361", "Addended report")  # CID 7009
