"""The nouns of prescreen: what passes between the rooms of the house.

Frozen values, numpy only. Names are the data element's keyword in snake case where DICOM has one.
"""

from __future__ import annotations

import datetime
import enum
import functools
import mmap
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

#: The 14 findings of ChestX-ray14, in the order of the paper's tables (Fang et al., Table 1).
LABELS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

#: What a finding's validation figures must reach before it goes to a live destination, unless the
#: settings say otherwise: lower 95 % bound of the AUROC, and number of positives.
RELEASE_AUROC = 0.80
RELEASE_POSITIVES = 50

#: Patients whose boxes a pointing game needs before it shows anything: with fewer, the interval of
#: its hit rate is wider than a third.
POINTING_PATIENTS = 30

#: The organs of the segmentation, in the order of `Anatomy.masks`. Left is the patient's left,
#: which lies on the right of a frontal radiograph.
ORGANS: tuple[str, ...] = ("left_lung", "right_lung", "heart")


#: Reason of an image that carries another Patient ID than the newest image of its study.
ANOTHER_PATIENT = "another_patient"


class FindingState(enum.StrEnum):
    """What is said of a finding (clinical rules: never "absent", "negative" or "normal")."""

    FLAGGED = "flagged"
    NOT_FLAGGED = "not_flagged"
    UNDETERMINED = "undetermined"
    NOT_EVALUATED = "not_evaluated"


class Outcome(enum.StrEnum):
    """How a job, or one instance of it, ended."""

    SCREENED = "screened"
    NOT_SCREENED = "not_screened"
    OUT_OF_SCOPE = "out_of_scope"
    FAILED = "failed"


class Stage(enum.StrEnum):
    """The work that is next for a job; the lease says whether someone is on it."""

    SCREEN = "screen"
    DELIVER = "deliver"
    DONE = "done"


class OutboxState(enum.StrEnum):
    """What has become of one object on its way to one destination."""

    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    COMMITTED = "committed"
    PARKED = "parked"
    CANCELLED = "cancelled"


class Disposition(enum.StrEnum):
    """What an instance is to the node; `again` until screening has told the bytes apart."""

    NEW = "new"
    AGAIN = "again"
    DUPLICATE = "duplicate"
    REVISION = "revision"
    CONFLICT = "conflict"
    IGNORED = "ignored"


class Audience(enum.StrEnum):
    """Who reads the result: `evaluation` sees all 14 findings, `release` those above the bar."""

    EVALUATION = "evaluation"
    RELEASE = "release"


class Priority(enum.IntEnum):
    """Order of work: a higher number goes first."""

    ROUTINE = 0
    HIGH = 5
    STAT = 10


def generate_uid() -> str:
    """A UID under 2.25 from a random UUID (PS3.5 B.2): unique without a registered root."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True)
class Header:
    """The attributes of one instance that rules are made of.

    Text is stripped and upper-cased where DICOM calls it a code string; a missing, empty or
    malformed attribute is None (or an empty tuple), which never refuses anything by itself.
    `patient_age` is in years at acquisition. Times are as written by the modality; `acquired`
    carries a time zone only if the data set does.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str | None = None
    modality: str | None = None
    body_part_examined: str | None = None
    anatomic_region: tuple[str, str, str] | None = None  # value, scheme, meaning
    view_position: str | None = None
    view_code: tuple[str, str, str] | None = None  # value, scheme, meaning
    patient_orientation: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    presentation_intent_type: str | None = None
    quality_control_image: str | None = None
    patient_species_description: str | None = None
    patient_species_code: tuple[str, str, str] | None = None
    patient_age: float | None = None
    patient_sex: str | None = None
    acquired: datetime.datetime | None = None
    #: whether `acquired` is of the image itself; else its series or study was told
    acquired_itself: bool = True
    study_description: str | None = None
    series_description: str | None = None
    protocol_name: str | None = None
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    photometric_interpretation: str | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    burned_in_annotation: str | None = None
    is_own_result: bool = False

    @property
    def view(self) -> str | None:
        """PA, AP, LATERAL, OBLIQUE or None where neither the tag nor its coded form says."""
        return _view_of(self.view_position, self.view_code)


