"""Screenings → the report of one study's findings: Comprehensive 3D SR, TID 1500 (PS3.16).

The report is cumulative: it speaks of every image in scope, also of those an earlier report spoke
of, and names that one. A finding that is flagged is indexed as (121071, DCM, "Finding"); what was
looked for and not flagged is not, or every patient would be found under 14 diagnoses.
"""

from __future__ import annotations

from collections.abc import Mapping

from prescreen.dicom import codes
from prescreen.dicom.codes import CodedFinding, Concept
from prescreen.dicom.content import CONTAINS, container
from prescreen.dicom.document import BelowBar, Document, Kind, image_library, none_below
from prescreen.dicom.elements import Elements, part10, split
from prescreen.dicom.groups import Context, finding_group, image_group, ratio_group
from prescreen.dicom.modules import IMPLEMENTATION

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

#: TID 1500 takes its title from CID 7021, which may be extended. Under the standard's own title
#: OHIF shows an image and none of the words, and fails where a group has no region; under ours it
#: shows the tree.
FINDINGS = Kind(COMPREHENSIVE_3D_SR, codes.PRE_SCREENING, "1500", 0, lambda titles: titles.findings)


def measurement_report(
    document: Document,
    below_bar: BelowBar = none_below,
    site_codes: Mapping[str, Concept] | None = None,
) -> bytes:
    """The findings of one study as a DICOM file; the same arguments give the same bytes.

    Where no image is screened the report is a notice that says so and why. Findings in
    `below_bar` are marked as evaluation only. Raises PrescreenError where a number is not finite,
    and SettingsError for an impossible site code.
    """
    found = codes.coded_findings(site_codes)
    measurements = _imaging_measurements(document, below_bar, found)
    content = [*document.context(), image_library(document.results), measurements]
    return document.part10(FINDINGS, content)


def as_comprehensive_sr(report: bytes, sop_instance_uid: str) -> bytes:
    """The same report as Comprehensive SR (88.33), for an archive that rejects 88.34.

    Its content uses no 3D coordinates, so nothing but SOP Class and Instance UID changes; the
    same arguments give the same bytes. PrescreenError where `report` is none of ours.
    """
    elements = split(report)
    changed = Elements(SOPClassUID=COMPREHENSIVE_SR, SOPInstanceUID=sop_instance_uid)
    encoded = dict(sorted((elements | changed.by_tag).items())).values()
    return part10(COMPREHENSIVE_SR, sop_instance_uid, IMPLEMENTATION, encoded)


def _imaging_measurements(
    document: Document, below_bar: BelowBar, found: Mapping[str, CodedFinding]
) -> bytes:
    """TID 1500 row 9: for each image what became of it, findings by urgency, ratio."""
    model, settings = document.model, document.settings
    groups: list[bytes] = []
    for result in map(document.by_urgency, document.results):
        used = model.behind(result)
        groups.append(image_group(result, used, document))
        marked = below_bar(result)
        for finding in result.findings:
            coded = found[finding.label]
            context = Context(document.words, settings.manufacturer, finding.label in marked)
            groups.append(finding_group(result, finding, coded, used, context))
        if result.cardiothoracic_ratio is not None:
            groups.append(ratio_group(result, model, settings.manufacturer))
    return container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups)
