"""What is sent, when, and what is not: silence, holds, images that come late or come again.

One node with five destinations: `pacs` is live, `silent` is not, `trial` is for tests, `readers`
get what passes the release bar, `old` knows no Comprehensive 3D SR.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from prescreen import node
from prescreen.audience import reaches_bar
from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.dicom.wording import words
from prescreen.nets.weights import describe
from prescreen.store import audit
from prescreen.store.destinations import Destinations
from prescreen.store.reader import StudyRecord
from prescreen.study import LABELS, generate_uid
from tests.e2e.house import UNCLOSED, House, Pacs, chest, choosy, house, listening, wait_until
from tests.peers.dcmtk import free_port

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
PREDECESSORS, PURPOSE = "PredecessorDocumentsSequence", "PurposeOfReferenceCodeSequence"

DESTINATION = """\
[[destinations]]
name = "{name}"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
objects = ["sr", "capture"]
{setting}
retry_first = 0.2
retry_cap = 0.5
"""
SETTINGS = {
    "silent": 'audience = "evaluation"',
    "trial": 'audience = "evaluation"\ntest = true',
    "readers": 'audience = "release"',
    "old": 'audience = "evaluation"',
}


@dataclass
class Street:
    """The house, its screener's process, and the PACS behind each destination."""

    home: House
    screener: subprocess.Popen[bytes]
    pacs: Mapping[str, Pacs]
    switches: Destinations

    def reports(self, study: str, destination: str = "pacs") -> list[pydicom.Dataset]:
        return self.pacs[destination].of_study(study, COMPREHENSIVE_3D_SR)

    def captures(self, study: str, destination: str = "pacs") -> list[pydicom.Dataset]:
        return self.pacs[destination].of_study(study, SECONDARY_CAPTURE)

    def others_have(self, study: str) -> None:
        """Wait until the study is with every destination but the one on hold."""
        wait_until(lambda: self.home.pending(study) == {"pacs"}, "the others get it")

    @contextmanager
    def on_hold(self, destination: str) -> Iterator[None]:
        """Nothing is sent there meanwhile."""
        self.switches.hold(destination, "test", "looks wrong")
        try:
            yield
        finally:
            self.switches.release(destination, "test", "looked into")

    @contextmanager
    def screener_asleep(self) -> Iterator[None]:
        """What is sent meanwhile is screened together."""
        os.kill(self.screener.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.screener.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    ports = {name: free_port() for name in SETTINGS}
    more = "".join(
        DESTINATION.format(name=name, port=ports[name], setting=setting)
        for name, setting in SETTINGS.items()
    )
    pacs = {name: Pacs() for name in SETTINGS}
    old = choosy(pacs["old"], ports["old"], [COMPREHENSIVE_SR, SECONDARY_CAPTURE])
    with (
        house(tmp_path_factory.mktemp("house"), lease=60, more=more) as home,
        listening(pacs["silent"], ports["silent"]),
        listening(pacs["trial"], ports["trial"]),
        listening(pacs["readers"], ports["readers"]),
        old,
        home.role("receive"),
        home.role("screen") as screener,
        home.role("deliver"),
    ):
        switches = Destinations(home.store().engine)
        for name in ("readers", "old"):
            switches.go_live(name, "test", "test")
        yield Street(home, screener, {"pacs": home.pacs, **pacs}, switches)


@dataclass(frozen=True)
class First:
    """A study that was screened and sent, and the file that it was."""

    path: Path
    study: str
    record: StudyRecord


@pytest.fixture(scope="module")
def first(street: Street, tmp_path_factory: pytest.TempPathFactory) -> First:
    path = chest(tmp_path_factory.mktemp("first"))
    study = study_of(path)
    street.home.send(path)
    return First(path, study, street.home.answered(study))


def study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def another(path: Path, **attributes: Any) -> Path:
    """The same picture under a SOP Instance UID of its own unless that is given, and changed."""
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = UID(generate_uid())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    copy = path.with_name(f"{generate_uid()}.dcm")
    ds.save_as(copy)
    return copy


def texts(ds: pydicom.Dataset) -> str:
    """Everything a report says in words."""
    found = [str(element.value) for element in ds.iterall() if element.keyword == "TextValue"]
    return "\n".join(found)


def images_in(ds: pydicom.Dataset) -> set[str]:
    """SOP Instance UIDs that a report refers to."""
    keyword = "ReferencedSOPInstanceUID"
    return {str(element.value) for element in ds.iterall() if element.keyword == keyword}


def purpose(ds: pydicom.Dataset) -> tuple[str, str]:
    """Which report this one names as its predecessor, and for what purpose."""
    (series,) = [s for study in ds[PREDECESSORS].value for s in study.ReferencedSeriesSequence]
    (item,) = series.ReferencedSOPSequence
    return str(item.ReferencedSOPInstanceUID), str(item[PURPOSE].value[0].CodeValue)


def kinds(home: House, study: str) -> list[str]:
    return [e.kind for e in audit.events(home.store().engine, study_instance_uid=study)]


def states(record: StudyRecord, destination: str) -> set[str]:
    return {d["state"] for d in record.deliveries if d["destination"] == destination}


# --- silence ---------------------------------------------------------------------------------


def test_one_report_and_one_capture_a_destination(street: Street, first: First) -> None:
    for name in ("pacs", "trial", "readers"):
        assert len(street.reports(first.study, name)) == 1
        assert len(street.captures(first.study, name)) == 1


def test_a_destination_is_silent_until_it_is_opened_and_what_was_held_is_never_sent(
    street: Street, first: First, tmp_path: Path
) -> None:
    assert states(first.record, "silent") == {"held"}
    assert street.pacs["silent"].received == []
    result = street.home.command("go-live", "silent", "--who", "Dr. A", "--why", "agreed")
    assert result.returncode == 0, result.stderr
    path = chest(tmp_path)
    street.home.send(path)
    street.home.answered(study_of(path))
    assert len(street.reports(study_of(path), "silent")) == 1
    assert street.reports(first.study, "silent") == []

    command = ("rescreen", first.study, "--why", "the destination is open now")
    assert street.home.command(*command).returncode == 0
    record = street.home.answered(first.study, jobs=2)
    (report,) = street.reports(first.study, "silent")
    held = [d for d in record.deliveries if d["state"] == "held"]
    assert report.SOPInstanceUID not in {d["sop_instance_uid"] for d in held}
    opened = [e for e in audit.events(street.home.store().engine) if e.kind == "destination.opened"]
    assert opened[-1].detail == {"destination": "silent", "who": "Dr. A", "why": "agreed"}


def test_a_test_destination_needs_no_opening(street: Street, first: First) -> None:
    assert states(first.record, "trial") == {"delivered"}


# --- hold and release ------------------------------------------------------------------------


def test_hold_stops_one_destination_and_release_resumes(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = study_of(path)
    with street.on_hold("pacs"):
        street.home.send(path)
        street.others_have(study)
        assert street.pacs["pacs"].of_study(study) == []
    street.home.answered(study)
    assert len(street.reports(study)) == len(street.captures(study)) == 1


def test_hold_of_everything_stops_everything(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = study_of(path)
    assert street.home.command("hold", "--why", "drill").returncode == 0
    try:
        street.home.send(path)
        wait_until(lambda: street.home.stage(study) == "deliver", "it is screened")
        assert all(pacs.of_study(study) == [] for pacs in street.pacs.values())
    finally:
        assert street.home.command("release", "--why", "drill is over").returncode == 0
    street.home.answered(study)
    assert len(street.reports(study)) == 1


def test_a_finding_on_hold_leaves_no_report_that_shows_it(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = study_of(path)
    with street.on_hold("pacs"):  # to catch the report before it leaves
        street.home.send(path)
        street.others_have(study)
        street.switches.hold_finding("Hernia", "test", "often wrong")
    try:
        record = street.home.answered(study, jobs=2)
    finally:
        street.switches.release_finding("Hernia", "test", "mended")
    (report,) = street.reports(study)
    assert "Hiatal hernia (on hold" in texts(report)
    before, after = sorted({d["job_id"] for d in record.deliveries})
    state = {(d["job_id"], d["destination"]): d["state"] for d in record.deliveries}
    assert state[before, "pacs"] == "cancelled"
    assert state[after, "pacs"] == "delivered"
    old, new = street.reports(study, "trial")
    assert purpose(new)[0] == old.SOPInstanceUID, "who has the first gets one that names it"


# --- images that come late or come again -----------------------------------------------------


def test_a_late_image_makes_a_report_of_both_that_names_the_first(
    street: Street, tmp_path: Path
) -> None:
    path = chest(tmp_path)
    study, late = study_of(path), another(path, InstanceNumber="2")
    street.home.send(path)
    street.home.answered(study)
    street.home.send(late)
    street.home.answered(study, jobs=2)
    one, both = street.reports(study)
    assert purpose(both) == (one.SOPInstanceUID, "121361")
    uids = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in (path, late)}
    assert uids <= images_in(both)
    assert len(street.captures(study)) == 2


def test_a_lateral_beside_a_frontal_is_listed_and_gets_no_notice(
    street: Street, tmp_path: Path
) -> None:
    path = chest(tmp_path)
    study, lateral = study_of(path), another(path, ViewPosition="LL", InstanceNumber="2")
    with street.screener_asleep():
        street.home.send(path, lateral)
    record = street.home.answered(study)
    assert (record.study["outcome"], record.study["jobs"]) == ("screened", 1)
    (report,), (capture,) = street.reports(study), street.captures(study)
    assert "Not analysed (view)" in texts(report)
    source = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    assert source in images_in(capture)


def test_the_same_bytes_again_change_nothing(street: Street, first: First) -> None:
    before = street.home.row(first.study)
    assert street.home.send(first.path) == [0x0000]
    assert kinds(street.home, first.study)[-1] == "instance.duplicate"
    after = street.home.row(first.study)
    assert (after["jobs"], after["instances"]) == (before["jobs"], before["instances"])


def test_the_same_pixels_coded_otherwise_are_a_duplicate(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path, "RG1_UNCR.dcm")
    ds = pydicom.dcmread(path)
    study = str(ds.StudyInstanceUID)
    recoded = another(path, SOPInstanceUID=ds.SOPInstanceUID, InstitutionName="Another")
    street.home.send(path)
    street.home.answered(study)
    assert street.home.send(recoded) == [0x0000]
    record = street.home.answered(study, jobs=2)
    assert [i["disposition"] for i in record.instances] == ["new", "duplicate"]
    assert (record.study["outcome"], record.study["reason"]) == ("screened", "duplicate")
    assert len(street.reports(study)) == 1


def test_another_patient_id_makes_the_report_anew(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    ds = pydicom.dcmread(path)
    study = str(ds.StudyInstanceUID)
    revised = another(path, SOPInstanceUID=ds.SOPInstanceUID, PatientID="CANARYMERGED")
    street.home.send(path)
    street.home.answered(study)
    assert street.home.send(revised) == [0x0000]
    record = street.home.answered(study, jobs=2)
    assert [i["disposition"] for i in record.instances] == ["new", "revision"]
    old, new = street.reports(study)
    assert (old.PatientID, new.PatientID) == (ds.PatientID, "CANARYMERGED")
    assert purpose(new) == (old.SOPInstanceUID, "121360")
    assert street.captures(study)[-1].PatientID == "CANARYMERGED"
    assert "study.identity_changed" in kinds(street.home, study)


def test_other_pixels_under_a_known_uid_are_kept_aside(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    ds = pydicom.dcmread(path)
    study = str(ds.StudyInstanceUID)
    mirrored = np.ascontiguousarray(ds.pixel_array[::-1]).tobytes()
    other = another(path, SOPInstanceUID=ds.SOPInstanceUID, PixelData=mirrored)
    street.home.send(path)
    street.home.answered(study)
    assert street.home.send(other) == [0x0000]
    record = street.home.answered(study, jobs=2)
    assert [i["disposition"] for i in record.instances] == ["new", "conflict"]
    assert all(i["removed_at"] is None for i in record.instances)
    assert "instance.conflict" in kinds(street.home, study)
    assert len(street.reports(study)) == 1
    assert (record.study["outcome"], record.study["reason"]) == ("screened", "conflict")


# --- what is not screened --------------------------------------------------------------------


def test_an_extremity_is_out_of_scope_and_nothing_is_sent(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path, "RG3_UNCR.dcm", PatientAge="060Y")
    street.home.send(path)
    record = street.home.answered(study_of(path))
    assert (record.study["outcome"], record.study["reason"]) == ("out_of_scope", "body_part")
    assert record.deliveries == ()
    assert all(pacs.of_study(study_of(path)) == [] for pacs in street.pacs.values())


def test_a_blank_picture_that_says_chest_gets_a_notice(street: Street, tmp_path: Path) -> None:
    path = chest(tmp_path)
    blank = another(path, PixelData=bytes(pydicom.dcmread(path).Rows * 1841 * 2))
    street.home.send(blank)
    record = street.home.answered(study_of(path))
    assert (record.study["outcome"], record.study["reason"]) == ("not_screened", "contrast")
    assert record.findings == ()
    (report,), (capture,) = street.reports(study_of(path)), street.captures(study_of(path))
    assert words("en").catalogue.says.not_screened in texts(report)
    assert "NOT SCREENED" in capture.SeriesDescription


# --- what a destination takes ----------------------------------------------------------------


def test_where_the_3d_context_is_rejected_the_fallback_goes_alone(
    street: Street, first: First
) -> None:
    (row,) = [d for d in first.record.deliveries if d["destination"] == "old" and d["kind"] == "sr"]
    assert (row["state"], row["uses_fallback"]) == ("delivered", 1)
    fallback = street.pacs["old"].of_study(first.study, COMPREHENSIVE_SR)[0]
    (report,) = street.reports(first.study, "trial")[:1]
    assert fallback.SOPInstanceUID == row["sop_instance_uid"] != report.SOPInstanceUID
    assert texts(fallback) == texts(report)
    assert street.reports(first.study, "old") == []


def test_readers_see_no_finding_below_the_bar(street: Street, first: First) -> None:
    settings = street.home.settings
    model = describe(node.weights_dir(settings))
    below = [label for label in LABELS if not reaches_bar(model, label, "PA", settings.report)]
    said = texts(street.reports(first.study, "readers")[0])
    listed = [
        label for label in LABELS if f"{words('en').name_of(label)} (below release bar" in said
    ]
    assert listed == below
    everything = texts(street.reports(first.study)[0])
    assert "(below release bar" not in everything.split("Not evaluated")[-1]


def test_stat_is_due_at_once(tmp_path: Path) -> None:
    with house(tmp_path, quiet_period=9, listens=False) as home, home.role("receive"):
        routine, stat = chest(tmp_path), chest(tmp_path, RequestedProcedurePriority="STAT")
        home.send(routine, stat)
        waits = {}
        for path in (routine, stat):
            events = audit.events(home.store().engine, study_instance_uid=study_of(path))
            (kept,) = [event for event in events if event.kind == "instance.kept"]
            due_at = str(kept.detail["due_at"]).replace("Z", "+00:00")
            waits[path] = (type(kept.at).fromisoformat(due_at) - kept.at).total_seconds()
        assert waits == {routine: 9, stat: 0}
        (job,) = home.store().queue.claim("test", 60)
        assert job.study_instance_uid == study_of(stat)
