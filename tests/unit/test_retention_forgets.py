"""What is over is removed, what is waited for stays, and a patient can be forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.errors import StoreError
from prescreen.store import audit, reader
from prescreen.store.corrections import Corrections
from prescreen.store.database import empty_log, open_database
from prescreen.study import Disposition
from tests.store_bench import CANARY, PACS, StoreBench

DAY = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "me", "test")
    yield bench
    bench.engine.dispose()


def _delivered(bench: StoreBench, study: str) -> int:
    job = bench.screened(study, PACS)
    (delivery,) = bench.outbox.claim("pacs", 60, 9)
    bench.outbox.delivered(delivery, 0)
    return job.job_id


def test_files_of_finished_jobs_expire(bench: StoreBench) -> None:
    job_id = _delivered(bench, "1.2")
    bench.keep("1.3", 1, screenable=False)
    assert bench.retention.expire(bench.now) == []
    bench.wait(DAY)
    paths = bench.retention.expire(bench.now)
    folder, *files = paths
    assert folder == bench.spool.root / "results" / str(job_id)
    assert len(files) == 2
    assert [bench.retention.knows(path) for path in files] == [False, False]
    assert bench.retention.expire(bench.now) == []
    assert bench.spool.sweep(bench.retention.knows, min_age=0).expired == 2


def test_what_is_waited_for_does_not_expire(bench: StoreBench) -> None:
    bench.screened("1.1", PACS)  # pending
    bench.screened("1.2", PACS)
    for delivery in bench.outbox.claim("pacs", 60, 9):
        bench.outbox.park(delivery, "no")
    bench.keep("1.3", 1)  # not screened yet
    bench.wait(DAY)
    assert bench.retention.expire(bench.now) == []


def test_instance_that_comes_after_its_retention_is_new(bench: StoreBench) -> None:
    _delivered(bench, "1.2")
    assert bench.keep("1.2", 1) is Disposition.DUPLICATE
    bench.wait(DAY)
    bench.retention.expire(bench.now)
    assert bench.keep("1.2", 1) is Disposition.NEW


def test_study_whose_images_are_gone_cannot_be_screened_again(bench: StoreBench) -> None:
    _delivered(bench, "1.2")
    bench.wait(DAY)
    bench.retention.expire(bench.now)
    with pytest.raises(StoreError, match="no longer kept"):
        bench.queue.rescreen("1.2", "me", "why")


def test_file_without_a_row_is_not_known(bench: StoreBench) -> None:
    assert bench.retention.knows(bench.spool.keep(b"x").path) is None


def test_patient_can_be_forgotten(bench: StoreBench) -> None:
    _delivered(bench, "1.2")
    bench.keep("1.2", 2)
    paths = bench.retention.erase("1.2", "me", "asked")
    assert len([path for path in paths if path.suffix == ".dcm"]) == 2
    assert audit.verify(bench.engine).whole
    assert bench.claim() == []
    record = reader.show(bench.engine, "1.2")
    assert record.study["patient_name"] == ""
    connection = sqlite3.connect(str(bench.engine.url.database))
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert not [value for value in CANARY.values() if value in dump]


def test_who_a_patient_was_before_a_correction_is_forgotten_too(bench: StoreBench) -> None:
    bench.screened("1.2", PACS)
    (row,) = bench.outbox.claim("pacs", 60)
    told = {"patient_id": "CANARYMERGED", "patient_name": "CANARY^MERGED"}
    Corrections(bench.engine, lambda: bench.now).correct(
        row, bench.outbox.identity("1.2"), told, "F"
    )
    bench.retention.erase("1.2", "me", "asked")
    connection = sqlite3.connect(str(bench.engine.url.database))
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert not [value for value in (*CANARY.values(), *told.values()) if value in dump]
    assert "'F'" not in dump


def test_no_byte_of_a_forgotten_patient_is_left_in_database_or_log(bench: StoreBench) -> None:
    _delivered(bench, "1.2")
    database = Path(str(bench.engine.url.database))
    files = [database, database.with_name(f"{database.name}-wal")]
    told = [value.encode() for value in CANARY.values()]
    assert any(value in file.read_bytes() for file in files for value in told)
    bench.retention.erase("1.2", "me", "asked")
    assert not [value for file in files for value in told if value in file.read_bytes()]


def test_a_log_that_others_read_is_emptied_later(bench: StoreBench) -> None:
    _delivered(bench, "1.2")
    reading = sqlite3.connect(str(bench.engine.url.database), isolation_level=None)
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM study").fetchone()
    bench.keep("1.3", 2)
    quick = open_database(Path(str(bench.engine.url.database)), busy_timeout=0.1)
    assert not empty_log(quick)
    reading.close()
    assert empty_log(quick)
    quick.dispose()


def test_study_in_work_is_not_forgotten(bench: StoreBench) -> None:
    bench.keep("1.2", 1)
    bench.claim()
    with pytest.raises(StoreError, match="being worked on"):
        bench.retention.erase("1.2", "me", "asked")
    with pytest.raises(StoreError, match="is not known"):
        bench.retention.erase("9.9", "me", "asked")


def test_study_is_found_by_uid_accession_number_and_job(bench: StoreBench) -> None:
    job_id = _delivered(bench, "1.2")
    for key in ("1.2", CANARY["accession_number"], str(job_id)):
        record = reader.show(bench.engine, key)
        assert record.study["study_instance_uid"] == "1.2"
        assert (len(record.instances), len(record.findings), len(record.deliveries)) == (1, 14, 1)
        assert record.study["flagged"] == "Atelectasis"
        assert record.events[-1].kind == "job.done"
    bench.keep("1.3", 1)
    with pytest.raises(StoreError, match="2 studies"):
        reader.show(bench.engine, CANARY["accession_number"])
    with pytest.raises(StoreError, match="audit list"):
        reader.show(bench.engine, "9.9")
    assert [row["study_instance_uid"] for row in reader.studies(bench.engine)] == ["1.3", "1.2"]


def test_status_counts_what_waits_is_due_and_in_work(bench: StoreBench) -> None:
    _delivered(bench, "1.1")
    bench.keep("1.2", 1)
    bench.claim()
    bench.keep("1.3", 1)
    due_at = bench.now
    bench.wait(30)
    bench.keep("1.4", 1)
    status = reader.status(bench.engine, bench.now)
    assert (status.waiting, status.due, status.leased) == (1, 1, 1)
    assert status.oldest_due is not None
    assert (status.oldest_due - due_at).total_seconds() == 30
    assert (status.outcomes, status.studies, status.instances) == ({"screened": 1}, 4, 4)
    assert status.deliveries == {"pacs": {"delivered": 1}}
