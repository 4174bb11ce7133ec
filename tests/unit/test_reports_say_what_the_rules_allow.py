from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pydicom
import pytest

from prescreen.dicom import codes
from prescreen.dicom.codes import Concept
from prescreen.dicom.document import Predecessor
from prescreen.dicom.groups import tracking
from prescreen.dicom.report import COMPREHENSIVE_SR, as_comprehensive_sr, measurement_report
from prescreen.errors import PrescreenError
from prescreen.settings import URGENCY, Report
from prescreen.study import LABELS, FindingState, ImageResult, Outcome
from tests import results


def _part10(
    images: Sequence[ImageResult] | None = None, source: pydicom.Dataset | None = None, **more: Any
) -> bytes:
    source = results.chest() if source is None else source
    options = {key: more.pop(key) for key in ("below_bar", "site_codes") if key in more}
    return measurement_report(results.document(source, images, **more), **options)


def _report(*args: Any, **more: Any) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(_part10(*args, **more)))


def _items(ds: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _named(ds: pydicom.Dataset, concept: Concept) -> list[pydicom.Dataset]:
    return [i for i in _items(ds) if i.ConceptNameCodeSequence[0].CodeValue == concept.value]


def _values(ds: pydicom.Dataset, concept: Concept) -> list[str]:
    return [str(i.ConceptCodeSequence[0].CodeValue) for i in _named(ds, concept)]


def _groups(ds: pydicom.Dataset) -> dict[str, pydicom.Dataset]:
    """Measurement groups by their tracking identifier without its hash."""
    groups = _named(ds, codes.MEASUREMENT_GROUP)
    names = [str(_named(g, codes.TRACKING_IDENTIFIER)[0].TextValue) for g in groups]
    return {name.rsplit(" ", 1)[0]: group for name, group in zip(names, groups, strict=True)}


def _comments(ds: pydicom.Dataset) -> str:
    return " ".join(str(item.TextValue) for item in _named(ds, codes.COMMENT))


def test_only_flagged_findings_are_indexed_as_findings() -> None:
    assert _values(_report(), codes.FINDING) == ["36118008", "60046008"]


def test_nothing_flagged_indexes_nothing() -> None:
    source = results.chest()
    report = _report([results.screened(source, results.findings())])
    assert not _named(report, codes.FINDING)
    assert not _named(report, codes.CERTAINTY_OF_FINDING)
    assert "No finding flagged. This does not exclude disease." in _comments(report)
    assert "Never looked for: fractures" in _comments(report)


def test_findings_are_told_by_urgency_in_sentences_as_in_groups() -> None:
    source = results.chest()
    said = results.findings({"Atelectasis": 0.9, "Pneumothorax": 0.4, "Effusion": 0.5})
    first = ["Pneumothorax", "Effusion", "Atelectasis"]
    for urgency in (URGENCY, URGENCY[::-1]):
        report = Report(urgency=urgency)
        part10 = _part10([results.screened(source, said)], settings=report)
        tree = pydicom.dcmread(io.BytesIO(part10))
        order = first if urgency is URGENCY else first[::-1]
        assert list(_groups(tree))[1:4] == order
        names = ", ".join("Pleural effusion" if n == "Effusion" else n for n in order)
        assert f"Flagged: {names}." in _comments(tree)


def test_each_state_has_its_presence_and_run_status() -> None:
    groups = _groups(_report())
    expected = {
        "Pneumothorax": (codes.PRESENT, codes.SUCCEEDED),
        "Nodule": (codes.UNDETERMINED, codes.SUCCEEDED),
        "Edema": (codes.NOT_FLAGGED, codes.SUCCEEDED),
    }
    for label, (presence, status) in expected.items():
        assert _values(groups[label], codes.PRESENCE_OF_PROPERTY) == [presence.value]
        assert _values(groups[label], codes.SUMMARY_OF_DETECTIONS) == [status.value]


def test_what_is_not_evaluated_stands_in_words_only() -> None:
    hernia = _groups(_report())["Hernia"]
    assert _values(hernia, codes.SUMMARY_OF_DETECTIONS) == [codes.NOT_ATTEMPTED.value]
    assert not _named(hernia, codes.PRESENCE_OF_PROPERTY)
    assert not [item for item in _items(hernia) if item.ValueType == "NUM"]
    assert "84089009" not in str(hernia)
    assert _comments(hernia) == "Not evaluated: Hiatal hernia (below release bar)."


def test_certainty_is_for_flagged_findings_and_output_for_the_rest() -> None:
    groups = _groups(_report())
    flagged = _named(groups["Pneumothorax"], codes.CERTAINTY_OF_FINDING)
    assert flagged[0].MeasuredValueSequence[0].NumericValue == 87.1
    assert not _named(groups["Pneumothorax"], codes.ALGORITHM_OUTPUT)
    for label in ("Edema", "Nodule"):
        assert len(_named(groups[label], codes.ALGORITHM_OUTPUT)) == 1
        assert not _named(groups[label], codes.CERTAINTY_OF_FINDING)


def test_below_the_release_bar_is_marked() -> None:
    groups = _groups(_report(below_bar=lambda result: frozenset({"Mass"})))
    assert "evaluation only" in _comments(groups["Mass"])
    assert "evaluation only" not in _comments(groups["Edema"])


@pytest.mark.parametrize("calibrated", [True, False])
def test_it_says_whether_the_outputs_are_calibrated(calibrated: bool) -> None:
    part10 = _part10(model=results.model(calibrated))
    assert (b"calibrated yes" in part10) == calibrated
    assert (b"calibrated no" in part10) == (not calibrated)


def test_algorithms_equal_the_contributing_equipment() -> None:
    report = _report()
    header = {
        (e.ManufacturerModelName, e.SoftwareVersions, e.Manufacturer)
        for e in report.ContributingEquipmentSequence
        if e.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    }
    names = (codes.ALGORITHM_NAME, codes.ALGORITHM_VERSION, codes.ALGORITHM_MANUFACTURER)
    tree = {
        tuple(_named(group, name)[0].TextValue for name in names)
        for group in _named(report, codes.MEASUREMENT_GROUP)
    }
    assert len(report.ContributingEquipmentSequence) == len(header) == 2
    assert tree == header
    device = _named(report, codes.DEVICE_OBSERVER_UID)[0].UID
    assert device == report.ContributingEquipmentSequence[0].DeviceUID
    assert report.ManufacturerModelName == "prescreen"
    parameters = _named(_groups(report)["Image"], codes.ALGORITHM_PARAMETERS)
    assert "weights sha256 " + "3a" * 32 in {item.TextValue for item in parameters}


def test_the_gates_answer_stands_with_each_image() -> None:
    source = results.chest()
    model = replace(results.model(), feature_distance_limit=1.5)
    told = {}
    for result in (
        replace(results.screened(source), feature_distance=0.8125),
        replace(results.not_screened(source, "unlike_training"), feature_distance=1.75),
        results.not_screened(source, "odd\x1b[0m reason"),
    ):
        items = _named(_report([result], model=model), codes.ALGORITHM_PARAMETERS)
        told[result.reason] = {str(item.TextValue) for item in items}
    assert {"gate let through", "feature distance 0.81 (limit 1.50)"} <= told[None]
    refused = {"gate or node: unlike_training", "feature distance 1.75 (limit 1.50)"}
    assert refused <= told["unlike_training"]
    assert not [said for said in told["odd\x1b[0m reason"] if "odd" in said]


def test_tracking_persists_and_differs_by_image_and_finding() -> None:
    first, again = tracking("1.2.3", "Mass"), tracking("1.2.3", "Mass")
    assert first == again
    assert len({first, tracking("1.2.3", "Nodule"), tracking("1.2.4", "Mass")}) == 3
    assert first[1] == "2.25.203334782684376511311647555982324920326"


def test_flags_say_that_nobody_has_verified_it() -> None:
    report = _report()
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.CompletionFlag == "COMPLETE"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def _second(source: pydicom.Dataset, **header: Any) -> ImageResult:
    other = results.not_screened(source)
    return replace(other, header=replace(other.header, sop_instance_uid="1.2.3.4", **header))


def test_a_study_screened_in_part_is_partial() -> None:
    source = results.chest()
    report = _report([results.screened(source), _second(source)])
    assert report.CompletionFlag == "PARTIAL"
    assert report.CompletionFlagDescription == "1 of 2 images not screened"


def test_a_lateral_is_listed_and_nothing_is_missing() -> None:
    source = results.chest()
    report = _report([results.screened(source), _second(source, view_position="LL")])
    assert report.CompletionFlag == "COMPLETE"
    assert "Not analysed (view)." in _comments(report)
    references = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {r.ReferencedSOPInstanceUID for r in references[0].ReferencedSOPSequence} == {
        source.SOPInstanceUID,
        "1.2.3.4",
    }


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.NOT_SCREENED, codes.NOT_ATTEMPTED), (Outcome.FAILED, codes.FAILED)],
)
def test_a_notice_says_so_and_why_and_has_no_findings(outcome: Outcome, status: Concept) -> None:
    result = replace(results.not_screened(results.chest()), outcome=outcome)
    notice = _report([result])
    assert notice.CompletionFlag == "PARTIAL"
    assert notice.SeriesDescription == "AI pre-screening - NOT SCREENED"
    assert _values(notice, codes.SUMMARY_OF_DETECTIONS) == [status.value]
    assert _comments(notice) == "Not screened: anatomy not assessable. Read without AI."
    assert list(_groups(notice)) == ["Image"]