_VIEW_POSITIONS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LLD": "AP",  # decubitus films are frontal projections
    "RLD": "AP",
    "LLO": "OBLIQUE",
    "RLO": "OBLIQUE",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "L": "LATERAL",
}
# Coded views: PS3.16 CID 4010 "DX View", each SNOMED CT code with the SNOMED RT codes that older
# editions wrote. Sagittal, axial and the views of limbs and skull are not for a chest: no view.
_VIEW_CONCEPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "PA": (("272479007",), ("R-10214", "R-40888")),
    "AP": (("399348003",), ("R-10206",)),
    "LATERAL": (
        ("399067008", "399173006", "399198007", "399352003", "399260004"),
        ("R-102CD", "R-10236", "R-10232", "R-10228", "R-10224"),
    ),
    "OBLIQUE": (
        ("399182000", "399184004", "399236003", "399135007", "399356000", "399006002", "399038007"),
        ("R-102C1", "R-10238", "R-10234", "R-10220", "R-40985", "R-10212", "R-10210"),
    ),
}
_VIEW_CODES = {
    (value, scheme): view
    for view, (current, retired) in _VIEW_CONCEPTS.items()
    for values, schemes in ((current, ("SCT",)), (retired, ("SRT", "SNM3", "99SDM")))
    for value in values
    for scheme in schemes
}


def _view_of(view_position: str | None, view_code: tuple[str, str, str] | None) -> str | None:
    if view_position in _VIEW_POSITIONS:
        return _VIEW_POSITIONS[view_position]
    if view_code is not None:
        return _VIEW_CODES.get((view_code[0], view_code[1]))
    return None


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One radiograph ready for eyes and networks.

    `pixels` is float32, (rows, columns), 0…1 after the VOI, air dark, pixels square; of a large
    instance the node keeps means of whole pixels, as many as are looked at.
    `stored_shape` is (Rows, Columns) of the instance; `to_stored` maps back to it.
    `pixel_spacing` is mm between rows and between columns *of the stored pixels*, or None.
    `pixel_sha256` is the digest of the decoded stored values, before any look-up table; None
    where nobody asked for it.
    """

    header: Header
    pixels: FloatArray
    stored_shape: tuple[int, int]
    pixel_spacing: tuple[float, float] | None
    pixel_sha256: str | None

    @property
    def has_pixels(self) -> bool:
        """False where the pixels were put down, and all the rest is known."""
        return self.pixels.size > 0

    def without_pixels(self) -> Radiograph:
        """All but the pixels, whose memory is free once nobody else looks at them."""
        return replace(self, pixels=np.empty((0, 0), np.float32))

    @property
    def to_stored(self) -> tuple[float, float]:
        """Factors (rows, columns) from pixel coordinates here to those of the stored image."""
        rows, columns = self.pixels.shape
        return self.stored_shape[0] / rows, self.stored_shape[1] / columns


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Left lung, right lung and heart of one radiograph.

    `masks` is bool, (3, height, width), in the order of ORGANS, on a grid that spans the whole
    radiograph (row r of the grid covers r/height … (r+1)/height of its rows). `certainty` is the
    mean sigmoid inside each mask, 0…1, zero where the mask is empty. Nobody writes into the masks:
    what is measured on them is measured once.
    """

    masks: BoolArray
    certainty: tuple[float, float, float]

    @functools.cached_property
    def area(self) -> tuple[float, float, float]:
        """Share of the radiograph's area that each organ covers, 0…1."""
        height, width = self.masks.shape[1:]
        left, right, heart = (float(np.count_nonzero(m)) / (height * width) for m in self.masks)
        return left, right, heart

    @functools.cached_property
    def cardiac_diameter(self) -> tuple[float, float, float] | None:
        """Widest extent of the heart: (row, first column, last column) as shares 0…1 of the grid.

        The transverse diameter of the cardiothoracic ratio is the sum of the greatest distances
        to the right and to the left of the midline; both extremes are drawn at their mean row.
        """
        return _extent(self.masks[2])

    @functools.cached_property
    def thoracic_diameter(self) -> tuple[float, float, float] | None:
        """Greatest inner width of the thorax: (row, first column, last column), shares 0…1.

        Measured along one row, where the lungs reach furthest apart.
        """
        if not self.masks[0].any() or not self.masks[1].any():
            return None
        return _widest_row(self.masks[0] | self.masks[1])

    @functools.cached_property
    def cardiothoracic_ratio(self) -> float | None:
        """Cardiac over thoracic diameter, or None where an organ is missing."""
        cardiac, thoracic = self.cardiac_diameter, self.thoracic_diameter
        if cardiac is None or thoracic is None:
            return None
        width = thoracic[2] - thoracic[1]
        return (cardiac[2] - cardiac[1]) / width if width > 0 else None


