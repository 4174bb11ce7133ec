"""Screenings → the regions of one study: Comprehensive 3D SR, TID 1500 with TID 1410 groups.

The outlines of lungs and heart and the two diameters of the cardiothoracic ratio, in a document and
a series of their own: viewers that draw regions (OHIF) fail on a document that also has groups
without. They are what the node measured in, never where a finding lies. Where the settings ask for
it and the weights have proven it, also where the network looked at what it flagged: that explains a
flag, and is coded as nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from prescreen.dicom import codes
from prescreen.dicom.attention import LEVEL, looked_at
from prescreen.dicom.codes import Concept
from prescreen.dicom.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    code,
    container,
    number,
    polyline,
)
from prescreen.dicom.document import BelowBar, Document, Kind, image_library, none_below
from prescreen.dicom.groups import algorithm, comment, diameter, tracked, weights_in_words
from prescreen.dicom.outlines import outlines
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.study import Anatomy, FloatArray, ImageResult, Model

REGIONS = Kind(
    COMPREHENSIVE_3D_SR,
    codes.IMAGING_MEASUREMENT_REPORT,
    "1500",
    2,
    lambda titles: titles.regions,
)

#: The same with regions of where the network looked.
WITH_ATTENTION = replace(REGIONS, description=lambda titles: titles.regions_looked)
#: By SOP Instance UID of an image: the attention maps, (h, w) of 0…1, that may leave, by label.
Attention = Mapping[str, Mapping[str, FloatArray]]

#: Organs in the order of `Anatomy.masks`: what is tracked, the site, the side.
ORGANS: tuple[tuple[str, Concept, Concept | None], ...] = (
    ("Left lung", codes.LUNG, codes.LEFT),
    ("Right lung", codes.LUNG, codes.RIGHT),
    ("Heart", codes.HEART, None),
)


def has_regions(results: Iterable[ImageResult], anatomies: Mapping[str, Anatomy]) -> bool:
    """Whether there is anything to draw: a document needs at least one region."""
    return any(
        anatomies[result.header.sop_instance_uid].masks.any()
        for result in results
        if result.header.sop_instance_uid in anatomies
    )


def regions_report(
    document: Document,
    anatomies: Mapping[str, Anatomy],
    attention: Attention | None = None,
    below_bar: BelowBar = none_below,
) -> bytes:
    """The regions of one study as a DICOM file; the same arguments give the same bytes.

    `anatomies` are those of images of the document, by SOP Instance UID; `has_regions` of both
    is true. Findings in `below_bar` are marked as evaluation only.
    """
    manufacturer = document.settings.manufacturer
    groups: list[bytes] = []
    for result in document.results:
        uid = result.header.sop_instance_uid
        anatomy = anatomies.get(uid)
        if anatomy is not None:
            groups += _outlines(result, anatomy, document.model, manufacturer)
            groups += _diameters(result, document, manufacturer)
            groups += _looked(result, document, (attention or {}).get(uid, {}), below_bar(result))
    measurements = container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups)
    content = [*document.context(), image_library(document.results), measurements]
    is_shown = any((attention or {}).values())
    return document.part10(WITH_ATTENTION if is_shown else REGIONS, content)


def _looked(
    result: ImageResult,
    document: Document,
    maps: Mapping[str, FloatArray],
    below_bar: frozenset[str],
) -> Iterator[bytes]:
    """A region for each map. Neither finding nor site is coded: it is not where a disease lies."""
    header, words = result.header, document.words
    name, looked = document.settings.manufacturer, words.catalogue.looked
    network = result.network or document.model.findings
    parameters = (*weights_in_words(network), f"attention map, at least {LEVEL:g} of its peak")
    for label, attention in maps.items():
        points = looked_at(attention, header.rows or 0, header.columns or 0)
        if points is None:
            continue
        meaning = looked.line.format(finding=words.name_of(label))
        named = codes.looked_at(label)._replace(meaning=meaning)
        told = [comment(looked.region.format(finding=words.name_of(label)))]
        if label in below_bar:
            told.append(
                comment(f"{words.name_of(label)}: {words.catalogue.says.below_release_bar}.")
            )
        content = [
            *algorithm(network, name, parameters),
            code(CONTAINS, codes.VISUAL_EXPLANATION, codes.CLASS_ACTIVATION),
            number(CONTAINS, named, LEVEL, codes.RATIO, 2),
            *told,
            polyline(codes.IMAGE_REGION, points, header.sop_class_uid, header.sop_instance_uid),
        ]
        yield tracked(result, f"Where the network looked: {label}", content, template="1410")


def _outlines(
    result: ImageResult, anatomy: Anatomy, model: Model, manufacturer: str
) -> Iterable[bytes]:
    rows, columns = result.header.rows or 0, result.header.columns or 0
    found = outlines(anatomy, rows, columns)
    for (subject, site, side), points in zip(ORGANS, found, strict=True):
        if points is not None:
            modifier = [] if side is None else [code(HAS_CONCEPT_MOD, codes.LATERALITY, side)]
            where = code(HAS_CONCEPT_MOD, codes.FINDING_SITE, site, tuple(modifier))
            yield _group(result, subject, where, points, model, manufacturer)


def _diameters(result: ImageResult, document: Document, manufacturer: str) -> Iterable[bytes]:
    if result.cardiothoracic_ratio is None:
        return
    both = (
        ("Cardiac diameter", codes.CARDIAC_DIAMETER, codes.HEART, result.cardiac_diameter),
        ("Thoracic diameter", codes.THORACIC_DIAMETER, codes.CHEST, result.thoracic_diameter),
    )
    for subject, name, site, ends in both:
        if ends is not None:
            row, first, last = ends
            points = np.array([[first, row], [last, row]], np.float32)
            where = code(HAS_CONCEPT_MOD, codes.FINDING_SITE, site)
            measured = diameter(CONTAINS, name, ends, result.pixel_spacing)
            yield _group(result, subject, where, points, document.model, manufacturer, measured)


def _group(
    result: ImageResult,
    subject: str,
    site: bytes,
    points: FloatArray,
    model: Model,
    manufacturer: str,
    *measured: bytes,
) -> bytes:
    """One region (TID 1410)."""
    network, header = model.lungs_heart, result.header
    region = polyline(codes.IMAGE_REGION, points, header.sop_class_uid, header.sop_instance_uid)
    identified = algorithm(network, manufacturer, weights_in_words(network))
    return tracked(result, subject, [site, *identified, *measured, region], template="1410")
