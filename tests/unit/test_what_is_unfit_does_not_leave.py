"""The egress gate: every kind of object passes it, and each thing that can be wrong is named."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pydicom
import pytest

from prescreen.dicom import egress
from prescreen.dicom.egress import check
from prescreen.dicom.rejection import rejection_note
from prescreen.errors import UnfitObject
from prescreen.study import Audience, Reference, Rejection, ResultObject
from tests import results
from tests.peers.made import KINDS, every_kind


def _kind(name: str) -> str:
    """The setting's name of one of KINDS."""
    for kind in ("regions", "text", "capture", "presentation", "segmentation", "rejection"):
        if kind in name:
            return kind
    return "sr"


def _described(part10: bytes, name: str) -> ResultObject:
    ds = pydicom.dcmread(io.BytesIO(part10), stop_before_pixels=True)
    return ResultObject(
        kind=_kind(name),
        audience=Audience.EVALUATION,
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        file_name="x.dcm",
    )


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    found = every_kind(results.chest())
    return found | {"rejection": _note(found["sr"])}


def _note(rejected: bytes) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(rejected))
    uids = (ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID)
    return rejection_note(
        rejected,
        Rejection("113037", (Reference(*map(str, uids)),)),
        manufacturer="prescreen",
        made=results.MADE,
        series_instance_uid="2.25.81",
        sop_instance_uid="2.25.82",
        series_number=9010,
    )


@pytest.mark.parametrize("name", [*KINDS, "rejection"])
def test_what_we_make_passes(made: dict[str, bytes], name: str) -> None:
    check(made[name], _described(made[name], name), results.chest())


def _refused(part10: bytes, name: str, described: ResultObject | None = None) -> str:
    with pytest.raises(UnfitObject) as caught:
        check(part10, described or _described(part10, name), results.chest())
    return str(caught.value)


def _changed(part10: bytes, change: Callable[[pydicom.Dataset], None]) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(part10))
    change(ds)
    stream = io.BytesIO()
    ds.save_as(stream)
    return stream.getvalue()


def _another_patient(ds: pydicom.Dataset) -> None:
    ds.PatientID = "CANARYOTHER"


def _another_name(ds: pydicom.Dataset) -> None:
    ds.PatientName = "Doe^Jane"


