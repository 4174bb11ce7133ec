"""Orthanc sends a study to the node and gets the results back into the same study; no loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.store import audit
from prescreen.store.reader import StudyRecord
from tests.e2e.house import House, chest, house, wait_until
from tests.peers.orthanc import Orthanc, running

#: Patients, and the character sets their names are written in.
PATIENTS: dict[str, tuple[str | list[str], str]] = {
    "Latin 1": ("ISO_IR 100", "Müller^Jürgen"),
    "Japanese": (
        ["", "ISO 2022 IR 87"],
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "Cyrillic": ("ISO_IR 144", "Иванов^Пётр"),
}


@dataclass
class Sent:
    """A study in Orthanc, and what the node said of it."""

    study: str
    identifier: str  # Orthanc's own
    source: str  # SOP Instance UID of the radiograph
    name: str


@dataclass
class Hospital:
    """Orthanc as the PACS of a node, and the studies it sent, by patient."""

    home: House
    orthanc: Orthanc
    sent: dict[str, Sent]

    def record(self, patient: str, jobs: int = 1) -> StudyRecord:
        return self.home.answered(self.sent[patient].study, jobs)

    def objects(self, patient: str) -> list[pydicom.Dataset]:
        """Everything that Orthanc has of a study."""
        identifier = self.sent[patient].identifier
        found = self.orthanc.json(f"/studies/{identifier}/instances")
        files = (self.orthanc.get(f"/instances/{instance['ID']}/file") for instance in found)
        return [pydicom.dcmread(BytesIO(file)) for file in files]

    def forward(self, patient: str) -> Any:
        """Let Orthanc send the whole study to the node."""
        return self.orthanc.post("/modalities/prescreen/store", self._resources(patient))

    def _resources(self, patient: str) -> dict[str, Any]:
        return {"Resources": [self.sent[patient].identifier], "Synchronous": True}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    with house(folder, lease=60, listens=False) as home:
        port = home.settings.receive.port
        modalities = {"prescreen": ("PRESCREEN", "127.0.0.1", port)}
        pacs = home.settings.destination("pacs")
        with (
            running(folder / "orthanc", pacs.ae_title, pacs.port, modalities) as orthanc,
            home.open(),
        ):
            yield Hospital(home, orthanc, _send_all(folder, orthanc))


def _send_all(folder: Path, orthanc: Orthanc) -> dict[str, Sent]:
    sent = {}
    for patient, (character_set, name) in PATIENTS.items():
        path = chest(folder, SpecificCharacterSet=character_set, PatientName=name)
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        stored = orthanc.post("/instances", path.read_bytes())
        identifier = stored["ParentStudy"]
        sent[patient] = Sent(str(ds.StudyInstanceUID), identifier, str(ds.SOPInstanceUID), name)
        resources = {"Resources": [identifier], "Synchronous": True}
        orthanc.post("/modalities/prescreen/store", resources)
    return sent


@pytest.mark.parametrize("patient", PATIENTS)
def test_results_join_the_study_in_series_of_their_own(hospital: Hospital, patient: str) -> None:
    record = hospital.record(patient)
    assert record.study["outcome"] == "screened"
    objects = hospital.objects(patient)
    classes = sorted(str(ds.SOPClassUID) for ds in objects)
    source = next(ds for ds in objects if ds.SOPInstanceUID == hospital.sent[patient].source)
    assert classes == sorted([str(source.SOPClassUID), COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE])
    assert len({ds.SeriesInstanceUID for ds in objects}) == 3
    # Orthanc makes studies of patient and study: one study is one patient
    found = hospital.orthanc.post("/tools/find", _query(hospital.sent[patient].study))
    assert found == [hospital.sent[patient].identifier]


def _query(study: str) -> dict[str, Any]:
    return {"Level": "Study", "Query": {"StudyInstanceUID": study}}


@pytest.mark.parametrize("patient", PATIENTS)
def test_the_patients_name_is_the_same_in_all(hospital: Hospital, patient: str) -> None:
    hospital.record(patient)
    names = {str(ds.PatientName) for ds in hospital.objects(patient)}
    assert names == {hospital.sent[patient].name}


def _sent(deliveries: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    # not the commitment: the PACS is asked for its promise meanwhile, and gives it
    keys = ("outbox_id", "job_id", "sop_instance_uid", "attempts", "delivered_at")
    found = list(deliveries)
    assert {delivery["state"] for delivery in found} <= {"delivered", "committed"}
    return [tuple(delivery[key] for key in keys) for delivery in found]


def test_the_whole_study_forwarded_again_makes_no_loop(hospital: Hospital) -> None:
    before = hospital.record("Latin 1")
    had = len(hospital.objects("Latin 1"))
    hospital.forward("Latin 1")
    engine = hospital.home.store().engine

    def kinds() -> list[str]:
        events = audit.events(engine, study_instance_uid=hospital.sent["Latin 1"].study)
        return [event.kind for event in events]

    wait_until(lambda: kinds().count("instance.ignored") == 2, "own results came back")
    after = hospital.record("Latin 1")
    assert kinds().count("instance.duplicate") == 1
    assert "study.identity_changed" not in kinds()
    assert after.study["jobs"] == before.study["jobs"] == 1
    assert _sent(after.deliveries) == _sent(before.deliveries)
    assert len(hospital.objects("Latin 1")) == had
    ignored = [i for i in after.instances if i["disposition"] == "ignored"]
    assert {i["ignored_reason"] for i in ignored} == {"own_result"}