def _extent(mask: BoolArray) -> tuple[float, float, float] | None:
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return None
    height, width = mask.shape
    first, last = int(columns[0]), int(columns[-1])
    rows = np.concatenate([np.flatnonzero(mask[:, first]), np.flatnonzero(mask[:, last])])
    return (float(rows.mean()) + 0.5) / height, first / width, (last + 1) / width


def _widest_row(mask: BoolArray) -> tuple[float, float, float] | None:
    occupied = mask.any(axis=1)
    if not occupied.any():
        return None
    height, width = mask.shape
    first = mask.argmax(axis=1)
    last = width - 1 - mask[:, ::-1].argmax(axis=1)
    row = int(np.where(occupied, last - first, -1).argmax())
    return (row + 0.5) / height, int(first[row]) / width, (int(last[row]) + 1) / width


@dataclass(frozen=True)
class Finding:
    """What the networks say of one label on one radiograph.

    `probability` comes from the masked network, `probability_unmasked` from the unmasked head on
    the same features; where they fall on different sides of `threshold` the state is
    `undetermined`. All three are 0…1. A label that the weights do not know has no probabilities
    (None), one without operating point no threshold; neither is evaluated. `reason` is a code
    where the state needs one.
    """

    label: str
    probability: float | None
    probability_unmasked: float | None
    threshold: float | None
    state: FindingState
    reason: str | None = None


@dataclass(frozen=True)
class ViewFigures:
    """How good the weights are at one label on one view (PA or AP), from the manifest."""

    auroc: float
    auroc_low: float
    positives: int


@dataclass(frozen=True)
class Pointing:
    """How often the place that a label's attention map is hottest at lies in a radiologist's box.

    Shares, 0…1, of `boxes` on radiographs of `patients`; `low` is the lower 95 % bound. One point
    that never looks, the mean centre of the label's boxes on other radiographs, hits `fixed_point`
    of them, and `fixed_point_of_all` is the same over the boxes of all labels. `held_out`: the
    weights were trained on no radiograph of these patients.
    """

    hit_rate: float
    low: float
    fixed_point: float
    fixed_point_of_all: float
    boxes: int
    patients: int
    held_out: bool

    @property
    def to_beat(self) -> float:
        """What a point that never looks hits.

        Of a disease of either side that point lies between the two and hits next to nothing, so
        what it hits of all labels counts as well.
        """
        return max(self.fixed_point, self.fixed_point_of_all)

    @property
    def is_proven(self) -> bool:
        """Whether the map points better than a point that never looks: only then it is shown."""
        enough = self.held_out and self.patients >= POINTING_PATIENTS
        return enough and self.low > self.to_beat


@dataclass(frozen=True)
class LabelFigures:
    """How good the weights are at one label, from the manifest (pooled validation figures).

    `by_view` holds the figures for PA and for AP where there are any: a finding without figures
    for the view at hand is not evaluated on its way to a release audience. `threshold` is None
    where the weights cannot answer for the label, `pointing` where nobody has measured it.
    """

    label: str
    threshold: float | None
    auroc: float | None
    auroc_low: float | None  # lower 95 % bound
    positives: int
    sensitivity: float | None
    specificity: float | None
    by_view: Mapping[str, ViewFigures] = field(default_factory=dict)
    pointing: Pointing | None = None

    def reaches(
        self, view: str | None, auroc: float = RELEASE_AUROC, positives: int = RELEASE_POSITIVES
    ) -> bool:
        """Whether the figures, pooled and of this view, reach the release bar (both must)."""
        low, enough = self.at_least(view)
        return enough >= positives and low >= auroc

    def at_least(self, view: str | None) -> tuple[float, int]:
        """Lower bound of the AUROC and positives, the less of pooled and of this view; else 0."""
        in_view = self.by_view.get(view or "")
        if in_view is None or self.auroc_low is None:
            return 0.0, 0
        positives = min(self.positives, in_view.positives)
        return min(self.auroc_low, in_view.auroc_low), positives


#: Of one label at one view: label, lower 95 % bound of the AUROC, positives, sensitivity.
Worth = tuple[str, float, int, float]


