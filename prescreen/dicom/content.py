"""SR content items, encoded (PS3.3 C.17.3). A tree is bytes within bytes, built from its leaves.

Every function returns one item of a Content Sequence. `relationship` is that to the parent
(PS3.3 C.17.3.2.4); `children` are items with a relationship to the one that is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from prescreen.dicom.codes import SOURCE, Concept
from prescreen.dicom.elements import Elements
from prescreen.errors import PrescreenError
from prescreen.study import FloatArray

CONTAINS = "CONTAINS"
HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
HAS_ACQ_CONTEXT = "HAS ACQ CONTEXT"
INFERRED_FROM = "INFERRED FROM"
SELECTED_FROM = "SELECTED FROM"


@functools.lru_cache(maxsize=512)
def concept_item(concept: Concept) -> bytes:
    """One item of a code sequence (PS3.3 table 8.8-1)."""
    return Elements(
        CodeValue=concept.value,
        CodingSchemeDesignator=concept.scheme,
        CodeMeaning=concept.meaning.encode(),
    ).item()


def _item(
    relationship: str,
    value_type: str,
    name: Concept,
    children: Iterable[bytes],
    **value: str | bytes | list[bytes],
) -> bytes:
    elements = Elements(
        RelationshipType=relationship,
        ValueType=value_type,
        ConceptNameCodeSequence=[concept_item(name)],
        **value,
    )
    encoded = list(children)
    if encoded:
        elements.put("ContentSequence", encoded)
    return elements.item()


@functools.lru_cache(maxsize=512)
def code(
    relationship: str, name: Concept, value: Concept, children: tuple[bytes, ...] = ()
) -> bytes:
    """A CODE item."""
    return _item(relationship, "CODE", name, children, ConceptCodeSequence=[concept_item(value)])


def code_taken_over(relationship: str, name: Concept, value: bytes) -> bytes:
    """A CODE item whose value is an item of a code sequence, already encoded."""
    return _item(relationship, "CODE", name, (), ConceptCodeSequence=[value])


@functools.lru_cache(maxsize=512)
def text(relationship: str, name: Concept, value: str) -> bytes:
    """A TEXT item; what is not ASCII becomes a question mark."""
    return _item(relationship, "TEXT", name, (), TextValue=value)


@functools.lru_cache(maxsize=512)
def said(relationship: str, name: Concept, words: str) -> bytes:
    """A TEXT item in UTF-8: for words that fit their data set (`wording.fitting`)."""
    return _item(relationship, "TEXT", name, (), TextValue=words.encode())


def uid_reference(relationship: str, name: Concept, uid: str) -> bytes:
    """A UIDREF item."""
    return _item(relationship, "UIDREF", name, (), UID=uid)


def number(
    relationship: str,
    name: Concept,
    value: float,
    unit: Concept,
    decimals: int,
    children: Iterable[bytes] = (),
) -> bytes:
    """A NUM item, rounded to `decimals` places. PrescreenError where it is not finite."""
    if not math.isfinite(value):
        raise PrescreenError(f"{name.meaning} is {value}: no report is made of it")
    rounded = f"{value:.{decimals}f}"
    measured = Elements(
        MeasurementUnitsCodeSequence=[concept_item(unit)],
        FloatingPointValue=float(rounded),
        NumericValue=rounded,
    )
    return _item(relationship, "NUM", name, children, MeasuredValueSequence=[measured.item()])


def image(
    relationship: str,
    name: Concept,
    sop_class_uid: str,
    sop_instance_uid: str,
    children: Iterable[bytes] = (),
) -> bytes:
    """An IMAGE item."""
    reference = reference_item(sop_class_uid, sop_instance_uid)
    return _item(relationship, "IMAGE", name, children, ReferencedSOPSequence=[reference])


def polyline(name: Concept, points: FloatArray, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """An SCOORD item: a line through `points` of an image, (n, 2), each (column, row) in pixels."""
    selected = image(SELECTED_FROM, SOURCE, sop_class_uid, sop_instance_uid)
    return _item(
        CONTAINS,
        "SCOORD",
        name,
        [selected],
        GraphicData=points.astype("<f4").tobytes(),
        GraphicType="POLYLINE",
    )


def reference_item(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """One item of a Referenced SOP Sequence (PS3.3 table 10-11)."""
    return Elements(
        ReferencedSOPClassUID=sop_class_uid, ReferencedSOPInstanceUID=sop_instance_uid
    ).item()


@functools.lru_cache(maxsize=8)
def template_item(template: str) -> bytes:
    """One item of a Content Template Sequence: a template of PS3.16 (PS3.3 C.18.8)."""
    return Elements(MappingResource="DCMR", TemplateIdentifier=template).item()


def container(
    relationship: str, name: Concept, children: Iterable[bytes], template: str | None = None
) -> bytes:
    """A CONTAINER item, of the numbered template if there is one.

    SEPARATE (PS3.3 C.18.8.1.1): viewers then write the name of each item before its value.
    """
    value: dict[str, str | bytes | list[bytes]] = {"ContinuityOfContent": "SEPARATE"}
    if template is not None:
        value["ContentTemplateSequence"] = [template_item(template)]
    return _item(relationship, "CONTAINER", name, children, **value)
