"""A study is corrected in the PACS while its report waits: what arrives carries what it is now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prescreen import node, pipeline
from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.dicom.send import Sender
from prescreen.line import Line
from prescreen.store import audit, reader
from prescreen.store.destinations import Destinations
from prescreen.study import Radiograph, Screening
from tests import chests, results
from tests.e2e import blind
from tests.e2e.house import UNCLOSED, House, chest, house, receiving
from tests.peers.orthanc import Orthanc, running

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

WAS = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientID": "CANARYOLD",
    "PatientName": "Old^Name",
    "PatientSex": "M",
    "AccessionNumber": "CANARYOLDACC",
}
CORRECTED = {
    "PatientID": "CANARYMERGED",
    "PatientName": "Größe^Märta",
    "PatientBirthDate": "19550505",
    "PatientSex": "F",
    "AccessionNumber": "CANARYNEWACC",
}
#: With these kept Orthanc changes what it has in place.
_KEPT = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


@dataclass
class Hospital:
    """Orthanc as the PACS that sends a study, and gets the node's results; no networks."""

    home: House
    orthanc: Orthanc

    def acquired(self, path: Path) -> str:
        """Let the PACS have a radiograph; its study."""
        self.orthanc.post("/instances", path.read_bytes())
        return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)

    def send(self, study: str) -> None:
        """Let the PACS send all it has of a study to the node, which answers it."""
        resources = {"Resources": self.found(study), "Synchronous": True}
        self.orthanc.post("/modalities/prescreen/store", resources)
        self.answer()

    def answer(self) -> None:
        home = self.home
        with node.open_decoder(home.settings) as decoder:
            tools = replace(blind.tools(home), decoder=decoder, screener=self._screened)
            while jobs := home.store().queue.claim("test", 60, 16):
                pipeline.screen(jobs, tools)

    def _screened(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        said = (chests.anatomy(), results.BUSY, 0.1, results.model())
        return [Screening(*said) for _ in radiographs]

    def deliver(self) -> None:
        """Send all that is due, as the deliverer does."""
        to, engine = self.home.settings.destination("pacs"), self.home.store().engine
        with Sender(to, "PRESCREEN") as sender:
            line = Line(to, sender, "PRESCREEN", engine)
            while work := line.claim():
                line.deliver(work)

    def found(self, study: str) -> Any:
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study}}
        return self.orthanc.post("/tools/find", query)

    def correct(self, study: str, replaced: dict[str, str]) -> None:
        """Change patient and order of a study in the PACS, in place."""
        (identifier,) = self.found(study)
        patient = self.orthanc.json(f"/studies/{identifier}")["ParentPatient"]
        change: dict[str, Any] = {"Replace": replaced, "Keep": _KEPT, "Force": True}
        self.orthanc.post(f"/patients/{patient}/modify", {**change, "KeepSource": False})

    def objects(self, study: str) -> list[pydicom.Dataset]:
        """Everything that the PACS has of a study."""
        (identifier,) = self.found(study)
        instances = self.orthanc.json(f"/studies/{identifier}/instances")
        files = (self.orthanc.get(f"/instances/{one['ID']}/file") for one in instances)
        return [pydicom.dcmread(BytesIO(file)) for file in files]

    def kinds(self, study: str) -> list[str]:
        events = audit.events(self.home.store().engine, study_instance_uid=study)
        return [event.kind for event in events]

    def states(self, study: str) -> list[tuple[int, str]]:
        """Job and state of each delivery; that the PACS gave its promise meanwhile is no matter."""
        record = reader.show(self.home.store().engine, study)
        told = {"committed": "delivered"}
        return [(row["job_id"], told.get(row["state"], row["state"])) for row in record.deliveries]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    with house(folder, listens=False) as home, receiving(home):
        pacs = home.settings.destination("pacs")
        modality = {"prescreen": ("PRESCREEN", "127.0.0.1", home.settings.receive.port)}
        settings = {"DicomAlwaysAllowFind": True}
        with running(folder / "pacs", "PACS", pacs.port, modality, **settings) as orthanc:
            yield Hospital(home, orthanc)


