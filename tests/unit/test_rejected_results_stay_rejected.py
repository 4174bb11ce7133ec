"""A PACS rejects a result of ours: it is marked, audited, and nothing more of it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prescreen import pipeline
from prescreen.dicom.image import identify
from prescreen.dicom.rejection import rejection_note
from prescreen.settings import Screen
from prescreen.store import audit, reader
from prescreen.store.database import writing
from prescreen.store.rejections import reject
from prescreen.study import Delivery, Incoming, Reference, Rejection
from tests import results
from tests.peers.made import every_kind
from tests.store_bench import LAB, PACS, StoreBench, live

STUDY = "1.2.1"


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return live(tmp_path)


def _reject(bench: StoreBench, uid: str, code: str = "113001") -> None:
    with writing(bench.engine) as connection:
        reject(connection, Rejection(code, (Reference("1.2.3", uid),)), bench.now)


def _sent(bench: StoreBench) -> Delivery:
    """The report, delivered to one destination; at the other all waits."""
    bench.screened(STUDY, PACS, LAB)
    first = bench.outbox.claim("pacs", 60)[0]
    bench.outbox.delivered(first, 0, True)
    return first


def _rows(bench: StoreBench) -> dict[str, Any]:
    return {str(r["destination"]): r for r in reader.show(bench.engine, STUDY).deliveries}


def test_nothing_more_of_it_is_sent_and_it_is_marked(bench: StoreBench) -> None:
    report = _sent(bench)
    _reject(bench, report.sop_instance_uid)
    rows = _rows(bench)
    assert (rows["pacs"]["state"], rows["lab"]["state"]) == ("delivered", "cancelled")
    assert rows["pacs"]["error"] == "rejected by a note of the PACS (113001)"
    assert bench.outbox.claim("lab", 60) == []


def test_it_is_audited_with_the_study_and_the_number_of_rows(bench: StoreBench) -> None:
    report = _sent(bench)
    _reject(bench, report.sop_instance_uid)
    (event,) = [e for e in audit.events(bench.engine) if e.kind == "result.rejected"]
    assert (event.study_instance_uid, event.job_id) == (STUDY, report.job_id)
    assert event.detail == {"kind": "sr", "code": "113001", "cancelled": 1}
    assert audit.verify(bench.engine).whole


def test_it_is_known_by_the_uid_it_fell_back_to_as_well(bench: StoreBench) -> None:
    report = _sent(bench)
    assert report.fallback_sop_instance_uid is not None
    _reject(bench, report.fallback_sop_instance_uid)
    assert _rows(bench)["lab"]["state"] == "cancelled"


def test_the_same_note_again_changes_nothing(bench: StoreBench) -> None:
    report = _sent(bench)
    for _ in range(2):
        _reject(bench, report.sop_instance_uid)
    assert [e.kind for e in audit.events(bench.engine)].count("result.rejected") == 1


def test_other_studies_are_sent(bench: StoreBench) -> None:
    report = _sent(bench)
    bench.screened("1.2.2", PACS)
    _reject(bench, report.sop_instance_uid)
    assert [row.study_instance_uid for row in bench.outbox.claim("pacs", 60)] == ["1.2.2"]


def test_a_note_of_ours_on_its_way_around_is_not_obeyed() -> None:
    part10 = rejection_note(
        every_kind(results.chest())["sr"],
        Rejection("113037", (Reference("1.2.3", "1.2.3.4", "1.2.3.5", "1.2.3.6"),)),
        manufacturer="prescreen",
        made=results.MADE,
        series_instance_uid="2.25.81",
        sop_instance_uid="2.25.82",
        series_number=9010,
    )
    identity = identify(part10)
    uids = (identity.sop_class_uid, identity.sop_instance_uid, identity.transfer_syntax_uid)
    incoming = Incoming(*uids, part10, "PACS", "PRESCREEN", "127.0.0.1")
    assert pipeline.rejection_of(identity, incoming, Screen()) is None
