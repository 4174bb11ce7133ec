"""A process that exits at any named point loses nothing acknowledged and doubles no result.

After each death the role is started again, the sender sends again what it got no answer for (as
modalities do), and in the end the PACS holds exactly one report and one capture of the study.
Where the screener is not what dies, a notice is answer enough.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.errors import PeerUnavailable
from prescreen.store import audit, reader
from tests.e2e.blind import answer, answered, kept
from tests.e2e.dying import DIED
from tests.e2e.figures import told
from tests.e2e.forked import forked, start
from tests.e2e.house import House, Ledger, chest, house, small, wait_until

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
        assert dying.wait(120) == DIED
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


# ---------------------------------------------------------------- many deaths


@pytest.mark.soak
@pytest.mark.parametrize("point", [*RECEIVING, *SCREENING, *DELIVERING])
def test_f2_twenty_deaths_at_each_point(tmp_path: Path, point: str) -> None:
    """DEATHS=2 asks for fewer."""
    deaths = int(os.environ.get("DEATHS", "20"))
    with house(tmp_path, lease=0.5) as home:
        for _ in range(deaths):
            _dies_once(home, small(tmp_path), point)
        with forked(home, "deliver"):
            wait_until(home.quiet, "everything is delivered")
        _each_study_is_answered_once(home, deaths)


def _dies_once(home: House, path: Path, point: str) -> None:
    if point in RECEIVING:
        dying = start(home, "receive", point)
        home.wait_for_door()
        while dying.is_alive():
            assert not _acknowledged(home, path), "it died before it could answer"
        with forked(home, "receive"):
            wait_until(lambda: _acknowledged(home, path), "the sender sends again")
    else:
        kept(home, path)
        if point in DELIVERING:
            answer(home)
        dying = start(home, "blind" if point in SCREENING else "deliver", point)
    dying.join(60)
    assert dying.exitcode == DIED
    wait_until(lambda: _is_answered(home), "what it had is due again, and answered")


def _is_answered(home: House) -> bool:
    answer(home)
    return reader.waiting(home.store().engine) == 0


def _each_study_is_answered_once(home: House, studies: int) -> None:
    assert len(home.pacs.of_class(COMPREHENSIVE_3D_SR)) == studies
    assert len(home.pacs.of_class(SECONDARY_CAPTURE)) == studies
    assert all(len(contents) == 1 for contents in home.pacs.copies.values())
    rows = reader.studies(home.store().engine, 10 * studies)
    assert [(row["instances"], row["delivered"]) for row in rows] == [(1, 2)] * studies
    assert audit.verify(home.store().engine).whole


def _kill_all(roles: dict[str, ForkServerProcess]) -> None:
    for process in roles.values():
        process.kill()
        process.join(120)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_f2_screener_and_deliverer_killed_at_random(tmp_path: Path, kills: int) -> None:
    """Either is killed while studies come; in the end each has one report and one capture."""
    chance, studies = random.Random(20_261_123), 0
    with house(tmp_path, lease=0.5, pacs=Ledger()) as home, ExitStack() as stack:
        # who dies is not the study's fault here: none is given up
        home.config.write_text(
            home.config.read_text().replace("[screen]", "[screen]\nmax_attempts = 20")
        )
        roles = {role: start(home, role) for role in ("blind", "deliver")}
        stack.callback(_kill_all, roles)
        for _ in range(kills):
            coming = chance.randrange(1, 4)
            for _ in range(coming):
                kept(home, small(tmp_path))
            studies += coming
            time.sleep(chance.uniform(0, 0.5))
            role = chance.choice(list(roles))
            roles[role].kill()
            roles[role].join(120)
            roles[role] = start(home, role)
        wait_until(home.quiet, "everything is answered and delivered", 300)
        _each_study_is_answered_once(home, studies)
        sent = len(home.pacs.received)
        told("f2", {"kills": kills, "studies": studies, "objects": 2 * studies, "arrivals": sent})