@pytest.fixture(scope="module")
def study(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study that was held back, corrected in the PACS, and let go."""
    found = hospital.acquired(chest(tmp_path_factory.mktemp("images"), **WAS))
    switches = Destinations(hospital.home.store().engine)
    switches.hold("pacs", "test", "test")
    hospital.send(found)
    hospital.deliver()
    assert {state for _, state in hospital.states(found)} == {"pending"}
    hospital.correct(found, CORRECTED)
    switches.release("pacs", "test", "test")
    hospital.deliver()
    hospital.answer()
    hospital.deliver()
    return found


def test_what_was_held_back_arrives_under_the_new_identity(hospital: Hospital, study: str) -> None:
    first, second = dict.fromkeys(job for job, _ in hospital.states(study))
    assert hospital.states(study) == [
        (first, "cancelled"),
        (first, "cancelled"),
        (second, "delivered"),
        (second, "delivered"),
    ]
    objects = hospital.objects(study)
    assert len(objects) == 3
    assert {COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE} < {str(ds.SOPClassUID) for ds in objects}
    for keyword, value in CORRECTED.items():
        assert {str(ds[keyword].value) for ds in objects} == {value}, keyword
    assert hospital.kinds(study).count("study.corrected") == 1
    known = reader.show(hospital.home.store().engine, study).study
    assert known["patient_id"] == CORRECTED["PatientID"]
    assert known["outcome"] == "screened"


def test_the_first_report_names_no_predecessor(hospital: Hospital, study: str) -> None:
    """The one before it was never sent."""
    (report,) = (ds for ds in hospital.objects(study) if ds.SOPClassUID == COMPREHENSIVE_3D_SR)
    assert "PredecessorDocumentsSequence" not in report


def test_the_corrected_study_sent_on_is_what_it_is_already(hospital: Hospital, study: str) -> None:
    hospital.send(study)
    hospital.deliver()
    kinds = hospital.kinds(study)
    assert kinds.count("instance.ignored") == 2, "own results"
    assert kinds.count("instance.duplicate") == 1
    assert kinds.count("study.identity_changed") == 1
    assert len(hospital.states(study)) == 4
    assert len(hospital.objects(study)) == 3


def test_a_late_image_under_the_new_identity_keeps_what_was_said(
    hospital: Hospital, study: str, tmp_path: Path
) -> None:
    late = chest(tmp_path, **{**WAS, **CORRECTED}, StudyInstanceUID=study)
    hospital.acquired(late)
    hospital.send(study)
    hospital.deliver()
    reports = [ds for ds in hospital.objects(study) if ds.SOPClassUID == COMPREHENSIVE_3D_SR]
    (newest,) = (ds for ds in reports if "PredecessorDocumentsSequence" in ds)
    (said,) = newest.CurrentRequestedProcedureEvidenceSequence
    images = [
        one for series in said.ReferencedSeriesSequence for one in series.ReferencedSOPSequence
    ]
    assert len(images) == 2
    assert newest.CompletionFlag == "COMPLETE", "of both images it says what it found"


def test_a_name_written_otherwise_makes_nothing_again(hospital: Hospital, tmp_path: Path) -> None:
    who = {**WAS, "PatientID": "CANARYSAME", "PatientName": "Größe^Märta"}
    path = chest(tmp_path, **who)
    study = hospital.acquired(path)
    hospital.send(study)
    (identifier,) = hospital.found(study)
    hospital.orthanc.delete(f"/studies/{identifier}")
    ds = pydicom.dcmread(path)
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "GRÖSSE^MÄRTA^^ "
    ds.save_as(path)
    hospital.acquired(path)
    hospital.deliver()
    assert {state for _, state in hospital.states(study)} == {"delivered"}
    assert "study.corrected" not in hospital.kinds(study)
