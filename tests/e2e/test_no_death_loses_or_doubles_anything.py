"""A process that exits at any named point loses nothing acknowledged and doubles no result.

After each death the role is started again, the sender sends again what it got no answer for (as
modalities do), and in the end the PACS holds exactly one report and one capture of the study.
Where the screener is not what dies, a notice is answer enough.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.errors import PeerUnavailable
from prescreen.store import audit, reader
from tests.e2e.blind import answer, answered
from tests.e2e.dying import DIED
from tests.e2e.house import House, chest, house, wait_until

RECEIVING = ("keep.written", "keep.renamed", "keep.before_commit", "keep.committed")
SCREENING = ("screen.claimed", "report.before_rename", "report.renamed", "screen.settled")
DELIVERING = ("deliver.before_send", "deliver.sent", "deliver.settled", "deliver.between")


def _acknowledged(home: House, path: Path) -> bool:
    try:
        with home.sender() as sender:
            return sender.send(path) == 0x0000
    except PeerUnavailable:
        return False


def _deliver(home: House) -> None:
    with home.role("deliver"):
        wait_until(home.done, "everything is delivered")


def _finish(home: House) -> None:
    with home.role("screen"), home.role("deliver"):
        wait_until(home.done, "everything is answered and delivered")


def _one_report_and_its_capture(home: House) -> None:
    assert len(home.pacs.of_class(COMPREHENSIVE_3D_SR)) == 1
    assert len(home.pacs.of_class(SECONDARY_CAPTURE)) == 1
    assert all(len(contents) == 1 for contents in home.pacs.copies.values())


def _audit_accounts_for(home: House, outcome: str) -> None:
    engine = home.store().engine
    assert audit.verify(engine).whole
    (study,) = reader.studies(engine)
    assert study["instances"] == 1
    assert study["outcome"] == outcome
    assert study["delivered"] == 2


@pytest.mark.parametrize("point", RECEIVING)
def test_f2_while_receiving(tmp_path: Path, point: str) -> None:
    path = chest(tmp_path)
    with house(tmp_path) as home:
        dying = home.dying("receive", point)
        home.wait_for_door()
        acknowledged = _acknowledged(home, path)
        assert dying.wait(30) == DIED
        assert not acknowledged, "it died before it could answer"
        with home.role("receive"):
            assert _acknowledged(home, path), "the sender sends again"
        answer(home)
        _deliver(home)
        _one_report_and_its_capture(home)
        _audit_accounts_for(home, "not_screened")


@pytest.mark.parametrize("point", SCREENING)
def test_f2_while_screening(tmp_path: Path, point: str) -> None:
    with house(tmp_path) as home:
        with home.role("receive"):
            assert _acknowledged(home, chest(tmp_path))
        assert home.dying("screen", point).wait(90) == DIED
        _finish(home)
        _one_report_and_its_capture(home)
        _audit_accounts_for(home, "screened")


@pytest.mark.parametrize("point", DELIVERING)
def test_f2_while_delivering(tmp_path: Path, point: str) -> None:
    with house(tmp_path) as home:
        answered(home, chest(tmp_path))
        assert home.dying("deliver", point).wait(60) == DIED
        _deliver(home)
        _one_report_and_its_capture(home)
        _audit_accounts_for(home, "not_screened")
