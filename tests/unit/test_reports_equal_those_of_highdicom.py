"""The tree is written straight into bytes; highdicom, which knows the templates, is the measure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    FindingSite,
    ImageContentItem,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)

from prescreen.dicom import codes, wording
from prescreen.dicom.codes import FINDINGS, Concept
from prescreen.dicom.groups import tracking
from prescreen.dicom.outlines import outline
from prescreen.dicom.regions import regions_report
from prescreen.dicom.report import measurement_report
from prescreen.settings import Report
from prescreen.study import Finding, FindingState, ImageResult, Network
from tests import results

WORDS = wording.words("en")

Tree = tuple[Any, ...]


def _hd(concept: Concept) -> CodedConcept:
    return CodedConcept(*concept[:2], concept.meaning)


def _tree(item: pydicom.Dataset) -> Tree:
    """An item as plain values: relationship, type, name, value, template, children in order."""
    value: Any = None
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        unit = _code(measured.MeasurementUnitsCodeSequence[0])
        value = (float(measured.NumericValue), unit)
    elif item.ValueType == "CODE":
        value = _code(item.ConceptCodeSequence[0])
    elif item.ValueType == "IMAGE":
        value = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    elif item.ValueType == "SCOORD":
        value = (item.GraphicType, [round(float(number), 2) for number in item.GraphicData])
    else:
        value = item.get("TextValue", item.get("UID"))
    template = [t.TemplateIdentifier for t in item.get("ContentTemplateSequence", [])]
    children = [_tree(child) for child in item.get("ContentSequence", [])]
    name = _code(item.ConceptNameCodeSequence[0]) if "ConceptNameCodeSequence" in item else None
    return (item.get("RelationshipType"), item.ValueType, name, value, template, children)


def _code(item: pydicom.Dataset) -> tuple[str, str, str]:
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def _comment(text: str) -> TextContentItem:
    return TextContentItem(_hd(codes.COMMENT), text, relationship_type="CONTAINS")


def _algorithm(network: Network, parameters: Sequence[str]) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        network.name,
        network.version,
        parameters,
        _hd(codes.ARTIFICIAL_INTELLIGENCE),
        "prescreen",
    )


def _group(
    source: pydicom.Dataset,
    subject: str,
    algorithm: AlgorithmIdentification,
    comments: Iterable[str] = (),
    **content: Any,
) -> MeasurementsAndQualitativeEvaluations:
    identifier, uid = tracking(source.SOPInstanceUID, subject)
    group = MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(uid=uid, identifier=identifier),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source)],
        algorithm_id=algorithm,
        **content,
    )
    items = group[0].ContentSequence
    for comment in comments:
        items.insert(len(items) - 1, _comment(comment))
    return group


def _evaluations(**said: Concept) -> list[QualitativeEvaluation]:
    return [QualitativeEvaluation(_hd(getattr(codes, k)), _hd(v)) for k, v in said.items()]


def _finding_group(
    source: pydicom.Dataset, finding: Finding
) -> MeasurementsAndQualitativeEvaluations:
    coded, network = FINDINGS[finding.label], results.model().findings
    operating_point = f"operating point {finding.threshold:.4f}"
    algorithm = _algorithm(network, [operating_point])
    name = WORDS.name_of(finding.label)
    if finding.state is FindingState.NOT_EVALUATED:
        return _group(
            source,
            finding.label,
            algorithm,
            [f"Not evaluated: {name} (below release bar)."],
            qualitative_evaluations=_evaluations(SUMMARY_OF_DETECTIONS=codes.NOT_ATTEMPTED),
        )
    flagged = finding.state is FindingState.FLAGGED
    presence = {
        FindingState.FLAGGED: codes.PRESENT,
        FindingState.UNDETERMINED: codes.UNDETERMINED,
        FindingState.NOT_FLAGGED: codes.NOT_FLAGGED,
    }[finding.state]
    probability = finding.probability or 0.0
    certainty = (codes.CERTAINTY_OF_FINDING, round(probability * 100, 1), codes.PERCENT)
    output = (codes.ALGORITHM_OUTPUT, round(probability, 4), codes.NO_UNITS)
    measured, value, unit = certainty if flagged else output
    undetermined = finding.state is FindingState.UNDETERMINED
    return _group(
        source,
        finding.label,
        algorithm,
        [f"{name}: {WORDS.why_undetermined(None)}."] if undetermined else [],
        finding_type=_hd(coded.concept) if flagged else None,
        finding_sites=[FindingSite(_hd(coded.site))],
        measurements=[Measurement(_hd(measured), value, _hd(unit))],
        qualitative_evaluations=_evaluations(
            LOOKED_FOR=coded.concept,
            PRESENCE_OF_PROPERTY=presence,
            SUMMARY_OF_DETECTIONS=codes.SUCCEEDED,
        ),
    )


def _parameters() -> list[str]:
    network = results.model().findings
    weights = [f"weights sha256 {network.sha256}", f"preset {network.preset}"]
    return [*weights, "threshold rule youden", "calibrated no"]


def _ratio_group(source: pydicom.Dataset) -> MeasurementsAndQualitativeEvaluations:
    network = results.model().lungs_heart
    group = _group(
        source,
        "Cardiothoracic ratio",
        _algorithm(network, [f"weights sha256 {network.sha256}"]),
        finding_sites=[FindingSite(_hd(codes.HEART))],
        measurements=[Measurement(_hd(codes.CARDIOTHORACIC_RATIO), 0.519, _hd(codes.RATIO))],
    )
    ratio = next(i for i in group[0].ContentSequence if i.ValueType == "NUM")
    diameters = ((codes.CARDIAC_DIAMETER, 690.0), (codes.THORACIC_DIAMETER, 1330.0))
    inferred = [NumContentItem(_hd(n), value, _hd(codes.PIXELS)) for n, value in diameters]
    for item in inferred:
        item.RelationshipType = "INFERRED FROM"
    _give(ratio, *inferred)
    return group


def _regions_reference(source: pydicom.Dataset, result: ImageResult) -> list[pydicom.Dataset]:
    """The groups of the regions as highdicom builds them."""
    left, right = codes.LEFT, codes.RIGHT
    masks = results.anatomy().masks
    rows, columns = source.Rows, source.Columns
    organs = (("Left lung", codes.LUNG, left), ("Right lung", codes.LUNG, right))
    groups = [
        _planar(source, subject, site, outline(mask, rows, columns), side)
        for (subject, site, side), mask in zip(
            (*organs, ("Heart", codes.HEART, None)), masks, strict=True
        )
    ]
    for subject, name, site, ends in (
        ("Cardiac diameter", codes.CARDIAC_DIAMETER, codes.HEART, result.cardiac_diameter),
        ("Thoracic diameter", codes.THORACIC_DIAMETER, codes.CHEST, result.thoracic_diameter),
    ):
        assert ends is not None
        line = np.array([[ends[1], ends[0]], [ends[2], ends[0]]])
        length = Measurement(_hd(name), ends[2] - ends[1], _hd(codes.PIXELS))
        groups.append(_planar(source, subject, site, line, None, [length]))
    return groups


def _planar(
    source: pydicom.Dataset,
    subject: str,
    site: Concept,
    points: Any,
    side: Concept | None,
    measurements: list[Measurement] | None = None,
) -> pydicom.Dataset:
    network = results.model().lungs_heart
    identifier, uid = tracking(source.SOPInstanceUID, subject)
    region = hd.sr.ImageRegion(
        hd.sr.GraphicTypeValues.POLYLINE,
        np.asarray(points, np.float64),
        hd.sr.SourceImageForRegion.from_source_image(source),
    )
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_region=region,
        algorithm_id=_algorithm(network, [f"weights sha256 {network.sha256}"]),
        finding_sites=[FindingSite(_hd(site), laterality=None if side is None else _hd(side))],
        measurements=measurements,
    )
    item: pydicom.Dataset = group[0]
    return item


def test_the_regions_equal_those_highdicom_builds() -> None:
    source = results.chest()
    result = results.screened(source)
    anatomies = {str(source.SOPInstanceUID): results.anatomy()}
    ours = pydicom.dcmread(io.BytesIO(regions_report(results.document(source), anatomies)))
    reference = [_tree(group) for group in _regions_reference(source, result)]
    found = [_tree(group) for group in ours.ContentSequence[-1].ContentSequence]
    assert found == reference


def test_highdicom_reads_the_regions() -> None:
    source = results.chest()
    anatomies = {str(source.SOPInstanceUID): results.anatomy()}
    part10 = regions_report(results.document(source), anatomies)
    content = hd.sr.srread(io.BytesIO(part10)).content
    assert isinstance(content, hd.sr.MeasurementReport)
    groups = content.get_planar_roi_measurement_groups()
    assert [group.reference_type for group in groups] == [_hd(codes.IMAGE_REGION)] * 5
    assert not [group for group in groups if group.finding_type is not None]


def _image_library(source: pydicom.Dataset) -> ContainerContentItem:
    """By hand: highdicom's needs a Patient Orientation and an Imager Pixel Spacing."""
    image = ImageContentItem(
        _hd(codes.SOURCE), source.SOPClassUID, source.SOPInstanceUID, relationship_type="CONTAINS"
    )
    sizes = ((codes.PIXEL_DATA_ROWS, source.Rows), (codes.PIXEL_DATA_COLUMNS, source.Columns))
    modality = hd.sr.CodeContentItem(_hd(codes.MODALITY), _hd(codes.MODALITIES["CR"]))
    described = [NumContentItem(_hd(n), size, _hd(codes.PIXELS)) for n, size in sizes]
    for item in (modality, *described):
        item.RelationshipType = "HAS ACQ CONTEXT"
    _give(image, modality, *described)
    group = ContainerContentItem(_hd(codes.IMAGE_LIBRARY_GROUP), relationship_type="CONTAINS")
    _give(group, image)
    library = ContainerContentItem(_hd(codes.IMAGE_LIBRARY), relationship_type="CONTAINS")
    _give(library, group)
    return library


