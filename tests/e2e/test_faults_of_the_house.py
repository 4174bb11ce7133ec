"""Rows F1, F3, F4, F7 and F8 of the fault matrix, with real processes; see docs/reliability.md."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from prescreen import doctor
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.dicom.send import echo
from prescreen.errors import PeerUnavailable
from prescreen.store import audit, recovery
from prescreen.store.database import integrity, reading
from tests.e2e.blind import answer, deliver, kept
from tests.e2e.figures import told
from tests.e2e.forked import forked
from tests.e2e.house import UNCLOSED, House, chest, house, small, wait_until
from tests.e2e.poisoned import POISON
from tests.e2e.streaming import Streams, Wired

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


def nothing_is_lost(home: House, acknowledged: list[str]) -> None:
    """Every acknowledged instance has a row and its bytes; database and audit chain are whole."""
    engine = home.store().engine
    assert integrity(engine) is None
    assert audit.verify(engine).whole
    with reading(engine) as connection:
        rows = recovery.kept(connection)
        query = "SELECT sop_instance_uid, path FROM instance WHERE removed_at IS NULL"
        found = connection.exec_driver_sql(query).all()
    files = {str(uid): str(path) for uid, path in found}
    lost = [
        uid
        for uid in acknowledged
        if uid not in files
        or doctor.what_is_wrong(home.settings.data_dir / files[uid], rows[files[uid]])
    ]
    assert lost == []


@contextmanager
def receiving(home: House) -> Iterator[subprocess.Popen[bytes]]:
    """A receiver that may be killed meanwhile."""
    command = [sys.executable, "-m", "prescreen", "serve", "--only", "receive"]
    process = subprocess.Popen([*command, "--config", str(home.config)])
    try:
        home.wait_for_door()
        yield process
    finally:
        process.kill()
        process.wait(120)


def _nothing_streamed_is_lost(home: House, streams: Streams, kills: int) -> None:
    nothing_is_lost(home, streams.acknowledged)
    spool = home.store().spool
    spool.sweep(lambda path: True, min_age=0)
    assert not list((spool.root / "received").glob("*/.*.tmp"))
    told("f1", {"kills": kills, "acknowledged": len(streams.acknowledged), "lost": 0})


def test_f1_a_receiver_killed_at_random_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(20_260_131)
    with house(tmp_path) as home:
        with Streams(home, tmp_path, 2) as streams:
            for _ in range(10):
                with receiving(home):
                    time.sleep(chance.uniform(0.1, 0.6))
            with forked(home, "receive"):
                _more(streams, 1)  # it takes up again
        _nothing_streamed_is_lost(home, streams, 10)
        assert len(streams.acknowledged) > 10


@pytest.mark.soak
def test_f1_a_receiver_killed_200_times_loses_nothing(tmp_path: Path) -> None:
    """More than 100 instances are acknowledged a kill, by four senders. KILLS=40 asks for fewer."""
    chance, kills = random.Random(20_260_131), int(os.environ.get("KILLS", "200"))
    with house(tmp_path) as home:
        # nobody screens meanwhile, and nobody is to be told that too many wait
        everything = home.config.read_text().replace(
            "[receive]", "[receive]\nmax_waiting = 10000000"
        )
        home.config.write_text(everything)
        with Wired(home, tmp_path, 4) as streams:
            for kill in range(kills):
                # never behind the mean for long, and many a kill before the first answer
                enough = max(0, 110 * kill - len(streams.acknowledged)) + chance.randrange(100)
                with forked(home, "receive"):
                    _more(streams, enough * chance.randrange(2) + chance.randrange(3))
                    time.sleep(chance.uniform(0, 0.05))
            with forked(home, "receive"):
                _more(streams, 1)  # it takes up again
        _nothing_streamed_is_lost(home, streams, kills)
        assert len(streams.acknowledged) > 100 * kills


def _more(streams: Streams, count: int) -> None:
    known = len(streams.acknowledged)
    wait_until(lambda: len(streams.acknowledged) >= known + count, "more is acknowledged", 600)


def test_f3_sigterm_ends_a_receiver_between_two_instances(tmp_path: Path) -> None:
    with house(tmp_path) as home, Streams(home, tmp_path, 2) as streams:
        with receiving(home) as process:
            wait_until(lambda: len(streams.acknowledged) > 5, "instances are acknowledged")
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        nothing_is_lost(home, streams.acknowledged)


def test_f3_sigterm_of_a_whole_node_with_work_in_flight(tmp_path: Path) -> None:
    """It ends by itself with status 0, and the next one finishes the study, once."""
    with house(tmp_path) as home:
        kept(home, chest(tmp_path))
        command = [sys.executable, "-m", "prescreen", "serve", "--config", str(home.config)]
        node = subprocess.Popen(command)
        try:
            wait_until(lambda: _leased(home) or home.done(), "the study is in work")
            node.send_signal(signal.SIGTERM)
            assert node.wait(60) == 0
        finally:
            node.kill()
        answer(home)
        deliver(home)
        wait_until(home.done, "the study is answered and delivered")
        assert len(home.pacs.of_class(COMPREHENSIVE_3D_SR)) == 1
        nothing_is_lost(home, [])


def _leased(home: House) -> bool:
    with reading(home.store().engine) as connection:
        query = "SELECT count(*) FROM job WHERE lease_token IS NOT NULL"
        return bool(connection.exec_driver_sql(query).scalar())


@pytest.mark.parametrize("kind", POISON)
def test_f4_one_poison_image_costs_one_study(tmp_path: Path, kind: str) -> None:
    """The process dies of it three times; then it is given up with a notice, the others go on."""
    _poisoned(tmp_path, kind, others=4)


@pytest.mark.soak
@pytest.mark.parametrize("kind", POISON)
def test_f4_one_poison_image_among_100(tmp_path: Path, kind: str) -> None:
    _poisoned(tmp_path, kind, others=99)


def _poisoned(folder: Path, kind: str, others: int) -> None:
    # a lease longer than the test would hide that a dead process's work is due again
    with house(folder, lease=0.5) as home:
        home.config.write_text(home.config.read_text().replace("[screen]", "[screen]\n" + _STUCK))
        path = small(folder)
        poison = kept(home, path)
        good = [kept(home, small(folder)) for _ in range(others)]
        deaths = _run_until_done(home, kind, path.stem)
        assert deaths == 3
        record = home.row(poison)
        assert (record["outcome"], record["reason"]) == ("failed", "too_many_attempts")
        assert all(home.row(study)["outcome"] == "not_screened" for study in good)
        deliver(home)
        assert len(home.pacs.of_class(COMPREHENSIVE_3D_SR)) == others + 1


_STUCK = "stuck_seconds = 1"


def _run_until_done(home: House, kind: str, sop_instance_uid: str) -> int:
    """Start the screener again for as long as it dies; how often it did."""
    command = [sys.executable, "-m", "tests.e2e.poisoned", kind, sop_instance_uid]
    deaths = 0
    while deaths < 10:
        process = subprocess.Popen([*command, str(home.config)], cwd=Path(__file__).parents[2])
        try:
            wait_until(
                lambda: process.poll() is not None or _nothing_to_screen(home),  # noqa: B023
                "it died or all is answered",
            )
            if process.poll() is None:
                return deaths
        finally:
            process.terminate()
            process.wait(120)
        deaths += 1
    return deaths


def _nothing_to_screen(home: House) -> bool:
    with reading(home.store().engine) as connection:
        query = "SELECT count(*) FROM job WHERE stage = 'screen'"
        return connection.exec_driver_sql(query).scalar() == 0


def test_f6_above_the_watermark_nobody_stores_and_everybody_may_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less room than `minimum_free_mb`: who would store is rejected for now, C-ECHO answers."""
    with house(tmp_path) as home:
        path = small(tmp_path)
        with monkeypatch.context() as patch:
            patch.setenv("PRESCREEN__HOUSEKEEPING__MINIMUM_FREE_MB", "1000000000")
            with home.role("receive"):
                with pytest.raises(PeerUnavailable):
                    home.send(path)
                echo(home.door(), "MODALITY")
        kinds = [e.detail for e in audit.events(home.store().engine, kind="association.refused")]
        assert "disk_full" in str(kinds)
        with home.role("receive"):
            assert home.send(path) == [0x0000], "there is room again"


