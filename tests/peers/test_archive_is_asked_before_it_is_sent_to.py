"""C-FIND before the first send, asked of Orthanc: is the study there, under the same patient?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prescreen.dicom import query
from prescreen.errors import ContextRejected
from prescreen.settings import Destination
from prescreen.store import audit
from prescreen.store.arrival import lose
from prescreen.store.database import writing
from prescreen.study import Audience, Reference, generate_uid
from tests.line_bench import LineBench, capture, destination, part10
from tests.peers.dcmtk import storescp
from tests.peers.orthanc import Orthanc, running
from tests.store_bench import CANARY

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    node = {"node": ("PRESCREEN", "127.0.0.1", 11112)}
    with running(folder, "PACS", modalities=node, DicomAlwaysAllowFind=True) as server:
        yield server


@pytest.fixture
def pacs(orthanc: Orthanc) -> Destination:
    return destination(orthanc.dicom_port, commitment="none")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LineBench]:
    found = LineBench(tmp_path)
    yield found
    found.close()


def test_a_study_is_listed_with_patient_and_order(orthanc: Orthanc, pacs: Destination) -> None:
    item = capture()
    orthanc.post("/instances", part10(item, "1.2.7"))
    (listed,) = query.study(pacs, "PRESCREEN", "1.2.7")
    assert listed == query.Listed(**CANARY)
    assert query.study(pacs, "PRESCREEN", "1.2.8") == ()
    here, gone = (
        Reference(item.sop_class_uid, uid, item.series_instance_uid, "1.2.7")
        for uid in (item.sop_instance_uid, "1.2.99")
    )
    assert query.present(pacs, "PRESCREEN", [here, gone]) == {item.sop_instance_uid}


def test_a_deleted_study_is_not_brought_back(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.11", pacs)
    bench.turn()
    (row,) = bench.rows("1.2.11")
    assert row["state"] == "pending"
    assert "not there yet, or deleted" in row["error"]
    assert orthanc.post("/tools/find", _study("1.2.11")) == []
    bench.wait(25 * 3600)
    bench.turn()
    assert bench.states("1.2.11") == ["parked"]


def test_a_study_that_comes_late_is_waited_for(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.12", pacs)
    bench.turn()
    orthanc.post("/instances", part10(capture(), "1.2.12"))
    bench.wait(3600)
    bench.turn()
    assert bench.states("1.2.12") == ["delivered"]


def test_another_patient_is_taken_over_and_the_report_made_again(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    orthanc.post("/instances", part10(capture(), "1.2.13", patient_id="CANARYMERGED"))
    first = bench.reported("1.2.13", pacs, items=(capture(), capture()))
    bench.turn()
    assert bench.states("1.2.13") == ["cancelled", "cancelled"]
    assert bench.outbox.identity("1.2.13")["patient_id"] == "CANARYMERGED"
    (job,) = bench.claim()
    assert job.cause == "corrected"
    assert job.predecessor_job_id is None, "the first report was never sent"
    (image,) = job.instances
    assert image.correction is not None
    assert image.correction.patient_id == "CANARYMERGED"
    bench.publish(job, "1.2.13", (capture(),), (pacs,), patient_id="CANARYMERGED")
    bench.turn()
    assert bench.states("1.2.13") == ["cancelled", "cancelled", "delivered"]
    kinds = [event.kind for event in audit.events(bench.engine, study_instance_uid="1.2.13")]
    assert (kinds.count("study.corrected"), kinds.count("study.identity_changed")) == (1, 1)
    (event,) = audit.events(bench.engine, kind="study.corrected", study_instance_uid="1.2.13")
    assert event.detail == {"destination": "pacs", "changed": ["patient_id"]}
    assert first.instances[0].correction is None


@pytest.mark.parametrize("never", [{"query": "compare"}, {"test": True, "audience": "evaluation"}])
def test_where_it_is_not_taken_over_the_report_waits(
    never: dict[str, Any], bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    study = generate_uid()
    to = destination(orthanc.dicom_port, commitment="none", **never)
    bench.line(to)
    orthanc.post("/instances", part10(capture(), study, patient_id="CANARYMERGED"))
    items = (capture(Audience.EVALUATION if to.test else Audience.RELEASE),)
    bench.reported(study, to, items=items)
    bench.turn()
    (row,) = bench.rows(study)
    assert row["state"] == "pending"
    assert "under another Patient ID; what this destination says is not taken over" in row["error"]
    assert "CANARYMERGED" not in row["error"], "errors name no patient"


def test_a_study_under_two_patients_waits(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    for patient in ("CANARYID", "CANARYMERGED"):
        orthanc.post("/instances", part10(capture(), "1.2.18", patient_id=patient))
    bench.reported("1.2.18", pacs)
    bench.turn()
    (row,) = bench.rows("1.2.18")
    assert row["state"] == "pending"
    assert "more than once, under several patients or orders" in row["error"]


def test_two_destinations_that_say_otherwise_do_not_chase_each_other(
    bench: LineBench, orthanc: Orthanc, pacs: Destination, tmp_path: Path
) -> None:
    with running(tmp_path / "other", "PACS", DicomAlwaysAllowFind=True) as second:
        other = destination(second.dicom_port, "other", commitment="none")
        for to in (pacs, other):
            bench.line(to)
        orthanc.post("/instances", part10(capture(), "1.2.19", patient_id="CANARYMERGED"))
        second.post("/instances", part10(capture(), "1.2.19"))
        bench.reported("1.2.19", pacs, other)
        bench.turn("pacs")
        (job,) = bench.claim()
        bench.publish(job, "1.2.19", (capture(),), (pacs, other), patient_id="CANARYMERGED")
        for _ in range(3):
            bench.turn()
            bench.wait(3600)
        assert bench.claim() == []
        *_, mine, theirs = bench.rows("1.2.19")
        assert (mine["destination"], mine["state"]) == ("pacs", "delivered")
        assert (theirs["destination"], theirs["state"]) == ("other", "pending")
        assert "another destination has it under yet another one" in theirs["error"]


def test_an_archive_that_contradicts_itself_is_heeded_five_times_a_day(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    item = part10(capture(), "1.2.20")
    bench.reported("1.2.20", pacs)
    for turn in range(7):
        stored = orthanc.post("/instances", item)
        if "ParentStudy" in stored:
            orthanc.delete(f"/studies/{stored['ParentStudy']}")
        patient = f"PATIENT{turn}"
        stored = orthanc.post("/instances", part10(capture(), "1.2.20", patient_id=patient))
        bench.wait(900)
        bench.turn()
        for job in bench.claim():
            bench.publish(job, "1.2.20", (capture(),), (pacs,))
        orthanc.delete(f"/studies/{stored['ParentStudy']}")
    corrected = audit.events(bench.engine, kind="study.corrected", study_instance_uid="1.2.20")
    assert len(corrected) == 5
    assert "five times within a day" in bench.rows("1.2.20")[-1]["error"]


def test_without_images_nothing_can_be_made_again(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    orthanc.post("/instances", part10(capture(), "1.2.21", patient_id="CANARYMERGED"))
    job = bench.reported("1.2.21", pacs)
    with writing(bench.engine) as connection:
        lose(connection, job.instances[0].instance_id, bench.now)
    bench.turn()
    (row,) = bench.rows("1.2.21")
    assert row["state"] == "pending"
    assert "its images are no longer kept here" in row["error"]


KNOWN = {
    "patient_id": "CANARY1",
    "issuer_of_patient_id": "",
    "patient_name": "Yamada^Tarou=山田^太郎",
    "patient_birth_date": "19700101",
    "accession_number": "CANARYA",
}


@pytest.mark.parametrize(
    ("told", "changed"),
    [
        ({}, ()),
        ({"patient_name": "YAMADA^TAROU^^^ "}, ()),
        ({"patient_name": "Yamada^Tarou=山田^太郎=やまだ^たろう"}, ()),
        ({"patient_name": "Yamada^Tarou=??^??"}, ()),
        ({"patient_name": "Suzuki^Tarou"}, ("patient_name",)),
        ({"issuer_of_patient_id": "HOSPITAL"}, ()),
        ({"patient_birth_date": "1970.01.01"}, ()),
        ({"patient_birth_date": "19700102"}, ("patient_birth_date",)),
        ({"accession_number": "CANARYB"}, ("accession_number",)),
        ({"patient_id": "CANARY2"}, ("patient_id", "patient_name", "patient_birth_date")),
    ],
)
def test_what_is_written_otherwise_is_no_change(
    told: dict[str, str], changed: Sequence[str]
) -> None:
    assert set(query.Listed(**told).changes(KNOWN)) == set(changed)


def test_a_pacs_of_another_character_set_says_the_same_name(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    orthanc.post("/instances", part10(capture(), "1.2.22", patient_name="Müller^Jürgen"))
    (listed,) = query.study(pacs, "PRESCREEN", "1.2.22")
    known = {**KNOWN, **CANARY}
    assert listed.changes(known | {"patient_name": "MÜLLER^JÜRGEN^"}) == {}


def test_the_study_that_waits_holds_up_no_other(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.14", pacs)
    orthanc.post("/instances", part10(capture(), "1.2.15"))
    bench.reported("1.2.15", pacs)
    bench.turn()
    assert bench.states("1.2.14") == ["pending"]
    assert bench.states("1.2.15") == ["delivered"]


def test_a_peer_that_cannot_be_asked_is_sent_to(bench: LineBench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as server:
        to = destination(server.port, "other")
        with pytest.raises(ContextRejected, match="takes no C-FIND"):
            query.study(to, "PRESCREEN", "1.2.16")
        bench.line(to)
        bench.reported("1.2.16", to)
        bench.turn()
        assert bench.states("1.2.16") == ["delivered"]


def test_who_is_not_to_be_asked_is_not(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    unasked = pacs.model_copy(update={"query": "none"})
    bench.line(unasked)
    bench.reported("1.2.17", unasked)
    bench.turn()
    assert bench.states("1.2.17") == ["delivered"]


def _study(uid: str) -> dict[str, object]:
    return {"Level": "Study", "Query": {"StudyInstanceUID": uid}}