def _give(parent: pydicom.Dataset, *children: pydicom.Dataset) -> None:
    parent.ContentSequence = pydicom.Sequence(children)


def _reference(source: pydicom.Dataset, result: ImageResult) -> pydicom.Dataset:
    network = results.model().findings
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        network.device_uid, "prescreen", "prescreen", network.name
    )
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(_hd(codes.DEVICE), device)
    )
    findings_in_order = tuple(wording.ordered(result.findings, Report().urgency))
    ordered = replace(result, findings=findings_in_order)
    image = _group(
        source,
        "Image",
        _algorithm(network, [*_parameters(), "gate let through"]),
        [
            WORDS.summary(ordered),
            WORDS.calibration(False),
            WORDS.sensitivities(ordered, results.model()) or "",
        ],
        qualitative_evaluations=_evaluations(SUMMARY_OF_DETECTIONS=codes.PARTIALLY_SUCCEEDED),
    )
    findings = [_finding_group(source, finding) for finding in findings_in_order]
    report = hd.sr.MeasurementReport(
        context,
        _hd(codes.CHEST_RADIOGRAPH),
        [image, *findings, _ratio_group(source)],
        title=_hd(codes.PRE_SCREENING),
    )
    root: pydicom.Dataset = report[0]
    measurements = len(root.ContentSequence) - 1
    root.ContentSequence.insert(measurements, _image_library(source))
    return root