def test_the_predecessor_is_named_with_its_purpose() -> None:
    earlier = Predecessor(COMPREHENSIVE_SR, "2.25.5", "2.25.6", "2.25.7")
    for predecessor, purpose in ((earlier, "121360"), (replace(earlier, addended=True), "121361")):
        study = _report(predecessors=[predecessor]).PredecessorDocumentsSequence[0]
        document = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert study.StudyInstanceUID == "2.25.7"
        assert document.ReferencedSOPInstanceUID == "2.25.5"
        assert document.PurposeOfReferenceCodeSequence[0].CodeValue == purpose


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert _part10() == _part10()


def test_the_fallback_differs_in_class_and_instance_only() -> None:
    report = _part10()
    fallback = as_comprehensive_sr(report, "2.25.9")
    assert fallback == as_comprehensive_sr(report, "2.25.9")
    before, after = (pydicom.dcmread(io.BytesIO(b)) for b in (report, fallback))
    assert (after.SOPClassUID, after.SOPInstanceUID) == (COMPREHENSIVE_SR, "2.25.9")
    assert after.file_meta.MediaStorageSOPClassUID == COMPREHENSIVE_SR
    assert {e.tag for e in before if e != after[e.tag]} == {0x00080016, 0x00080018}


@pytest.mark.parametrize(
    "content", [b"", b"no DICOM at all" * 20, None], ids=["nothing", "text", "cut short"]
)
def test_no_fallback_is_made_of_what_is_no_report(content: bytes | None) -> None:
    with pytest.raises(PrescreenError, match="cannot be sent"):
        as_comprehensive_sr(_part10()[:-3] if content is None else content, "2.25.9")


