"""What was set aside is counted by reason, and removed when its time is over, not before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prescreen.housekeeping import Housekeeper
from prescreen.settings import Housekeeping
from prescreen.store import audit, quarantine
from tests.store_bench import StoreBench

DAY = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    bench = StoreBench(tmp_path)
    for content in (b"one", b"two"):
        bench.spool.quarantine(bench.spool.keep(content).path, "no_row")
    draft = bench.spool.draft(7)
    (draft / "report.dcm").write_bytes(b"report")
    bench.spool.quarantine(draft, "not_of_this_job")
    (tmp_path / "spool" / "quarantine" / "stray").write_bytes(b"by hand")
    return bench


def test_it_is_counted_by_reason(bench: StoreBench) -> None:
    assert quarantine.counted(bench.spool) == {"no_row": 2, "not_of_this_job": 1, "unknown": 1}


def test_what_follows_the_code_is_for_people(bench: StoreBench) -> None:
    path = bench.spool.quarantine(bench.spool.keep(b"three").path, "unfit_object: sr: no \ufffd")
    assert path.with_suffix(".reason").read_text() == "unfit_object: sr: no ?\n"
    assert quarantine.counted(bench.spool)["unfit_object"] == 1


def test_nothing_is_removed_before_its_time(bench: StoreBench) -> None:
    assert quarantine.expire(bench.spool, time.time() - 60) == 0
    assert sum(quarantine.counted(bench.spool).values()) == 4


def test_it_is_removed_after_its_time_with_its_reason(bench: StoreBench, tmp_path: Path) -> None:
    assert quarantine.expire(bench.spool, time.time() + 60) == 4
    assert list((tmp_path / "spool" / "quarantine").iterdir()) == []


def test_housekeeping_does_so_and_the_audit_has_it(bench: StoreBench, tmp_path: Path) -> None:
    def turn(days: float) -> None:
        now = bench.now.fromtimestamp(time.time() + days * DAY, tz=bench.now.tzinfo)
        keeper = Housekeeper(
            bench.engine, bench.spool, tmp_path, Housekeeping(retention_days=30), lambda: now
        )
        keeper.retain()

    turn(29)
    assert sum(quarantine.counted(bench.spool).values()) == 4
    turn(31)
    assert quarantine.counted(bench.spool) == {}
    (event,) = audit.events(bench.engine, kind="quarantine.removed")
    assert event.detail == {"files": 4}
