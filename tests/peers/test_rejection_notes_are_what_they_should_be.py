"""Our rejection notes under dciodvfy and dsrdump, and what is read of other people's."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from prescreen.dicom.rejection import LARGEST, TITLES, rejection, rejection_note
from prescreen.errors import PrescreenError
from prescreen.study import Reference, Rejection
from tests import results
from tests.peers import dicom_validator
from tests.peers.dcmtk import run
from tests.peers.dicom3tools import errors_of
from tests.peers.made import every_kind

STUDY = "1.2.3.4"
SR = Reference("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4.1.1", "1.2.3.4.1", STUDY)
CAPTURE = Reference("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4.2.1", "1.2.3.4.2", STUDY)
STATE = Reference("1.2.840.10008.5.1.4.1.1.11.1", "1.2.3.4.3.1", "1.2.3.4.3", STUDY)
SEGMENTATION = Reference("1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.4.4.1", "1.2.3.4.4", STUDY)
EVERY = (SR, CAPTURE, STATE, SEGMENTATION)


@pytest.fixture(scope="module")
def rejected() -> bytes:
    return every_kind(results.chest())["sr"]


def note(rejected: bytes, code: str = "113037") -> bytes:
    return rejection_note(
        rejected,
        Rejection(code, EVERY),
        manufacturer="prescreen",
        made=results.MADE,
        series_instance_uid="2.25.81",
        sop_instance_uid="2.25.82",
        series_number=9010,
    )


@pytest.mark.parametrize("code", TITLES)
def test_validators_find_no_error(rejected: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "note.dcm"
    path.write_bytes(note(rejected, code))
    assert errors_of(path) == []
    assert dicom_validator.errors_of(path) == []
    dumped = run("dsrdump", path)
    assert dumped.returncode == 0, dumped.stdout
    assert TITLES[code].meaning in dumped.stdout
    assert "Error" not in dumped.stdout
    assert dumped.stdout.count("contains IMAGE") == dumped.stdout.count("contains COMPOSITE") == 2


def test_what_is_written_is_read_the_same(rejected: bytes) -> None:
    assert note(rejected) == note(rejected), "a repeated send is byte-identical"
    assert rejection(note(rejected)) == Rejection("113037", EVERY)


def test_patient_and_study_are_those_of_the_rejected_object(rejected: bytes) -> None:
    written, source = (pydicom.dcmread(BytesIO(b)) for b in (note(rejected), rejected))
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber"):
        assert written.get(keyword) == source.get(keyword)
    assert written.StudyInstanceUID == STUDY


@pytest.mark.parametrize("damage", ["title", "evidence", "truncated", "empty", "huge"])
def test_what_rejects_nothing_says_nothing(rejected: bytes, damage: str) -> None:
    content = note(rejected)
    ds = pydicom.dcmread(BytesIO(content))
    if damage == "title":
        ds.ConceptNameCodeSequence[0].CodeValue = "113000"
    if damage == "evidence":
        del ds.CurrentRequestedProcedureEvidenceSequence
    stream = BytesIO()
    ds.save_as(stream)
    damaged = {"truncated": content[:300], "empty": b"", "huge": content + bytes(LARGEST)}
    assert rejection(damaged.get(damage, stream.getvalue())) is None


def test_what_cannot_be_written_is_said(rejected: bytes) -> None:
    with pytest.raises(PrescreenError, match="no code of a rejection note: 113001"):
        note(rejected, "113000")
    with pytest.raises(PrescreenError, match="does not parse"):
        note(b"nothing")
