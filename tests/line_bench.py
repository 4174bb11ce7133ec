"""A line to a real peer, with a store, real files and a clock of the test's choosing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from prescreen.dicom.send import Sender
from prescreen.line import Line
from prescreen.settings import Destination
from prescreen.store import reader
from prescreen.study import Audience, Job, Outcome, ResultObject, generate_uid
from tests import canaries
from tests.store_bench import StoreBench, result

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


def destination(port: int, name: str = "pacs", **changes: Any) -> Destination:
    """A peer on this machine with short timeouts."""
    values: dict[str, Any] = {
        "name": name,
        "ae_title": "PACS",
        "host": "127.0.0.1",
        "port": port,
        "acse_timeout": 5,
        "dimse_timeout": 5,
        "network_timeout": 5,
        **changes,
    }
    return Destination(**values)


def part10(
    item: ResultObject,
    study: str,
    patient_id: str = canaries.PATIENT_ID,
    patient_name: str = canaries.NAME,
) -> bytes:
    """A file of an object's class and UIDs with little in it."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = item.sop_class_uid, item.sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, item.series_instance_uid
    ds.SpecificCharacterSet = "ISO_IR 100"
    canaries.plant(ds)
    ds.PatientID, ds.PatientName = patient_id, patient_name
    ds.Modality, ds.StudyDate = "OT", "20260131"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(item.sop_class_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(item.sop_instance_uid)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def capture(audience: Audience = Audience.RELEASE) -> ResultObject:
    """A Secondary Capture that was never written."""
    name = f"{generate_uid()}.dcm"
    return ResultObject(
        "capture", audience, SECONDARY_CAPTURE, generate_uid(), generate_uid(), name
    )


@dataclass
class LineBench(StoreBench):
    """A store whose objects exist as files, and lines to peers."""

    folder: Path
    lines: dict[str, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.folder)

    def line(self, to: Destination) -> Line:
        """The line to a destination, live from now on."""
        self.destinations.go_live(to.name, "me", "test")
        sender = Sender(to, "PRESCREEN")
        self.lines[to.name] = Line(to, sender, "PRESCREEN", self.engine, clock=lambda: self.now)
        return self.lines[to.name]

    def reported(
        self,
        study: str,
        *destinations: Destination,
        items: tuple[ResultObject, ...] | None = None,
    ) -> Job:
        """A study of one image, screened, with objects that can be sent."""
        self.keep(study, 1)
        (job,) = self.claim()
        self.publish(job, study, (capture(),) if items is None else items, destinations)
        return job

    def publish(
        self,
        job: Job,
        study: str,
        items: tuple[ResultObject, ...],
        destinations: tuple[Destination, ...],
        patient_id: str = "CANARYID",
    ) -> None:
        """Write a job's objects and settle it as screened."""
        draft = self.spool.draft(job.job_id)
        for item in items:
            (draft / item.file_name).write_bytes(part10(item, study, patient_id))
        self.spool.publish(job.job_id, draft)
        answers = [(i, result(i.sop_instance_uid, study)) for i in job.instances]
        self.queue.settle(job, Outcome.SCREENED, None, answers, items, destinations)

    def turn(self, *names: str) -> int:
        """One turn of each line (or of those named): claim, send or rest; how much was claimed."""
        claimed = 0
        for name in names or self.lines:
            work = self.lines[name].claim()
            if work:
                self.lines[name].deliver(work)
            else:
                self.lines[name].rest()
            claimed += len(work)
        return claimed

    def rows(self, study: str) -> list[dict[str, Any]]:
        """The rows of `v_delivery` of a study."""
        return [dict(row) for row in reader.show(self.engine, study).deliveries]

    def states(self, study: str) -> list[str]:
        return [str(row["state"]) for row in self.rows(study)]

    def close(self) -> None:
        """Let go of every association and of the database."""
        for line in self.lines.values():
            line.close()
        self.engine.dispose()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Return when the condition holds; what a peer does is not ours to time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
