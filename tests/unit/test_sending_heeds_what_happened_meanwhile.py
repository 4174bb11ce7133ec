"""Between the claim of an object and its C-STORE: a hold, a locked database, a clock put back."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from prescreen import pipeline
from prescreen.dicom.send import Sender
from prescreen.errors import StoreError
from prescreen.store import audit, reader
from prescreen.study import Delivery
from tests.routes import Peer, route
from tests.store_bench import PACS, StoreBench, live


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return live(tmp_path)


def _claimed(bench: StoreBench) -> Delivery:
    bench.screened("1.2.1", PACS)
    (delivery,) = bench.outbox.claim("pacs", 60)
    delivery.path.parent.mkdir(exist_ok=True)
    delivery.path.write_bytes(b"a report")
    return delivery


@pytest.mark.parametrize("while_it", ["check", "ready"])
def test_a_hold_given_while_the_peer_is_asked_or_called_stops_the_first_object(
    bench: StoreBench, while_it: str
) -> None:
    delivery, peer = _claimed(bench), Peer()

    def takes_long(what: Any) -> bool:
        bench.destinations.hold("pacs", "me", "stop")
        return True

    pipeline.deliver([delivery], route(bench, peer, **{while_it: takes_long}))
    assert peer.sent == []
    bench.destinations.release("pacs", "me", "go on")
    (again,) = bench.outbox.claim("pacs", 60)
    assert again.attempt == 1, "it was not tried"
    pipeline.deliver([again], route(bench, peer))
    assert peer.sent == [delivery.path.name]


def _locked() -> StoreError:
    error = StoreError("prescreen.db: database is locked")
    error.retryable = True
    return error


def test_a_condition_of_ours_that_passes_parks_nothing(bench: StoreBench) -> None:
    delivery = _claimed(bench)
    pipeline.deliver([delivery], route(bench, Peer({delivery.path.name: _locked()})))
    assert reader.status(bench.engine, bench.now).deliveries == {"pacs": {"pending": 1}}
    assert [e.kind for e in audit.events(bench.engine)][-1] == "object.retried"
    bench.wait(3_600)
    assert len(bench.outbox.claim("pacs", 60)) == 1


def test_what_cannot_be_read_for_good_waits_for_a_person(bench: StoreBench) -> None:
    delivery, gone = _claimed(bench), StoreError("report.dcm: is not a DICOM file")
    pipeline.deliver([delivery], route(bench, Peer({delivery.path.name: gone})))
    assert reader.status(bench.engine, bench.now).deliveries == {"pacs": {"parked": 1}}


@pytest.mark.parametrize(
    ("number", "passes"), [(errno.EMFILE, True), (errno.EIO, True), (errno.ENOENT, False)]
)
def test_a_file_that_may_be_readable_later_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def fails(path: Path) -> bytes:
        raise OSError(number, "cannot")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        Sender(PACS, "PRESCREEN").send(tmp_path / "report.dcm")
    assert caught.value.retryable is passes


def test_a_clock_that_was_put_back_cancels_no_report(bench: StoreBench) -> None:
    bench.wait(7_200)
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.1", 2, patient_id="CANARY2")
    assert "report.overtaken" in [event.kind for event in audit.events(bench.engine)]
    bench.wait(-7_200)
    bench.keep("1.2.1", 3, patient_id="CANARY2")
    (job,) = bench.claim()
    bench.settle(job, PACS)
    (delivery,) = bench.outbox.claim("pacs", 60)
    assert delivery.job_id == job.job_id
    assert not bench.outbox.let_go_overtaken(delivery)


def test_what_a_correction_overtook_is_let_go_whatever_the_clock_says(bench: StoreBench) -> None:
    bench.wait(7_200)
    bench.screened("1.2.1", PACS)
    (delivery,) = bench.outbox.claim("pacs", 60)
    bench.wait(-7_200)
    bench.keep("1.2.1", 2, patient_id="CANARY2")
    assert bench.outbox.let_go_overtaken(delivery)