def test_diameters_are_in_millimetres_where_the_spacing_is_known() -> None:
    source = results.chest()
    source.ImagerPixelSpacing = [0.2, 0.25]
    del source.PixelSpacing
    ratio = _groups(_report(source=source))["Cardiothoracic ratio"]
    measured = _named(ratio, codes.CARDIAC_DIAMETER)[0].MeasuredValueSequence[0]
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert measured.NumericValue == 172.5
    carried_over = _report([replace(results.screened(source), carried_over=True)], source=_other())
    assert _named(carried_over, codes.CARDIAC_DIAMETER)[0].MeasuredValueSequence[0] == measured


def _other() -> pydicom.Dataset:
    """The data set of another image of the study, all that a later report has at hand."""
    source = results.chest()
    source.SOPInstanceUID = "2.25.1234"
    return source


def test_without_a_ratio_it_says_why() -> None:
    source = results.chest()
    del source.ViewPosition
    report = _report([results.screened(source, ratio=None)])
    assert "Cardiothoracic ratio not measured (view)." in _comments(report)
    assert "Cardiothoracic ratio" not in _groups(report)


def test_the_procedure_is_the_archives_where_it_has_one() -> None:
    source = results.chest()
    assert _values(_report(source=source), codes.PROCEDURE_REPORTED) == ["chest-radiograph"]
    source.ProcedureCodeSequence = [pydicom.Dataset(), pydicom.Dataset()]
    code = source.ProcedureCodeSequence[1]
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "TH1", "99SITE", "Thorax groß"
    item = _named(_report(source=source), codes.PROCEDURE_REPORTED)[0]
    assert item.ConceptCodeSequence[0].CodeValue == "TH1"
    assert item.ConceptCodeSequence[0].CodeMeaning == "Thorax groß"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_makes_no_report(number: float) -> None:
    source = results.chest()
    with pytest.raises(PrescreenError, match="no report is made"):
        _part10([results.screened(source, results.findings({"Mass": number}))])


