"""A PACS that is away, that refuses, that comes back. No screening here: notices are enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.store import audit, reader
from prescreen.store.reader import StudyRecord
from tests.e2e.blind import answered
from tests.e2e.house import UNCLOSED, House, chest, choosy, house, listening, wait_until

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CLASSES = (COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE)


def record_of(home: House, study: str) -> StudyRecord:
    return reader.show(home.store().engine, study)


def delays(home: House) -> list[float]:
    """Seconds until the next try, of each try that failed, in order."""
    events = audit.events(home.store().engine)
    return [float(e.detail["delay"]) for e in events if e.kind == "object.retried"]


def test_a_pacs_that_is_away_is_tried_with_growing_delay_until_it_is_back(tmp_path: Path) -> None:
    with house(tmp_path, listens=False) as home:
        study = answered(home, chest(tmp_path))
        with home.role("deliver"):
            wait_until(lambda: len(delays(home)) >= 3, "it was tried three times")
            assert delays(home)[:3] == sorted(delays(home)[:3])
            assert delays(home)[0] < delays(home)[1]
            record = record_of(home, study)
            assert {row["state"] for row in record.deliveries} == {"pending"}
            (error,) = {row["error"] for row in record.deliveries if row["error"]}
            assert "is the peer running there?" in error
            said = home.command("status").stdout
            assert "2 pending" in said
            with listening(home.pacs, home.settings.destination("pacs").port):
                home.answered(study)
        assert len(home.pacs.of_study(study)) == 2


def test_what_a_pacs_refuses_is_parked_and_sent_the_same_once_it_is_mended(tmp_path: Path) -> None:
    with house(tmp_path, listens=False) as home:
        study, port = answered(home, chest(tmp_path)), home.settings.destination("pacs").port
        with home.role("deliver"):
            with choosy(home.pacs, port, CLASSES, status=0x0124):
                wait_until(lambda: home.row(study)["parked"] == 2, "both are parked")
            said = home.command("status").stdout
            assert "not authorised" in " ".join(said.split())
            assert "0x0124" in said
            again = home.command("retry", "--destination", "pacs", "--why", "allowed now")
            assert "2 parked objects are due again" in again.stdout
            with choosy(home.pacs, port, CLASSES):
                home.answered(study)
        kept = {row["sop_instance_uid"] for row in record_of(home, study).deliveries}
        assert {uid for _, uid, _ in home.pacs.received} == kept


def test_a_pacs_without_room_is_tried_again_and_nothing_is_parked(tmp_path: Path) -> None:
    with house(tmp_path, listens=False) as home:
        study, port = answered(home, chest(tmp_path)), home.settings.destination("pacs").port
        with home.role("deliver"):
            with choosy(home.pacs, port, CLASSES, status=0xA700):
                wait_until(lambda: len(delays(home)) >= 2, "it was tried again")
            assert home.row(study)["parked"] == 0
            with choosy(home.pacs, port, CLASSES):
                home.answered(study)
        assert len(home.pacs.of_study(study)) == 2


def test_a_pacs_that_takes_no_such_class_at_all_parks_that_alone(tmp_path: Path) -> None:
    with house(tmp_path, listens=False) as home:
        study, port = answered(home, chest(tmp_path)), home.settings.destination("pacs").port
        with home.role("deliver"), choosy(home.pacs, port, [SECONDARY_CAPTURE]):
            wait_until(lambda: home.row(study)["parked"] == 1, "the report is parked")
            wait_until(lambda: home.row(study)["delivered"] == 1, "the capture is not")
        (report,) = [r for r in record_of(home, study).deliveries if r["kind"] == "sr"]
        assert "accepts no objects of SOP class" in str(report["error"])
