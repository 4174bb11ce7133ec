"""The measurement groups of a report: TID 1501, one for each image, finding and ratio.

Image level, without regions: the networks flag, they do not locate.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prescreen.dicom import codes, wording
from prescreen.dicom.codes import CodedFinding, Concept
from prescreen.dicom.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    INFERRED_FROM,
    code,
    container,
    image,
    number,
    said,
    text,
    uid_reference,
)
from prescreen.dicom.document import Document
from prescreen.dicom.wording import Words
from prescreen.study import Finding, FindingState, ImageResult, Model, Network, Outcome

#: Namespace of our tracking identifiers; it never changes, or trackings would not persist.
_TRACKING = uuid.UUID("0d2c1f9e-6a53-4a53-9a0e-6f3c4d7b8e21")

_PRESENCE = {
    FindingState.FLAGGED: codes.PRESENT,
    FindingState.UNDETERMINED: codes.UNDETERMINED,
    FindingState.NOT_FLAGGED: codes.NOT_FLAGGED,
}


def tracking(sop_instance_uid: str, subject: str) -> tuple[str, str]:
    """Tracking Identifier and Tracking Unique Identifier of one subject on one source image.

    Both follow from the arguments alone, so they persist from report to report, and other objects
    about the same image can name them.
    """
    identity = uuid.uuid5(_TRACKING, f"{sop_instance_uid}/{subject}")
    return f"{subject} {identity.hex[:8]}", f"2.25.{identity.int}"


@dataclass(frozen=True)
class Context:
    """What a group is made with beside its finding; `below_bar` marks it as evaluation only."""

    words: Words
    manufacturer: str
    below_bar: bool = False


def finding_group(
    result: ImageResult,
    finding: Finding,
    coded: CodedFinding,
    model: Model,
    context: Context,
) -> bytes:
    """One label on one image (TID 1501), with TID 1350's presence and CID 6042's run status.

    Flagged: (121071, DCM, "Finding") and (111012, DCM, "Certainty of Finding"). Flagged or
    undetermined: presence of property of CID 240. Not flagged: a local code, and the network's
    number under a local concept. Not evaluated: words only.
    """
    # weights and rules stand in the group of the image, once: a tree is also read by people
    point = finding.threshold
    parameters = () if point is None else (f"operating point {point:.4f}",)
    head: list[bytes] = []
    if finding.state is FindingState.FLAGGED:
        head.append(code(CONTAINS, codes.FINDING, coded.concept))
    if finding.state is not FindingState.NOT_EVALUATED:
        head.append(code(HAS_CONCEPT_MOD, codes.FINDING_SITE, coded.site))
    identified = algorithm(model.findings, context.manufacturer, parameters)
    return _group(result, finding.label, [*head, *identified, *_said_of(finding, coded, context)])


def _said_of(finding: Finding, coded: CodedFinding, context: Context) -> list[bytes]:
    words, says = context.words, context.words.catalogue.says
    name = words.name_of(finding.label)
    if finding.state is FindingState.NOT_EVALUATED:
        told = says.not_evaluated_one.format(finding=name, reason=words.reason(finding.reason))
        status = code(CONTAINS, codes.SUMMARY_OF_DETECTIONS, codes.NOT_ATTEMPTED)
        return [status, comment(told)]
    items = [
        _number_of(finding),
        code(CONTAINS, codes.LOOKED_FOR, coded.concept),
        code(CONTAINS, codes.PRESENCE_OF_PROPERTY, _PRESENCE[finding.state]),
        code(CONTAINS, codes.SUMMARY_OF_DETECTIONS, codes.SUCCEEDED),
    ]
    if finding.state is FindingState.UNDETERMINED:
        items.append(comment(f"{name}: {words.why_undetermined(finding.reason)}."))
    if context.below_bar:
        items.append(comment(f"{name}: {says.below_release_bar}."))
    return items


def comment(words: str) -> bytes:
    """A sentence of ours."""
    return said(CONTAINS, codes.COMMENT, words)


def _number_of(finding: Finding) -> bytes:
    probability = finding.probability or 0.0  # what is evaluated has one
    if finding.state is FindingState.FLAGGED:
        return number(CONTAINS, codes.CERTAINTY_OF_FINDING, probability * 100, codes.PERCENT, 1)
    return number(CONTAINS, codes.ALGORITHM_OUTPUT, probability, codes.NO_UNITS, 4)


def image_group(result: ImageResult, model: Model, document: Document) -> bytes:
    """What became of one image: CID 6042 and the same in words, for a notice the reason.

    Where the document follows another one, what is different.
    """
    words, changes = document.words, document.changes(result)
    parameters = (*_parameters(model), *_gate(result, model))
    identified = algorithm(model.findings, document.settings.manufacturer, parameters)
    items = [
        code(CONTAINS, codes.SUMMARY_OF_DETECTIONS, _run_status(result)),
        comment(words.summary(result)),
    ]
    if changes is not None:
        items.append(comment(changes))
    if result.outcome is Outcome.SCREENED:
        items.append(comment(words.calibration(model.calibrated)))
        sensitivities = words.sensitivities(result, model)
        items += [comment(sensitivities)] if sensitivities else []
    return _group(result, "Image", [*identified, *items])


def _run_status(result: ImageResult) -> Concept:
    partly = bool(wording.in_state(result.findings, FindingState.NOT_EVALUATED))
    if result.outcome is Outcome.SCREENED and partly:
        return codes.PARTIALLY_SUCCEEDED
    return codes.RUN_STATUS[result.outcome]


def ratio_group(result: ImageResult, model: Model, manufacturer: str) -> bytes:
    """The cardiothoracic ratio, inferred from two diameters (TID 300): mm, or else pixels."""
    diameters = [
        diameter(INFERRED_FROM, name, ends, result.pixel_spacing)
        for name, ends in (
            (codes.CARDIAC_DIAMETER, result.cardiac_diameter),
            (codes.THORACIC_DIAMETER, result.thoracic_diameter),
        )
        if ends is not None
    ]
    ratio = result.cardiothoracic_ratio or 0.0
    network = model.lungs_heart
    return _group(
        result,
        "Cardiothoracic ratio",
        [
            code(HAS_CONCEPT_MOD, codes.FINDING_SITE, codes.HEART),
            *algorithm(network, manufacturer, weights_in_words(network)),
            number(CONTAINS, codes.CARDIOTHORACIC_RATIO, ratio, codes.RATIO, 3, diameters),
        ],
    )


def diameter(
    relationship: str,
    name: Concept,
    ends: tuple[float, float, float],
    spacing: tuple[float, float] | None,
) -> bytes:
    """A diameter (row, first column, last column) in pixels as NUM: mm where spacing is known."""
    pixels = ends[2] - ends[1]
    if spacing is None:
        return number(relationship, name, pixels, codes.PIXELS, 1)
    return number(relationship, name, pixels * spacing[1], codes.MILLIMETER, 1)


def _group(result: ImageResult, subject: str, content: Iterable[bytes]) -> bytes:
    header = result.header
    source = image(
        CONTAINS, codes.SOURCE_OF_MEASUREMENT, header.sop_class_uid, header.sop_instance_uid
    )
    return tracked(result, subject, [*content, source], "1501")


def tracked(result: ImageResult, subject: str, content: Iterable[bytes], template: str) -> bytes:
    """A measurement group about `subject` on one image: its tracking identifiers, `content`."""
    identifier, unique_identifier = tracking(result.header.sop_instance_uid, subject)
    items = [
        text(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, identifier),
        uid_reference(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, unique_identifier),
        *content,
    ]
    return container(CONTAINS, codes.MEASUREMENT_GROUP, items, template=template)


def weights_in_words(network: Network) -> tuple[str, ...]:
    """Which weights a network ran with, and on what, as algorithm parameters."""
    preset = (f"preset {network.preset}",) if network.preset else ()
    engine = (f"engine {network.engine}",) if network.engine else ()
    return (f"weights sha256 {network.sha256}", *preset, *engine)


def _parameters(model: Model) -> tuple[str, ...]:
    return (
        *weights_in_words(model.findings),
        *((f"threshold rule {model.threshold_rule}",) if model.threshold_rule else ()),
        f"calibrated {'yes' if model.calibrated else 'no'}",
    )


def _gate(result: ImageResult, model: Model) -> Iterator[str]:
    """What the gate made of the image: let through, or the code of the reason that it was not.

    With the distance from the training data, and its limit, where they are known.
    """
    if result.outcome is Outcome.SCREENED:
        yield "gate let through"
    elif re.fullmatch(r"[a-z0-9_]{1,64}", result.reason or ""):
        yield f"gate or node: {result.reason}"
    distance, limit = result.feature_distance, model.feature_distance_limit
    if distance is not None and math.isfinite(distance):
        yield f"feature distance {distance:.2f}" + (
            "" if limit is None else f" (limit {limit:.2f})"
        )


def algorithm(network: Network, manufacturer: str, parameters: tuple[str, ...]) -> list[bytes]:
    """TID 4019, equal to the network's item of Contributing Equipment."""
    return [
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, network.name),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, network.version),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_MANUFACTURER, manufacturer),
        *(text(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, p) for p in parameters),
        code(HAS_CONCEPT_MOD, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]
