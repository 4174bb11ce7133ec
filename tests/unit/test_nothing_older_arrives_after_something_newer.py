"""A report that waited while a later one of its study was delivered: not sent, told, kept."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prescreen import pipeline
from prescreen.errors import NotThere
from prescreen.settings import Destination
from prescreen.store import audit, overtaken, reader
from prescreen.store.database import reading, writing
from prescreen.store.outbox import Unparked
from prescreen.study import Audience, Delivery, Job, Outcome, ResultObject, generate_uid
from tests.routes import Peer, route
from tests.store_bench import PACS, StoreBench, live, report, result

STUDY, FIRST, SECOND = "1.2.1", "1.2.1.1", "1.2.1.2"


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return live(tmp_path)


def _report(kind: str = "sr") -> ResultObject:
    return dataclasses.replace(report(Audience.RELEASE), kind=kind)


def _capture(source: str) -> ResultObject:
    sop, series, name = generate_uid(), generate_uid(), f"capture-{source}.dcm"
    return ResultObject("capture", Audience.RELEASE, "1.2.4", sop, series, name, None, source)


def _answered(bench: StoreBench, job: Job, *objects: ResultObject, to: Any = PACS) -> None:
    answers = [(i, result(i.sop_instance_uid, STUDY)) for i in job.instances]
    bench.queue.settle(job, Outcome.SCREENED, None, answers, objects, [to])


def _screened(bench: StoreBench, image: int, *objects: ResultObject) -> Job:
    bench.keep(STUDY, image)
    (job,) = bench.claim()
    _answered(bench, job, *objects)
    return job


def _rescreened(bench: StoreBench, *objects: ResultObject) -> Job:
    bench.queue.rescreen(STUDY, "me", "once more")
    (job,) = bench.claim()
    _answered(bench, job, *objects)
    return job


def _claimed(bench: StoreBench) -> list[Delivery]:
    return bench.outbox.claim("pacs", 60, 9)


def _park(bench: StoreBench) -> None:
    for delivery in _claimed(bench):
        bench.outbox.park(delivery, "the PACS will not", 0x0124)


def _deliver(bench: StoreBench) -> None:
    for delivery in _claimed(bench):
        bench.outbox.delivered(delivery, 0)


def test_a_parked_report_that_a_later_one_overtook_is_not_sent(bench: StoreBench) -> None:
    first = _screened(bench, 1, _report())
    _park(bench)
    later = _screened(bench, 2, _report())
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(0, {STUDY: later.job_id})
    assert _claimed(bench) == []
    (row, _) = reader.show(bench.engine, STUDY).deliveries
    assert (row["job_id"], row["state"]) == (first.job_id, "cancelled")
    assert row["error"] == (
        f"overtaken: job {later.job_id} answered its study anew, and that was delivered; it is not "
        "sent any more; `prescreen rescreen` makes the report once more"
    )
    assert reader.parked(bench.engine) == ()
    told = [e for e in audit.events(bench.engine) if e.kind == "object.cancelled"][-1]
    assert (told.detail["who"], told.detail["why"]) == ("me", "allowed now")
    assert (told.job_id, told.detail["overtaken_by"]) == (first.job_id, later.job_id)
    with pytest.raises(NotThere, match="nothing is parked"):
        bench.outbox.unpark("me", "once more")


def test_who_retries_is_told_which_study_and_what_to_do(bench: StoreBench, tmp_path: Path) -> None:
    _screened(bench, 1, _report())
    _park(bench)
    later = _screened(bench, 2, _report())
    _deliver(bench)
    config = tmp_path / "prescreen.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n')
    command = [sys.executable, "-m", "prescreen", "retry", "--config", str(config)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == (
        "0 parked objects are due again\n"
        f"study {STUDY}: what was parked is not sent: job {later.job_id} answered the study anew, "
        f"and that was delivered; `prescreen rescreen {STUDY}` makes the report once more\n"
    )


def test_what_nothing_overtook_is_sent_beside_it(bench: StoreBench) -> None:
    bench.screened("1.2.2", PACS)
    _screened(bench, 1, _report())
    _park(bench)
    later = _rescreened(bench, _report())
    _deliver(bench)
    assert bench.outbox.unpark("me", "all of it") == Unparked(1, {STUDY: later.job_id})
    (delivery,) = _claimed(bench)
    assert delivery.study_instance_uid == "1.2.2"


def test_what_was_not_delivered_overtakes_nothing(bench: StoreBench) -> None:
    """Both are parked, or the later one is still on its way: they go in their order."""
    first, later = _screened(bench, 1, _report()), _screened(bench, 2, _report())
    _park(bench)
    assert bench.outbox.unpark("me", "all of it") == Unparked(2, {})
    assert [delivery.job_id for delivery in _claimed(bench)] == [first.job_id, later.job_id]


def test_what_another_destination_got_overtakes_nothing(bench: StoreBench) -> None:
    other = Destination(name="other", ae_title="OTHER", host="127.0.0.1", port=11113)
    bench.destinations.go_live("other", "me", "test")
    _screened(bench, 1, _report())
    _park(bench)
    bench.queue.rescreen(STUDY, "me", "for the other one")
    (job,) = bench.claim()
    _answered(bench, job, _report(), to=other)
    (delivery,) = bench.outbox.claim("other", 60)
    bench.outbox.delivered(delivery, 0)
    assert bench.outbox.unpark("me", "allowed now", destination="pacs") == Unparked(1, {})


def test_a_capture_is_overtaken_by_what_speaks_of_its_image_alone(bench: StoreBench) -> None:
    """The job of a late image makes none of the first: the parked one is all there is."""
    _screened(bench, 1, _report(), _capture(FIRST))
    _park(bench)
    late = _screened(bench, 2, _report(), _capture(SECOND))
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(1, {STUDY: late.job_id})
    (delivery,) = _claimed(bench)
    assert delivery.kind == "capture"
    bench.outbox.park(delivery, "the PACS still will not", 0x0124)
    again = _rescreened(bench, _report(), _capture(FIRST), _capture(SECOND))
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(0, {STUDY: again.job_id})


def test_regions_are_overtaken_by_a_job_of_all_their_images(bench: StoreBench) -> None:
    _screened(bench, 1, _report("regions"))
    _park(bench)
    _screened(bench, 2, _report("regions"))
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(1, {})
    _park(bench)
    again = _rescreened(bench, _report("regions"))
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(0, {STUDY: again.job_id})


def test_what_takes_back_is_overtaken_by_nothing(bench: StoreBench) -> None:
    note = dataclasses.replace(_report("rejection"), destination="pacs")
    _screened(bench, 1, note)
    _park(bench)
    _screened(bench, 2, _report())
    _deliver(bench)
    assert bench.outbox.unpark("me", "allowed now") == Unparked(1, {})
    peer = Peer()
    pipeline.deliver(_written(_claimed(bench)), route(bench, peer))
    assert len(peer.sent) == 1


def _written(deliveries: list[Delivery]) -> list[Delivery]:
    for delivery in deliveries:
        delivery.path.parent.mkdir(exist_ok=True)
        delivery.path.write_bytes(b"a report")
    return deliveries


def _overtaken_while_it_waits(bench: StoreBench) -> int:
    """A report that the PACS refuses for now, and a later one that it takes meanwhile."""
    _screened(bench, 1, _report())
    (delivery,) = _claimed(bench)
    bench.outbox.retry(delivery, 3_600, "refused", 0xC000)
    later = _screened(bench, 2, _report())
    _deliver(bench)
    bench.wait(3_600)
    return later.job_id


def test_what_is_tried_again_slowly_is_not_sent_after_a_later_report(bench: StoreBench) -> None:
    later, peer = _overtaken_while_it_waits(bench), Peer()
    pipeline.deliver(_written(_claimed(bench)), route(bench, peer))
    assert peer.sent == []
    (row, _) = reader.show(bench.engine, STUDY).deliveries
    assert (row["state"], row["attempts"]) == ("cancelled", 1)
    assert str(row["error"]).startswith(f"overtaken: job {later} answered")
    told = [e for e in audit.events(bench.engine) if e.kind == "object.cancelled"][-1]
    assert told.detail["overtaken_by"] == later


def test_what_a_peer_took_and_lost_is_sent_again_all_the_same(bench: StoreBench) -> None:
    """It was there before the later one, and its place is beside it."""
    _overtaken_while_it_waits(bench)
    with writing(bench.engine) as connection:
        connection.exec_driver_sql("UPDATE outbox SET losses = 1 WHERE state = 'pending'")
    peer = Peer()
    pipeline.deliver(_written(_claimed(bench)), route(bench, peer))
    assert len(peer.sent) == 1


def _steps(bench: StoreBench, outbox_id: int) -> int:
    """How many instructions SQLite takes to look for a later report."""
    counted: list[None] = []
    with reading(bench.engine) as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: counted.append(None), 1)
        overtaken.overtaken_on_its_way(connection, outbox_id)
        driver.set_progress_handler(None, 0)
    return len(counted)


def test_what_was_delivered_of_other_studies_is_not_looked_through(bench: StoreBench) -> None:
    _screened(bench, 1, _report())
    (delivery,) = _claimed(bench)
    taken = []
    for number in range(20):
        bench.screened(f"1.3.{number}", PACS)
        _deliver(bench)
        taken.append(_steps(bench, delivery.outbox_id))
    assert taken == taken[:1] * 20
