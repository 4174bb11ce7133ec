"""Jobs beyond their order: what came again, what failed, what is carried over, who claims what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from prescreen.errors import LeaseLost, OutOfResources, StoreError
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.answers import as_json, from_json
from prescreen.store.database import reading, writing
from prescreen.store.queue import Answer, Queue
from prescreen.store.schema import open_database
from prescreen.store.settlement import audience_of
from prescreen.study import Audience, Disposition, Outcome
from tests.store_bench import LAB, PACS, StoreBench, result


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    yield bench
    bench.engine.dispose()


def _results(bench: StoreBench) -> list[tuple[str, str | None]]:
    columns = select(t.result.c.outcome, t.result.c.reason).order_by(t.result.c.result_id)
    with reading(bench.engine) as connection:
        return [(row.outcome, row.reason) for row in connection.execute(columns)]


def test_answer_comes_back_as_it_was() -> None:
    answer = result("1.2.3", "1.2", "undetermined")
    assert from_json(as_json(answer)) == answer


def test_answer_of_another_version_is_read() -> None:
    text = as_json(result("1.2.3", "1.2")).replace(
        '"header": {', '"later": 1, "header": {"more": 2,'
    )
    assert from_json(text) == result("1.2.3", "1.2")


def test_answer_that_is_no_number_is_refused(bench: StoreBench) -> None:
    bench.keep("1.2", 1)
    (job,) = bench.claim()
    answer = result("1.2.1", "1.2")
    object.__setattr__(answer, "cardiothoracic_ratio", float("nan"))
    with pytest.raises(StoreError, match="cannot be stored"):
        bench.queue.settle(job, Outcome.SCREENED, None, [(job.instances[0], answer)])
    assert _results(bench) == []


@pytest.mark.parametrize(
    "disposition", [Disposition.DUPLICATE, Disposition.REVISION, Disposition.CONFLICT]
)
def test_instance_that_came_again_is_told_apart(
    disposition: Disposition, bench: StoreBench
) -> None:
    first = bench.screened("1.2")
    assert bench.keep("1.2", 1, b"other", patient_id="CANARYCORR") is Disposition.AGAIN
    (job,) = bench.claim()
    assert job.predecessor_job_id == first.job_id
    (again,) = job.instances
    assert (again.arrival, again.disposition) == ("again", Disposition.AGAIN)
    assert again.identity_digest != first.instances[0].identity_digest
    bench.queue.settle(
        job, Outcome.NOT_SCREENED, str(disposition), [Answer(again, None, disposition, "ab" * 32)]
    )
    known = bench.queue.versions("1.2.1")
    assert [i.disposition for i in known] == [Disposition.NEW, disposition]
    assert known[1].pixel_sha256 == "ab" * 32
    assert audit.events(bench.engine, kind=f"instance.{disposition}")
    changed = audit.events(bench.engine, kind="study.identity_changed")
    assert len(changed) == (1 if disposition is Disposition.REVISION else 0)
    assert _results(bench)[-1] == ("not_screened", str(disposition))


def test_what_is_said_of_a_conflict_does_not_hide_the_first_answer(bench: StoreBench) -> None:
    bench.screened("1.2")
    bench.keep("1.2", 1, b"other")
    (job,) = bench.claim()
    answer = Answer(job.instances[0], result("1.2.1", "1.2", "not_flagged"), Disposition.CONFLICT)
    bench.queue.settle(job, Outcome.NOT_SCREENED, "conflict", [answer])
    bench.keep("1.2", 2)
    (later,) = bench.claim()
    (earlier,) = later.earlier
    assert earlier.carried_over
    assert earlier.findings[0].state == "flagged"


def test_instance_without_answer_never_passes_for_screened(bench: StoreBench) -> None:
    bench.keep("1.2", 1)
    (job,) = bench.claim()
    bench.queue.settle(job, Outcome.SCREENED)
    assert _results(bench) == [("not_screened", "no_answer")]


def test_job_that_kills_its_workers_is_settled_as_failed_with_each_instance(
    bench: StoreBench,
) -> None:
    bench.keep("1.2", 1)
    for attempt in (1, 2, 3):
        (job,) = bench.claim()
        assert job.attempt == attempt
        bench.wait(301)
    assert bench.claim() == []
    assert _results(bench) == [("failed", "too_many_attempts")]
    assert audit.events(bench.engine, kind="job.failed", job_id=job.job_id)
    with pytest.raises(LeaseLost):
        bench.settle(job)
    again = bench.queue.retry_failed(job.job_id, "me", "new weights")
    (retried,) = bench.claim()
    assert retried.job_id == again
    with pytest.raises(StoreError, match="no failed job"):
        bench.queue.retry_failed(again, "me", "why")


def test_error_text_stays_out_of_the_audit(bench: StoreBench) -> None:
    bench.keep("1.2", 1)
    (job,) = bench.claim()
    bench.queue.retry(job, "Traceback: CANARY", 5, "decoder_died")
    (event,) = audit.events(bench.engine, kind="job.retried")
    assert event.detail == {"attempt": 1, "delay": 5, "reason": "decoder_died"}


def test_locked_database_refuses_the_instance(bench: StoreBench) -> None:
    hasty = open_database(Path(str(bench.engine.url.database)), busy_timeout=0.05)
    bench.queue = Queue(hasty, lambda: bench.now)
    with writing(bench.engine), pytest.raises(OutOfResources):
        bench.keep("1.2", 1)
    assert bench.keep("1.2", 1) is Disposition.NEW
    hasty.dispose()


def test_audience_follows_what_was_live_at_the_claim(bench: StoreBench) -> None:
    bench.keep("1.1", 1)
    (silent,) = bench.claim()
    bench.destinations.go_live("pacs", "me", "test")
    bench.keep("1.2", 1)
    (live,) = bench.claim()
    assert audience_of(PACS, silent) is Audience.EVALUATION
    assert audience_of(PACS, live) is Audience.RELEASE
    assert audience_of(LAB, live) is Audience.EVALUATION
    bench.settle(silent, PACS)
    assert bench.outbox.claim("pacs", 60) == []
    bench.settle(live, PACS)
    (delivery,) = bench.outbox.claim("pacs", 60, 9)
    assert delivery.path.name == "release.dcm"
    assert delivery.path.parent == bench.spool.root / "results" / str(live.job_id)


def test_another_patient_under_one_study_is_audited(bench: StoreBench) -> None:
    bench.keep("1.2", 1)
    bench.keep("1.2", 2, patient_id="CANARYOTHER")
    (event,) = audit.events(bench.engine, kind="study.identity_changed")
    assert event.study_instance_uid == "1.2"


def test_findings_of_another_patient_are_not_carried_over(bench: StoreBench) -> None:
    bench.screened("1.2")
    bench.keep("1.2", 2, patient_id="CANARYOTHER")
    (job,) = bench.claim()
    (earlier,) = job.earlier
    assert (earlier.outcome, earlier.reason) == (Outcome.NOT_SCREENED, "another_patient")
    assert (earlier.findings, earlier.cardiothoracic_ratio) == ((), None)
    assert earlier.carried_over


def test_findings_are_carried_over_where_the_order_alone_was_corrected(bench: StoreBench) -> None:
    bench.screened("1.2")
    bench.keep("1.2", 2, accession_number="CANARYCORR", patient_name="CANARY^NAME^^")
    (job,) = bench.claim()
    (earlier,) = job.earlier
    assert len(earlier.findings) == 14


CLAIMER = """
import pathlib, sys
from prescreen.store.queue import Queue
from prescreen.store.schema import open_database
queue = Queue(open_database(pathlib.Path(sys.argv[1]), busy_timeout=60))
while jobs := queue.claim(sys.argv[2], 600, 2):
    print(*(job.job_id for job in jobs), flush=True)
"""


def test_two_processes_never_claim_the_same_job(bench: StoreBench) -> None:
    for number in range(30):
        bench.keep(f"1.2.{number}", 1)
    argv = [sys.executable, "-c", CLAIMER, str(bench.engine.url.database)]
    claimers = [subprocess.Popen([*argv, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    claimed = [claimer.communicate(timeout=120)[0].split() for claimer in claimers]
    assert [claimer.returncode for claimer in claimers] == [0, 0]
    assert sorted(int(job) for jobs in claimed for job in jobs) == list(range(1, 31))


def test_process_that_ends_before_the_commit_has_taken_nothing(bench: StoreBench) -> None:
    class Killed(BaseException):
        pass

    def crash(point: str) -> None:
        if point == "keep.before_commit":
            raise Killed

    whole = bench.queue
    bench.queue = Queue(bench.engine, lambda: bench.now, crash)
    with pytest.raises(Killed):
        bench.keep("1.2", 1)
    assert audit.events(bench.engine) == ()
    bench.queue = whole
    assert bench.keep("1.2", 1) is Disposition.NEW
