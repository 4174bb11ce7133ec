"""Screenings → one structured report per study: Comprehensive 3D SR, TID 1500 (PS3.16).

The report is cumulative: it speaks of every image in scope, also of those an earlier report spoke
of, and names that one. A finding that is flagged is indexed as (121071, DCM, "Finding"); what was
looked for and not flagged is not, or every patient would be found under 14 diagnoses.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pydicom

from prescreen.dicom import codes, wording
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.codes import CodedFinding, Concept
from prescreen.dicom.content import (
    CONTAINS,
    HAS_ACQ_CONTEXT,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    code,
    code_taken_over,
    concept_item,
    container,
    image,
    number,
    reference_item,
    template_item,
    text,
    uid_reference,
)
from prescreen.dicom.elements import Elements, copied_items, part10, split
from prescreen.dicom.groups import finding_group, image_group, ratio_group
from prescreen.dicom.header import OWN_MODEL
from prescreen.dicom.modules import (
    IMPLEMENTATION,
    local_time,
    patient_and_study,
    put_coding_scheme,
    put_equipment,
    put_times,
)
from prescreen.errors import PrescreenError
from prescreen.settings import Report
from prescreen.study import ImageResult, Model, Outcome

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


@dataclass(frozen=True)
class Predecessor:
    """An earlier report of the study, for Predecessor Documents (PS3.3 C.17.2).

    `addended` where the new report adds an image to it, otherwise it replaces it (CID 7009).
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    addended: bool = False

    @property
    def purpose(self) -> Concept:
        return codes.ADDENDED_REPORT if self.addended else codes.REPLACED_REPORT


def measurement_report(
    sources: Sequence[pydicom.Dataset],
    results: Sequence[ImageResult],
    model: Model,
    *,
    settings: Report,
    made: datetime.datetime,
    series_instance_uid: str,
    sop_instance_uid: str,
    predecessors: Sequence[Predecessor] = (),
    below_bar: frozenset[str] = frozenset(),
    site_codes: Mapping[str, Concept] | None = None,
) -> bytes:
    """The report of one study as a DICOM file; the same arguments give the same bytes.

    `sources` are data sets of the images (pixels are not read); the first gives patient and
    study, each gives its image's description. `results` are as the audience may see them, one an
    image; where none is screened the report is a notice that says so and why. Findings in
    `below_bar` are marked as evaluation only. Raises PrescreenError where there is no source or
    no result, or where a number is not finite, and SettingsError for an impossible site code.
    """
    if not sources or not results:
        raise PrescreenError("a report needs at least one image that parses")
    found = codes.coded_findings(site_codes)
    local = local_time(sources[0], made)
    elements = patient_and_study(sources[0], results[0].header.study_instance_uid)
    elements.put("SOPClassUID", COMPREHENSIVE_3D_SR)
    elements.put("SOPInstanceUID", sop_instance_uid)
    put_times(elements, local)
    earlier = [result.network for result in results if result.network is not None]
    put_equipment(elements, settings.manufacturer, model, local, earlier)
    put_coding_scheme(elements, settings.manufacturer)
    _put_series(elements, results, settings, series_instance_uid)
    _put_document(elements, sources[0], results, predecessors)
    measurements = _imaging_measurements(sources, results, model, settings, below_bar, found)
    context = _context(sources[0], model, settings)
    elements.put("ContentSequence", [*context, _image_library(results), measurements])
    return part10(COMPREHENSIVE_3D_SR, sop_instance_uid, IMPLEMENTATION, [elements.encoded()])


def as_comprehensive_sr(report: bytes, sop_instance_uid: str) -> bytes:
    """The same report as Comprehensive SR (88.33), for an archive that rejects 88.34.

    Its content uses no 3D coordinates, so nothing but SOP Class and Instance UID changes; the
    same arguments give the same bytes. PrescreenError where `report` is none of ours.
    """
    elements = split(report)
    changed = Elements(SOPClassUID=COMPREHENSIVE_SR, SOPInstanceUID=sop_instance_uid)
    encoded = dict(sorted((elements | changed.by_tag).items())).values()
    return part10(COMPREHENSIVE_SR, sop_instance_uid, IMPLEMENTATION, encoded)


def _put_series(
    elements: Elements, results: Sequence[ImageResult], settings: Report, series_instance_uid: str
) -> None:
    """SR Document Series (C.17.1)."""
    is_notice = all(result.outcome is not Outcome.SCREENED for result in results)
    description = wording.NOTICE_DESCRIPTION if is_notice else wording.SERIES_DESCRIPTION
    elements.put("Modality", "SR")
    elements.put("SeriesInstanceUID", series_instance_uid)
    elements.put("SeriesNumber", str(settings.series_number))
    elements.put("SeriesDescription", description)
    elements.put("ReferencedPerformedProcedureStepSequence", [])
    elements.put("InstanceNumber", "1")


