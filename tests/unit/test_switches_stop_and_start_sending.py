"""Silent, live, held, parked, fallback: what leaves the outbox and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.errors import LeaseLost, NotThere, StoreError
from prescreen.store import audit, reader
from tests.store_bench import LAB, PACS, StoreBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    yield bench
    bench.engine.dispose()


@pytest.fixture
def live(bench: StoreBench) -> StoreBench:
    bench.destinations.go_live("pacs", "me", "test")
    return bench


def test_fresh_database_sends_to_test_destinations_alone(bench: StoreBench) -> None:
    bench.screened("1.2", PACS, LAB)
    bench.destinations.go_live("pacs", "me", "test")
    assert bench.outbox.claim("pacs", 60) == []
    assert len(bench.outbox.claim("lab", 60, 9)) == 1
    states = reader.status(bench.engine, bench.now).deliveries
    assert states == {"pacs": {"held": 1}, "lab": {"pending": 1}}


def test_silenced_destination_gets_nothing_new(live: StoreBench) -> None:
    live.destinations.go_silent("pacs", "me", "test")
    live.screened("1.2", PACS)
    assert live.outbox.claim("pacs", 60) == []


def test_each_switch_says_who_and_why(live: StoreBench) -> None:
    live.destinations.hold(None, "anna", "storm")
    live.destinations.hold_finding("Mass", "ben", "drift")
    live.destinations.release_finding("Mass", "ben", "mended")
    live.destinations.release(None, "anna", "calm")
    events = audit.events(live.engine, after=1)
    assert [(e.kind, e.detail["who"], e.detail["why"]) for e in events] == [
        ("destination.held", "anna", "storm"),
        ("finding.held", "ben", "drift"),
        ("finding.released", "ben", "mended"),
        ("destination.released", "anna", "calm"),
    ]
    assert [s.name for s in live.destinations.standings()] == ["*", "pacs"]


def test_finding_on_hold_stops_reports_made_before_and_makes_them_again(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    (again,) = live.destinations.hold_finding("Mass", "me", "drift")
    assert live.outbox.claim("pacs", 60) == []
    (job,) = live.claim()
    assert (job.job_id, job.held_findings) == (again, frozenset({"Mass"}))
    assert job.predecessor_job_id is None  # the first report was cancelled, nobody has it
    live.settle(job, PACS)
    (delivery,) = live.outbox.claim("pacs", 60, 9)
    assert delivery.job_id == again


def test_finding_on_hold_stops_a_report_that_was_tried(live: StoreBench) -> None:
    first = live.screened("1.2", PACS)
    (delivery,) = live.outbox.claim("pacs", 60)
    live.outbox.retry(delivery, 0, "away")
    live.destinations.hold_finding("Mass", "me", "drift")
    assert live.outbox.claim("pacs", 60) == []
    (job,) = live.claim()
    assert job.predecessor_job_id == first.job_id


def test_unknown_finding_is_named(bench: StoreBench) -> None:
    with pytest.raises(StoreError, match="'mass' is no finding"):
        bench.destinations.hold_finding("mass", "me", "drift")


def test_fallback_is_chosen_once_and_for_good(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    (delivery,) = live.outbox.claim("pacs", 60)
    chosen = live.outbox.use_fallback(delivery)
    assert chosen.uses_fallback
    live.outbox.retry(chosen, 5, "away")
    live.wait(5)
    (again,) = live.outbox.claim("pacs", 60)
    assert (again.uses_fallback, again.attempt) == (True, 2)
    with pytest.raises(LeaseLost):
        live.outbox.delivered(delivery, 0)
    live.outbox.delivered(again, 0xB000)
    (row,) = reader.show(live.engine, "1.2").deliveries
    assert row["sop_instance_uid"] == again.fallback_sop_instance_uid
    assert (row["state"], row["last_status"]) == ("delivered", "0xB000")


def test_first_refusal_is_remembered_until_a_person_sends_it_again(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    since = live.now
    for status in (0xC000, 0x0110):
        (delivery,) = live.outbox.claim("pacs", 60)
        live.outbox.retry(delivery, 10, "refused", status)
        live.wait(10)
    (delivery,) = live.outbox.claim("pacs", 60)
    assert delivery.refused_since == since
    live.outbox.park(delivery, "refused for a day", 0xC000)
    (row,) = reader.parked(live.engine)
    assert (row["error"], row["last_status"]) == ("refused for a day", "0xC000")
    live.outbox.unpark("me", "mended", outbox_id=delivery.outbox_id)
    (delivery,) = live.outbox.claim("pacs", 60)
    assert delivery.refused_since is None


def test_peer_that_is_back_gets_everything_at_once(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    (delivery,) = live.outbox.claim("pacs", 60)
    live.outbox.retry(delivery, 10_000, "away")
    assert live.outbox.claim("pacs", 60) == []
    assert live.outbox.due_now("pacs") == 1
    assert len(live.outbox.claim("pacs", 60)) == 1


def test_lease_of_a_row_can_be_renewed(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    (delivery,) = live.outbox.claim("pacs", 60)
    live.wait(50)
    live.outbox.renew(delivery, 60)
    live.wait(50)
    assert live.outbox.claim("pacs", 60) == []
    live.outbox.delivered(delivery, 0)


def test_what_is_parked_can_be_given_up(live: StoreBench) -> None:
    live.screened("1.2", PACS)
    live.screened("1.3", PACS)
    first, second = live.outbox.claim("pacs", 60, 9)
    with pytest.raises(NotThere, match="nothing of that is parked"):
        live.outbox.give_up("me", "in hand", outbox_id=first.outbox_id)
    for delivery in (first, second):
        live.outbox.park(delivery, "has no study")
    live.wait(86_400)
    assert live.retention.expire(live.now) == []
    assert live.outbox.give_up("me", "deleted on purpose", outbox_id=first.outbox_id) == 1
    (row,) = reader.parked(live.engine)
    assert row["outbox_id"] == second.outbox_id
    (event,) = audit.events(live.engine, kind="object.cancelled")
    assert event.study_instance_uid == first.study_instance_uid
    assert (event.detail["who"], event.detail["why"]) == ("me", "deleted on purpose")
    assert len(live.retention.expire(live.now)) == 2, "its results and its image"
    assert live.outbox.give_up("me", "all of it", destination="pacs") == 1
    assert reader.parked(live.engine) == ()


def test_what_waits_for_a_destination_that_is_gone_can_be_given_up(live: StoreBench) -> None:
    live.screened("1.1", PACS)
    (delivery,) = live.outbox.claim("pacs", 60)
    live.outbox.delivered(delivery, 0, prove=True)
    live.screened("1.2", PACS, LAB)
    live.wait(86_400)
    with pytest.raises(NotThere, match="nothing of that is parked"):
        live.outbox.give_up("me", "it is there", destination="pacs")
    assert live.retention.expire(live.now) == []
    assert live.outbox.give_up("me", "taken out", destination="pacs", is_gone=True) == 1
    assert live.outbox.claim("pacs", 60) == []
    for delivery in live.outbox.claim("lab", 60):
        live.outbox.delivered(delivery, 0)
    live.wait(1)
    assert len(live.retention.expire(live.now)) == 4
    with pytest.raises(NotThere):
        live.outbox.give_up("me", "again", destination="pacs", is_gone=True)