def test_no_image_makes_no_report() -> None:
    with pytest.raises(PrescreenError, match="at least one image"):
        _part10([])


def test_times_are_in_the_zone_of_the_source_if_it_has_one() -> None:
    source = results.chest()
    here = _report(source=source)
    assert (here.TimezoneOffsetFromUTC, here.ContentTime) == ("-0400", "065207")
    del source.TimezoneOffsetFromUTC
    there = _report(source=source)
    assert "TimezoneOffsetFromUTC" not in there
    assert there.ContentTime == f"{results.MADE.astimezone():%H%M%S}", "the clock of this house"


def test_an_answer_carried_over_is_said_to_be_of_the_weights_that_gave_it() -> None:
    source, model = results.chest(), results.model()
    earlier = replace(model.findings, version="0.0.9", sha256="cd" * 32, device_uid="2.25.99")
    old = replace(results.screened(source), network=earlier, carried_over=True)
    report = _report([old])
    said = {str(item.TextValue) for item in _named(report, codes.ALGORITHM_PARAMETERS)}
    assert any("cd" * 32 in parameter for parameter in said)
    assert not any(model.findings.sha256 in parameter for parameter in said)
    versions = {str(item.TextValue) for item in _named(report, codes.ALGORITHM_VERSION)}
    assert "0.0.9" in versions
    devices = {item.DeviceUID for item in report.ContributingEquipmentSequence}
    assert devices == {"2.25.99", model.findings.device_uid, model.lungs_heart.device_uid}
    assert "Cardiomegaly -" in _comments(report), "its sensitivity is not that of other weights"
    told = replace(old, worth=replace(model, figures=model.figures[:2]).worth("PA"))
    assert "Cardiomegaly 8 of 10" in _comments(_report([told]))


def test_the_engine_stands_with_the_weights_and_makes_no_equipment_of_its_own() -> None:
    made = results.model()
    ran = replace(made, findings=replace(made.findings, engine="openvino 2026.4.1"))
    report = _report([replace(results.screened(results.chest()), network=ran.findings)], model=made)
    parameters = _named(_groups(report)["Image"], codes.ALGORITHM_PARAMETERS)
    assert "engine openvino 2026.4.1" in {item.TextValue for item in parameters}
    assert len(report.ContributingEquipmentSequence) == 2


def test_a_site_has_its_own_code_where_it_says_so() -> None:
    own = Concept("RID5352", "RADLEX", "pneumothorax")
    report = _report(site_codes={"Pneumothorax": own})
    assert "RID5352" in _values(report, codes.FINDING)


def test_every_label_is_spoken_of_in_every_state() -> None:
    source = results.chest()
    for state in FindingState:
        said = results.findings(states=dict.fromkeys(LABELS, state))
        groups = _groups(_report([results.screened(source, said)]))
        assert set(LABELS) <= set(groups)