def _put_document(
    elements: Elements,
    source: pydicom.Dataset,
    results: Sequence[ImageResult],
    predecessors: Sequence[Predecessor],
) -> None:
    """SR Document General and the root of SR Document Content (C.17.2, C.17.3)."""
    _put_completion(elements, results)
    elements.put("VerificationFlag", "UNVERIFIED")
    elements.put("PreliminaryFlag", "PRELIMINARY")
    if predecessors:
        elements.put("PredecessorDocumentsSequence", [_predecessor(p) for p in predecessors])
    elements.copy(source, ["ReferencedRequestSequence"])
    elements.put("PerformedProcedureCodeSequence", [])
    elements.put("CurrentRequestedProcedureEvidenceSequence", _evidence(results))
    elements.put("ValueType", "CONTAINER")
    elements.put("ConceptNameCodeSequence", [concept_item(codes.IMAGING_MEASUREMENT_REPORT)])
    elements.put("ContinuityOfContent", "CONTINUOUS")
    elements.put("ContentTemplateSequence", [template_item("1500")])


def _put_completion(elements: Elements, results: Sequence[ImageResult]) -> None:
    """PARTIAL where an image in scope was not screened; a lateral is none of those."""
    missing = sum(wording.left_out(result) for result in results)
    elements.put("CompletionFlag", "PARTIAL" if missing else "COMPLETE")
    if missing:
        said = f"{missing} of {len(results)} images not screened"
        elements.put("CompletionFlagDescription", said)


def _predecessor(predecessor: Predecessor) -> bytes:
    """One item of Predecessor Documents with its purpose (C.17.2.3, table C.17-3)."""
    document = Elements(
        ReferencedSOPClassUID=predecessor.sop_class_uid,
        ReferencedSOPInstanceUID=predecessor.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[concept_item(predecessor.purpose)],
    )
    series = Elements(
        ReferencedSOPSequence=[document.item()],
        SeriesInstanceUID=predecessor.series_instance_uid,
    )
    return Elements(
        ReferencedSeriesSequence=[series.item()],
        StudyInstanceUID=predecessor.study_instance_uid,
    ).item()


def _evidence(results: Sequence[ImageResult]) -> list[bytes]:
    """All images spoken of, by study and series (C.17.2.3)."""
    headers = sorted(
        (result.header for result in results),
        key=lambda h: (h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid),
    )
    return [
        Elements(
            StudyInstanceUID=study,
            ReferencedSeriesSequence=[
                Elements(
                    SeriesInstanceUID=series,
                    ReferencedSOPSequence=[
                        reference_item(h.sop_class_uid, h.sop_instance_uid) for h in of_series
                    ],
                ).item()
                for series, of_series in groupby(of_study, lambda h: h.series_instance_uid)
            ],
        ).item()
        for study, of_study in groupby(headers, lambda h: h.study_instance_uid)
    ]


def _context(source: pydicom.Dataset, model: Model, settings: Report) -> list[bytes]:
    """Language (TID 1204), the device observer (TID 1004), procedure (TID 1500 rows 2 to 4)."""
    network = model.findings
    observer = codes.DEVICE_OBSERVER_UID
    return [
        code(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
        code(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
        uid_reference(HAS_OBS_CONTEXT, observer, network.device_uid),
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, OWN_MODEL),
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, settings.manufacturer),
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, network.name),
        _procedure_reported(source),
    ]


def _procedure_reported(source: pydicom.Dataset) -> bytes:
    """What the archive calls the procedure, or a local code where it says nothing complete."""
    keyword = "ProcedureCodeSequence"
    described = Attributes(source).items(keyword)
    for item, encoded in zip(described, copied_items(source, keyword), strict=False):
        if all(item.text(k) for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")):
            return code_taken_over(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, encoded)
    return code(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, codes.CHEST_RADIOGRAPH)


def _image_library(results: Sequence[ImageResult]) -> bytes:
    """TID 1600, its entries with modality, rows and columns (TID 1601, 1602)."""
    entries = [_library_entry(result) for result in results]
    group = container(CONTAINS, codes.IMAGE_LIBRARY_GROUP, entries)
    return container(CONTAINS, codes.IMAGE_LIBRARY, [group])


def _library_entry(result: ImageResult) -> bytes:
    header = result.header
    modality = codes.MODALITIES.get(header.modality or "", codes.MODALITIES["OT"])
    described = [code(HAS_ACQ_CONTEXT, codes.MODALITY, modality)]
    sizes = ((codes.PIXEL_DATA_ROWS, header.rows), (codes.PIXEL_DATA_COLUMNS, header.columns))
    for name, size in sizes:
        if size:
            described.append(number(HAS_ACQ_CONTEXT, name, size, codes.PIXELS, 0))
    return image(CONTAINS, codes.SOURCE, header.sop_class_uid, header.sop_instance_uid, described)


def _imaging_measurements(
    sources: Sequence[pydicom.Dataset],
    results: Sequence[ImageResult],
    model: Model,
    settings: Report,
    below_bar: frozenset[str],
    found: Mapping[str, CodedFinding],
) -> bytes:
    """TID 1500 row 9: for each image what became of it, its findings, its ratio."""
    by_uid = {Attributes(source).text("SOPInstanceUID"): source for source in sources}
    groups: list[bytes] = []
    for result in results:
        used = replace(model, findings=result.network) if result.network else model
        groups.append(image_group(result, used, settings.manufacturer))
        for finding in result.findings:
            coded = found[finding.label]
            groups.append(finding_group(result, finding, coded, used, settings, below_bar))
        source = by_uid.get(result.header.sop_instance_uid)
        if result.cardiothoracic_ratio is not None:
            groups.append(ratio_group(result, model, settings.manufacturer, source))
    return container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups)