def _verified(ds: pydicom.Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def _no_evidence(ds: pydicom.Dataset) -> None:
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _no_image_library(ds: pydicom.Dataset) -> None:
    del ds.ContentSequence[-2]


def _untracked(ds: pydicom.Dataset) -> None:
    del ds.ContentSequence[-1].ContentSequence[3].ContentSequence[1]


def _of_another_template(ds: pydicom.Dataset) -> None:
    group = ds.ContentSequence[-1].ContentSequence[0]
    group.ContentTemplateSequence[0].TemplateIdentifier = "1410"


def _a_finding_with_a_place(ds: pydicom.Dataset) -> None:
    (explained,) = [
        i for i in ds.ContentSequence[-1].ContentSequence[-1].ContentSequence if _why(i)
    ]
    explained.ConceptNameCodeSequence[0].CodeValue = "121071"


def _why(item: pydicom.Dataset) -> bool:
    return str(item.ConceptNameCodeSequence[0].CodeValue) == "130401"


def _without_a_relationship(ds: pydicom.Dataset) -> None:
    del ds.ContentSequence[0].RelationshipType


def _without_times(ds: pydicom.Dataset) -> None:
    del ds.ContentTime


def _without_sex(ds: pydicom.Dataset) -> None:
    del ds.PatientSex


def _equipment_gone(ds: pydicom.Dataset) -> None:
    del ds.ContributingEquipmentSequence


def _larger_than_it_is(ds: pydicom.Dataset) -> None:
    ds.Rows += 2


def _titled_as_nothing(ds: pydicom.Dataset) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "113000"


def _of_something_else(ds: pydicom.Dataset) -> None:
    ds.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _of_another_study(ds: pydicom.Dataset) -> None:
    ds.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"


CHANGES: dict[str, tuple[str, Callable[[pydicom.Dataset], None], str]] = {
    "patient": ("sr", _another_patient, "patient id is not that of the study"),
    "name": ("capture", _another_name, "patient name is not that of the study"),
    "verified": ("sr", _verified, "claims to be verified"),
    "evidence": ("text sr", _no_evidence, "not listed as evidence"),
    "library": ("sr", _no_image_library, "root is not that of TID 1500"),
    "tracking": ("sr", _untracked, "not tracked"),
    "template": ("sr", _of_another_template, "template does not fit"),
    "region": (
        "attention regions sr",
        _a_finding_with_a_place,
        "region that is coded as a finding",
    ),
    "relationship": ("regions sr", _without_a_relationship, "without a relationship"),
    "type 1": ("sr", _without_times, "ContentTime is missing or empty"),
    "type 2": ("presentation", _without_sex, "PatientSex is missing"),
    "equipment": ("segmentation", _equipment_gone, "ContributingEquipmentSequence is missing"),
    "note's title": ("rejection", _titled_as_nothing, "its title rejects nothing"),
    "note's reference": ("rejection", _of_something_else, "not what it lists as evidence"),
    "note's study": ("rejection", _of_another_study, "objects of another study"),
    "note's patient": ("rejection", _another_patient, "patient id is not that of the study"),
    "pixels": ("capture", _larger_than_it_is, "PixelData is not as long"),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_each_fault_is_named(made: dict[str, bytes], fault: str) -> None:
    name, change, words = CHANGES[fault]
    said = _refused(_changed(made[name], change), name)
    assert words in said
    assert said.startswith(f"{_kind(name)}: ")
    for private in ("CANARYOTHER", "Doe", str(results.chest().PatientID)):
        assert private not in said


def test_a_uid_that_is_not_its_own_is_named(made: dict[str, bytes]) -> None:
    described = replace(_described(made["sr"], "sr"), series_instance_uid="2.25.123")
    assert "SeriesInstanceUID is not the one" in _refused(made["sr"], "sr", described)


@pytest.mark.parametrize("cut", [200, 900, 5_000, -1])
def test_what_is_cut_short_is_not_read_back(made: dict[str, bytes], cut: int) -> None:
    part10 = made["sr"]
    assert "cannot be read back" in _refused(part10[:cut], "sr", _described(part10, "sr"))


def test_what_pydicom_reads_otherwise_does_not_leave(
    made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    described, read = _described(made["sr"], "sr"), pydicom.dcmread

    def otherwise(file: io.BytesIO, **options: Any) -> pydicom.FileDataset:
        ds = read(file, **options)
        if "defer_size" in options:  # as the last look reads
            del ds.ContentSequence[0]
        return ds

    monkeypatch.setattr(pydicom, "dcmread", otherwise)
    assert "pydicom reads other attributes in it" in _refused(made["sr"], "sr", described)

    def cannot(file: io.BytesIO, **options: Any) -> pydicom.FileDataset:
        if "defer_size" not in options:
            return read(file, **options)
        raise ValueError("of CANARY^NAME")

    monkeypatch.setattr(pydicom, "dcmread", cannot)
    assert "pydicom cannot read it (ValueError)" in _refused(made["sr"], "sr", described)


def test_what_others_say_of_a_value_is_not_passed_on(
    made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(part10: bytes) -> None:
        raise ValueError("cannot decode 'Doe^Jane'")

    monkeypatch.setattr(egress, "_read_back", quoting)
    said = _refused(made["sr"], "sr")
    assert said.endswith("cannot be read back (ValueError)") and "Doe" not in said


def test_a_document_of_text_holds_no_numbers(made: dict[str, bytes]) -> None:
    described = replace(_described(made["sr"], "sr"), kind="text")
    assert "a content item of type NUM" in _refused(made["sr"], "sr", described)
