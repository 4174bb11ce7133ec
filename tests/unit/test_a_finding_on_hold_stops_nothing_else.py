"""A finding on hold: its reports are made again; what takes results back, and the rest, goes on."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from prescreen.store.database import writing
from prescreen.store.recalls import Recalls
from prescreen.store.rejections import reject
from prescreen.study import Audience, Job, Outcome, Reference, Rejection
from tests.store_bench import PACS, StoreBench, live, report


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return live(tmp_path)


def _reject_image(bench: StoreBench, sop_instance_uid: str) -> None:
    with writing(bench.engine) as connection:
        note = Rejection("113037", (Reference("1.2.840.1", sop_instance_uid),))
        reject(connection, note, bench.now)


def _delivered(bench: StoreBench, study: str, images: int = 1) -> Job:
    for image in range(1, images + 1):
        bench.keep(study, image)
    (job,) = bench.claim()
    bench.settle(job, PACS)
    (delivery,) = bench.outbox.claim("pacs", 60)
    bench.outbox.delivered(delivery, 0)
    return job


def _settle_with_note(bench: StoreBench, job: Job) -> str:
    """As a job that takes results back does it: the note, and its report; the note's UID."""
    note = replace(report(Audience.RELEASE), kind="rejection", destination="pacs")
    objects = [note, report(Audience.RELEASE)]
    bench.queue.settle(job, Outcome.NOT_SCREENED, "recalled", [], objects, [PACS])
    return note.sop_instance_uid


def test_a_study_without_images_left_stops_no_hold(bench: StoreBench) -> None:
    _delivered(bench, "1.2.1")
    _reject_image(bench, "1.2.1.1")
    (job,) = bench.claim()
    note = _settle_with_note(bench, job)
    bench.screened("1.2.2", PACS)
    (again,) = bench.destinations.hold_finding("Mass", "me", "drift")
    (made,) = bench.claim()
    assert (made.job_id, made.study_instance_uid) == (again, "1.2.2")
    assert bench.destinations.held_findings() == ("Mass",)
    assert note in [row.sop_instance_uid for row in bench.outbox.claim("pacs", 60, 9)]


def test_a_note_that_takes_results_back_is_sent_while_a_finding_is_on_hold(
    bench: StoreBench,
) -> None:
    _delivered(bench, "1.2.1", images=2)
    _reject_image(bench, "1.2.1.1")
    (job,) = bench.claim()
    note = _settle_with_note(bench, job)
    bench.destinations.hold_finding("Mass", "me", "drift")
    (delivery,) = bench.outbox.claim("pacs", 60, 9)
    assert delivery.sop_instance_uid == note
    assert bench.outbox.may_send(delivery)


def test_what_was_recalled_is_not_screened_again_for_a_finding_on_hold(bench: StoreBench) -> None:
    _delivered(bench, "1.2.1")
    since = bench.now - datetime.timedelta(hours=1)
    Recalls(bench.engine, lambda: bench.now).recall("ab" * 32, since, "me", "wrong weights")
    (job,) = bench.claim()
    assert job.cause == "recalled"
    _settle_with_note(bench, job)
    assert bench.destinations.hold_finding("Mass", "me", "drift") == ()
    assert bench.claim() == []
    assert len(bench.outbox.claim("pacs", 60, 9)) == 2, "the note and the notice"


def test_a_recall_under_way_is_not_undone_by_a_hold(bench: StoreBench) -> None:
    _delivered(bench, "1.2.1")
    since = bench.now - datetime.timedelta(hours=1)
    Recalls(bench.engine, lambda: bench.now).recall("ab" * 32, since, "me", "wrong weights")
    (job,) = bench.claim()
    assert bench.destinations.hold_finding("Mass", "me", "drift") == ()
    _settle_with_note(bench, job)
    assert len(bench.outbox.claim("pacs", 60, 9)) == 2


def test_a_report_that_was_being_made_is_not_sent_beside_the_one_without_the_finding(
    bench: StoreBench,
) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    (again,) = bench.destinations.hold_finding("Mass", "me", "drift")
    bench.settle(job, PACS)
    (second,) = bench.claim()
    assert (second.job_id, second.predecessor_job_id) == (again, None)
    bench.settle(second, PACS)
    bench.destinations.release_finding("Mass", "me", "mended")
    assert [row.job_id for row in bench.outbox.claim("pacs", 60, 9)] == [again]


def test_a_report_made_while_a_finding_went_on_and_off_hold_is_sent(bench: StoreBench) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    bench.destinations.hold_finding("Mass", "me", "drift")
    bench.destinations.release_finding("Mass", "me", "a mistake")
    bench.settle(job, PACS)
    assert [row.job_id for row in bench.outbox.claim("pacs", 60, 9)] == [job.job_id]