def _ours(source: pydicom.Dataset, result: ImageResult) -> bytes:
    return measurement_report(results.document(source, [result]))


def test_the_tree_equals_the_one_highdicom_builds() -> None:
    source = results.chest()
    result = results.screened(source)
    ours = pydicom.dcmread(io.BytesIO(_ours(source, result)))
    assert _tree(ours) == _tree(_reference(source, result))


def test_highdicom_reads_it_and_finds_the_groups() -> None:
    source = results.chest()
    read = hd.sr.srread(io.BytesIO(_ours(source, results.screened(source))))
    assert isinstance(read.content, hd.sr.MeasurementReport)
    groups = read.content.get_image_measurement_groups()
    assert len(groups) == 1 + 14 + 1
    found = {group.finding_type.meaning for group in groups if group.finding_type is not None}
    assert found == {"Pneumothorax", "Pleural effusion"}
    certainties = [g.get_measurements(_hd(codes.CERTAINTY_OF_FINDING)) for g in groups]
    assert sorted(m.value for found in certainties for m in found) == [41.0, 87.1]


def test_highdicom_reads_the_root_as_a_sequence() -> None:
    source = results.chest()
    ours = pydicom.dcmread(io.BytesIO(_ours(source, results.screened(source))))
    report = hd.sr.MeasurementReport.from_sequence(ContentSequence.from_sequence([ours], True))
    assert len(report.get_image_measurement_groups()) == 16