def _remembered(label: str, figures: Sequence[float] | None, view: str) -> LabelFigures:
    low, positives, sensitivity = figures or (None, 0, None)
    if low is None:
        return LabelFigures(label, None, None, None, 0, None, None)
    by_view = {view: ViewFigures(low, low, int(positives))}
    return LabelFigures(label, None, None, low, int(positives), sensitivity, None, by_view)


@dataclass(frozen=True)
class Network:
    """One set of weights in use, as algorithm identification (TID 4019) needs it."""

    name: str  # e.g. "prescreen findings"
    version: str
    sha256: str
    device_uid: str  # changes whenever the weights do
    preset: str = ""
    engine: str = ""  # what it ran on, with its version; empty where it has not run


@dataclass(frozen=True)
class Model:
    """The two networks together with the figures that their manifests state."""

    lungs_heart: Network
    findings: Network
    figures: tuple[LabelFigures, ...]
    threshold_rule: str
    calibrated: bool
    feature_distance_limit: float | None  # beyond it a radiograph is unlike the training data

    def figures_of(self, label: str) -> LabelFigures:
        return next(f for f in self.figures if f.label == label)

    def worth(self, view: str | None) -> tuple[Worth, ...]:
        """What the figures come to at one view, for answers that outlive these weights."""
        return tuple(
            (f.label, *f.at_least(view), f.sensitivity)
            for f in self.figures
            if f.sensitivity is not None
        )

    def behind(self, result: ImageResult) -> Model:
        """The weights that gave an answer: these, or earlier ones as far as it tells of them.

        What it does not tell is not known: no figures, no limit, no rule of the thresholds.
        """
        network = result.network or self.findings
        if replace(network, engine=self.findings.engine) == self.findings:
            return replace(self, findings=network)
        known = {label: figures for label, *figures in result.worth}
        view = result.header.view or ""
        return replace(
            self,
            findings=network,
            figures=tuple(_remembered(label, known.get(label), view) for label in LABELS),
            threshold_rule="",
            calibrated=result.calibrated,
            feature_distance_limit=None,
        )

    @property
    def pointing_proven(self) -> tuple[str, ...]:
        """The labels whose attention maps were shown to point better than a fixed point."""
        known = [(figures.label, figures.pointing) for figures in self.figures]
        return tuple(label for label, pointing in known if pointing and pointing.is_proven)


@dataclass(frozen=True)
class Screening:
    """What the networks say of one radiograph; nothing of it has passed the gate yet.

    `attention` maps a label to float32 (h, w), 0…1, spanning the whole radiograph like
    `Anatomy.masks`: where the network looked, which is not a lesion outline. `inside` is the
    share of attention within lungs and heart per label, computed before masking.
    """

    anatomy: Anatomy
    findings: tuple[Finding, ...]
    feature_distance: float
    model: Model
    attention: Mapping[str, FloatArray] = field(default_factory=dict)
    inside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageResult:
    """The answer for one instance of a study: what goes into the report.

    `findings` is empty unless the outcome is `screened`. The two diameters are
    (row, first column, last column) in pixels of the stored image, whose `pixel_spacing` is that
    of its radiograph; the ratio is None unless the view is PA. `carried_over` marks a result of an
    earlier report of the same study.
    """

    header: Header
    outcome: Outcome
    reason: str | None
    findings: tuple[Finding, ...] = ()
    cardiothoracic_ratio: float | None = None
    cardiac_diameter: tuple[float, float, float] | None = None
    thoracic_diameter: tuple[float, float, float] | None = None
    feature_distance: float | None = None
    carried_over: bool = False
    #: the network that gave the findings: an answer carried over may come from earlier weights
    network: Network | None = None
    #: what those weights were worth and whether calibrated, for when others are in use
    worth: tuple[Worth, ...] = ()
    calibrated: bool = False
    pixel_spacing: tuple[float, float] | None = None


#: The bytes of an object, in memory or mapped from its file.
Content = bytes | mmap.mmap


class Unfinished(Protocol):
    """A file that is being written while its content comes in, and is nothing yet."""

    def write(self, content: bytes | memoryview) -> None:
        """Append; OutOfResources or StoreError where that cannot be."""

    def content(self) -> Content:
        """What was written so far."""

    def discard(self) -> None:
        """Remove it, unless it was kept meanwhile; doing so again does nothing."""