@pytest.mark.parametrize("seconds", [6, pytest.param(20, marks=pytest.mark.soak)])
def test_f7_a_locked_database_is_a700_and_passes(tmp_path: Path, seconds: int) -> None:
    """Another program holds it: the sender is told 0xA700, C-ECHO answers, then all goes on."""
    with house(tmp_path) as home, home.role("receive"):
        database = home.settings.data_dir / "prescreen.db"
        with Streams(home, tmp_path) as streams:
            wait_until(lambda: len(streams.acknowledged) > 0, "one is acknowledged")
            with closing(sqlite3.connect(database, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                echo(home.door(), "MODALITY")
                wait_until(lambda: bool(streams.refused), "one is refused")
                other.execute("ROLLBACK")
            known = len(streams.acknowledged)
            wait_until(lambda: len(streams.acknowledged) > known, "it goes on by itself")
        assert set(streams.refused) == {0xA700}
        nothing_is_lost(home, streams.acknowledged)


def test_f8_a_node_does_not_start_on_a_damaged_database(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        database = home.settings.data_dir / "prescreen.db"
        home.close()
        with database.open("r+b") as file:
            file.seek(-8192, 2)
            file.write(b"\xff" * 4096)
        result = home.command("serve")
        assert result.returncode == 3
        assert "the database is damaged" in result.stderr
        assert "`prescreen doctor --repair`" in result.stderr
