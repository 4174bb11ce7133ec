"""F7, F10, F11: clocks that jump, databases that cannot be written, work from before an upgrade."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event

from prescreen.errors import LeaseLost, OutOfResources, StoreError
from prescreen.store import audit, database, recovery
from prescreen.store.database import open_database, writing
from prescreen.store.queue import Queue
from prescreen.store.schema import instant_text
from prescreen.study import Disposition, Outcome
from tests.store_bench import PACS, StoreBench

HOUR = 3_600


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "me", "test")
    yield bench
    bench.engine.dispose()


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -365 * 24 * HOUR])
def test_f10_work_whose_worker_died_is_due_again_after_the_clock_jumped(
    bench: StoreBench, jump: int
) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    bench.wait(jump)
    bench.wait(2)
    if jump == -365 * 24 * HOUR:  # a year back: when it is due lies in the future as well
        _due_at_once(bench)
    if jump > -24 * HOUR:
        bench.wait(max(0, -jump) + 300)  # an hour back: it is due an hour later
    (again,) = bench.queue.claim("another", 300)
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    with pytest.raises(LeaseLost):
        bench.settle(job, PACS)
    bench.settle(again, PACS)
    assert audit.verify(bench.engine).whole


def _due_at_once(bench: StoreBench) -> None:
    """What `prescreen doctor --repair` does to work that is put off for more than a day."""
    with writing(bench.engine) as connection:
        late = bench.now + datetime.timedelta(days=1)
        assert recovery.make_due(connection, late, bench.now) == 1


def test_f10_a_lease_of_a_clock_that_was_ahead_is_void(bench: StoreBench) -> None:
    """The clock was an hour ahead when the job was claimed; then its worker died."""
    bench.keep("1.2.1", 1)
    bench.wait(HOUR)
    (job,) = bench.queue.claim("worker", 60)
    bench.wait(-HOUR + 31)
    (again,) = bench.queue.claim("another", 60)
    assert again.job_id == job.job_id


def test_f10_a_worker_that_lives_keeps_its_lease_when_the_clock_goes_back(
    bench: StoreBench,
) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    bench.wait(-HOUR)
    bench.queue.renew(job, 300)
    assert bench.queue.claim("another", 300) == []
    bench.settle(job, PACS)


def test_f10_rows_keep_their_order_and_are_sent_once_when_the_clock_goes_back(
    bench: StoreBench,
) -> None:
    for study in ("1.2.1", "1.2.2", "1.2.3"):
        bench.screened(study, PACS)
        bench.wait(-600)
    bench.wait(HOUR)
    rows = bench.outbox.claim("pacs", 60, 16)
    assert [row.study_instance_uid for row in rows] == ["1.2.1", "1.2.2", "1.2.3"]
    assert audit.verify(bench.engine).whole


def test_f10_the_time_zone_of_the_machine_changes_nothing(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    instant = datetime.datetime(2026, 3, 29, 1, 30, tzinfo=datetime.UTC)  # summer time begins
    texts = set()
    for zone in ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        texts.add(instant_text(instant))
        bench.screened(f"1.2.{len(zone)}", PACS)
    monkeypatch.undo()
    time.tzset()
    assert texts == {"2026-03-29T01:30:00.000000Z"}
    assert audit.verify(bench.engine).whole


@pytest.mark.parametrize("said", ["attempt to write a readonly database", "disk I/O error"])
def test_f7_a_database_that_cannot_be_written_refuses_and_recovers(
    bench: StoreBench, said: str
) -> None:
    """SQLITE_READONLY by its own switch; SQLITE_IOERR raised where it is committed."""

    def fails(connection: Connection) -> None:
        if "I/O" in said:
            raise sqlite3.OperationalError(said)
        connection.exec_driver_sql("PRAGMA query_only = ON")

    moment = "commit" if "I/O" in said else "begin"
    event.listen(bench.engine, moment, fails)
    with pytest.raises(OutOfResources) as refused:
        bench.keep("1.2.1", 1)
    assert refused.value.status == 0xA700
    event.remove(bench.engine, moment, fails)
    bench.engine.dispose()
    assert bench.keep("1.2.1", 1) is Disposition.NEW
    assert audit.verify(bench.engine).whole


OLDEST = "0001"


def test_f11_work_that_was_queued_before_an_upgrade_goes_on(tmp_path: Path) -> None:
    """A database of the first schema with a job in it, opened by this version."""
    path = tmp_path / "prescreen.db"
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDEST)
    engine.dispose()
    with closing(sqlite3.connect(path)) as old:
        for statement in QUEUED:
            old.execute(statement)
        old.commit()
    engine = open_database(path)
    (job,) = Queue(engine).claim("worker", 60)
    assert [image.sop_instance_uid for image in job.instances] == ["1.2.1.1"]
    Queue(engine).settle(job, Outcome.NOT_SCREENED, "unreadable")
    assert audit.verify(engine).whole
    engine.dispose()


_THEN = "'2026-01-31T08:00:00.000000Z'"
QUEUED = (
    "INSERT INTO identity VALUES (1, 'd', 'P', '', 'N', '', 'A', '', '', NULL)",
    f"INSERT INTO study VALUES (1, '1.2.1', 1, {_THEN})",
    "INSERT INTO instance (instance_id, study_id, identity_id, sop_class_uid, sop_instance_uid, "
    "series_instance_uid, transfer_syntax_uid, sha256, size, path, calling_ae_title, peer_address, "
    "received_at, arrival, disposition) VALUES (1, 1, 1, '1.2', '1.2.1.1', '1.2.1.9', '1.2', "
    f"'aa', 1, 'spool/received/aa/a.dcm', 'CR', '127.0.0.1', {_THEN}, 'first', 'new')",
    "INSERT INTO job (job_id, study_id, stage, open, cause, priority, opened_at, due_at, cap_at) "
    f"VALUES (1, 1, 'screen', 1, 'arrival', 0, {_THEN}, {_THEN}, {_THEN})",
    "INSERT INTO job_instance VALUES (1, 1)",
)


def test_f11_an_older_version_refuses_what_a_newer_one_wrote(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    open_database(path).dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreError, match=r"newer prescreen.*install that one again"):
        open_database(path)