@dataclass(frozen=True)
class Incoming:
    """One C-STORE request as it came in: the bytes as received, with Part 10 preamble and meta.

    `file` is the unfinished file of the spool that holds those bytes already; None where they
    are in memory only.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    part10: Content
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    file: Unfinished | None = None


@dataclass(frozen=True)
class Identity:
    """The attributes of a kept instance that keys and revisions are made of (PS3.3 C.2, C.4).

    Text is decoded. Issuers are part of the keys.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str | None = None
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    accession_number: str = ""
    issuer_of_accession_number: str = ""
    study_date: str = ""
    requested_priority: str = ""
    is_own_result: bool = False


@dataclass(frozen=True)
class Correction:
    """Whose a kept instance is by now, where the archive has said so and its file says otherwise.

    Text is decoded. `patient_sex` is None where the archive said nothing of it; empty where the
    patient is another one, of whom it is not known.
    """

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    accession_number: str
    patient_sex: str | None = None


@dataclass(frozen=True)
class Instance:
    """One kept instance: a row of the database and a file of the spool."""

    instance_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    path: Path
    calling_ae_title: str
    received_at: datetime.datetime
    modality: str | None = None
    #: sop-instance-level: "first", or "again" for other bytes under a UID already kept
    arrival: str = "first"
    disposition: Disposition = Disposition.NEW
    #: known once the instance was compared with another version of it
    pixel_sha256: str | None = None
    #: salted digest of the identity attributes: equal where patient and study identity are
    identity_digest: str = ""
    #: what stands in place of the patient and order that the file carries
    correction: Correction | None = None


@dataclass(frozen=True)
class Reference:
    """One object by its UIDs; study and series only where they are known."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str = ""
    study_instance_uid: str = ""


@dataclass(frozen=True)
class Rejection:
    """What a rejection note says: the Code Value of its title (CID 7011), and what it names."""

    code: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Withdrawn:
    """Objects that one destination was sent, or may have been, and that are taken back.

    `code` is the one of the note that made the node do so, empty where a person did. `path` is
    the file of one of them.
    """

    destination: str
    code: str
    objects: tuple[Reference, ...]
    path: Path


@dataclass(frozen=True)
class Job:
    """The work on one study, closed when claimed: its set of instances never changes again."""

    job_id: int
    study_instance_uid: str
    stage: Stage
    instances: tuple[Instance, ...]
    attempt: int
    lease_token: str
    priority: int = Priority.ROUTINE
    predecessor_job_id: int | None = None
    #: results of the earlier reports of this study, newest answer per instance
    earlier: tuple[ImageResult, ...] = ()
    #: destinations that were live when the job was first claimed; the others are silent for it
    live_destinations: frozenset[str] = frozenset()
    #: findings on hold when the job was first claimed: reported as not evaluated
    held_findings: frozenset[str] = frozenset()
    #: why there is this job: arrival, rescreen, retry, finding_held, corrected, rejected, recalled
    cause: str = "arrival"
    #: results of earlier jobs that this one takes back
    withdrawn: tuple[Withdrawn, ...] = ()


@dataclass(frozen=True)
class ResultObject:
    """One object of a results folder, complete and final."""

    kind: str  # one of `settings.ObjectKind`
    audience: Audience
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str
    fallback_sop_instance_uid: str | None = None
    source_sop_instance_uid: str | None = None
    #: the only destination that gets it, None where kind and audience decide
    destination: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One outbox row that has been claimed: one object on its way to one destination."""

    outbox_id: int
    job_id: int
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    attempt: int
    lease_token: str
    fallback_sop_instance_uid: str | None = None
    uses_fallback: bool = False
    study_instance_uid: str = ""
    #: when the peer first answered with a failure status, None where it has not
    refused_since: datetime.datetime | None = None
    #: when the row was written, after the object itself
    created_at: datetime.datetime | None = None


@dataclass(frozen=True)
class Promise:
    """What a peer says of a request for storage commitment (PS3.4 J.3.3).

    `kept` are the SOP Instance UIDs that it has promised to keep; `failed` gives for each of the
    others its Failure Reason (0008,1197), 0x0112 where the peer has no such object.
    """

    transaction_uid: str
    kept: frozenset[str] = frozenset()
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One audited fact. `detail` holds codes and numbers, never a patient's name or id."""

    event_id: int
    at: datetime.datetime
    kind: str
    detail: Mapping[str, Any]
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    job_id: int | None = None
