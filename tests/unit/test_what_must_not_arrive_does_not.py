"""Corrections, holds, what cannot be sent: what must not arrive does not, and the rest does."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prescreen import lightbox, pipeline, reporting, screening
from prescreen.errors import NotThere, UnusableImage
from prescreen.settings import Scope
from prescreen.store import audit, disputes, reader
from prescreen.store.answers import Answer
from prescreen.store.corrections import Corrections
from prescreen.store.database import writing
from prescreen.study import Disposition, Header, ImageResult, Instance, Outcome, Radiograph
from tests.pictures import data_set, part10, ramp
from tests.routes import Peer, route
from tests.store_bench import CANARY, PACS, StoreBench, live, result


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return live(tmp_path)


def _states(bench: StoreBench, study: str) -> list[str]:
    return [str(row["state"]) for row in reader.show(bench.engine, study).deliveries]


def test_a_report_under_an_old_identity_is_withdrawn_also_if_it_was_tried(
    bench: StoreBench,
) -> None:
    bench.screened("1.2.1", PACS)
    (row,) = bench.outbox.claim("pacs", 60)
    bench.outbox.retry(row, 5, "the peer is away")
    bench.keep("1.2.1", 2, patient_id="CANARYOTHER")
    assert _states(bench, "1.2.1") == ["cancelled"]
    (job,) = bench.claim()
    assert job.predecessor_job_id is not None, "it was tried: the PACS may have it"


def test_what_is_not_for_screening_takes_no_report_back(bench: StoreBench) -> None:
    """A dose report, or a result of ours that comes back, with other carets in the name."""
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.1", 2, screenable=False, patient_name="CANARY^NAME^^")
    assert _states(bench, "1.2.1") == ["pending"]
    assert bench.claim() == []
    bench.keep("1.2.1", 3, patient_name="CANARY^NAME^^")
    assert _states(bench, "1.2.1") == ["cancelled"]


def test_a_report_that_was_withdrawn_is_made_again_whatever_came(bench: StoreBench) -> None:
    """The new image may be out of scope, and then answers for nothing by itself."""
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.1", 2, accession_number="CANARYCORR")
    (job,) = bench.claim()
    assert [i.sop_instance_uid for i in job.instances] == ["1.2.1.1", "1.2.1.2"]
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1") == ["cancelled", "pending"]


@pytest.mark.parametrize(
    "correction",
    [
        {"image": 2, "patient_id": "CANARYOTHER"},
        {"image": 2, "accession_number": "CANARYCORR"},
        {"image": 1, "content": b"corrected", "patient_id": "CANARYOTHER"},
    ],
    ids=["patient", "order", "revision"],
)
def test_a_report_that_a_correction_overtook_is_left_to_the_next(
    bench: StoreBench, correction: dict[str, Any]
) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    bench.keep("1.2.1", **correction)
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1") == ["cancelled"]
    assert bench.outbox.claim("pacs", 60) == []
    (later,) = bench.claim()
    assert len(later.instances) == 2, "all that is kept of the study"
    assert later.predecessor_job_id is None, "nobody has what was overtaken"
    (event,) = audit.events(bench.engine, kind="report.overtaken")
    assert (event.job_id, event.detail) == (job.job_id, {"next_job_id": later.job_id})
    bench.settle(later, PACS)
    assert _states(bench, "1.2.1") == ["cancelled", "pending"]


def test_what_an_earlier_attempt_wrote_is_overtaken_all_the_same(bench: StoreBench) -> None:
    """The worker died when the report was written; the correction came before the next claim."""
    bench.keep("1.2.1", 1)
    bench.claim()
    bench.keep("1.2.1", 2, patient_id="CANARYOTHER")
    bench.wait(301)
    (again,) = bench.claim()
    assert again.attempt == 2
    bench.settle(again, PACS)
    assert _states(bench, "1.2.1") == ["cancelled"]


@pytest.mark.parametrize("screenable", [True, False])
def test_an_image_of_the_same_patient_overtakes_nothing(
    bench: StoreBench, screenable: bool
) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    who = CANARY["patient_id"] if screenable else "CANARYOTHER"
    bench.keep("1.2.1", 2, screenable=screenable, patient_id=who)
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1") == ["pending"]


def test_what_is_in_a_senders_hand_is_left_to_it(bench: StoreBench) -> None:
    bench.screened("1.2.1", PACS)
    (row,) = bench.outbox.claim("pacs", 60)
    bench.keep("1.2.1", 2, patient_id="CANARYOTHER")
    bench.outbox.delivered(row, 0)
    assert _states(bench, "1.2.1") == ["delivered"]


def test_what_comes_back_from_a_senders_hand_is_not_sent(bench: StoreBench) -> None:
    """It was in hand when the correction came, so that it was not withdrawn."""
    bench.screened("1.2.1", PACS)
    (row,) = bench.outbox.claim("pacs", 60)
    bench.wait(1)
    bench.keep("1.2.1", 2, patient_id="CANARYANOTHER")
    bench.outbox.retry(row, 5, "the peer is away")
    bench.wait(6)
    peer = Peer()
    pipeline.deliver(bench.outbox.claim("pacs", 60), route(bench, peer))
    assert peer.sent == []
    assert _states(bench, "1.2.1") == ["cancelled"]


def _corrected(bench: StoreBench, study: str, **told: str) -> None:
    """What C-FIND makes of a study whose report is about to be sent."""
    (row, *_) = bench.outbox.claim("pacs", 60, 9)
    bench.wait(1)
    corrections = Corrections(bench.engine, lambda: bench.now)
    assert corrections.correct(row, bench.outbox.identity(study), told) is None


def test_what_an_archive_says_overtakes_the_report_in_work(bench: StoreBench) -> None:
    """Also one that an attempt before the correction wrote."""
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.1", 2)
    (job,) = bench.claim()
    _corrected(bench, "1.2.1", patient_id="CANARYMERGED")
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1") == ["cancelled", "cancelled"]
    (again,) = bench.claim()
    told = [image.correction for image in again.instances]
    assert [one.patient_id for one in told if one] == ["CANARYMERGED", "CANARYMERGED"]
    bench.settle(again, PACS)
    assert _states(bench, "1.2.1") == ["cancelled", "cancelled", "pending"]


def test_a_correction_is_of_the_images_of_that_patient_alone(bench: StoreBench) -> None:
    bench.keep("1.2.1", 1, patient_id="CANARYSTRANGER")
    bench.keep("1.2.1", 2)
    (job,) = bench.claim()
    bench.settle(job, PACS)
    _corrected(bench, "1.2.1", patient_id="CANARYMERGED")
    (job,) = bench.claim()
    assert [image.correction is not None for image in job.instances] == [False, True]


def test_what_comes_under_the_old_identity_is_not_taken_for_corrected(bench: StoreBench) -> None:
    bench.screened("1.2.1", PACS)
    _corrected(bench, "1.2.1", patient_id="CANARYMERGED", patient_name="")
    bench.keep("1.2.1", 2)
    assert bench.outbox.identity("1.2.1")["patient_id"] == CANARY["patient_id"]
    (job,) = bench.claim()
    assert [image.correction is not None for image in job.instances] == [True, False]


def test_a_correction_that_came_too_late_changes_nothing(bench: StoreBench) -> None:
    """Between the question and its answer the images came corrected."""
    bench.screened("1.2.1", PACS)
    known = bench.outbox.identity("1.2.1")
    (row,) = bench.outbox.claim("pacs", 60)
    bench.keep("1.2.1", 2, patient_id="CANARYRIGHT")
    corrections = Corrections(bench.engine, lambda: bench.now)
    assert corrections.correct(row, known, {"patient_id": "CANARYMERGED"}) is None
    assert bench.outbox.identity("1.2.1")["patient_id"] == "CANARYRIGHT"
    assert _states(bench, "1.2.1") == ["cancelled"]


def test_what_was_urgent_is_made_again_as_urgently(bench: StoreBench) -> None:
    bench.screened("1.2.1", PACS)
    with writing(bench.engine) as connection:
        connection.exec_driver_sql("UPDATE job SET priority = 10")
    _corrected(bench, "1.2.1", patient_id="CANARYMERGED")
    (job,) = bench.claim()
    assert job.priority == 10


OTHER: dict[str, Any] = {"patient_id": "CANARYOTHER"}


def test_a_correction_of_an_image_takes_back_what_waits_before_it_is_told_apart(
    bench: StoreBench,
) -> None:
    """The same instance with other bytes: whether pixels or header differ is not known yet."""
    bench.screened("1.2.1", PACS)
    assert bench.keep("1.2.1", 1, b"corrected", **OTHER) is Disposition.AGAIN
    assert _states(bench, "1.2.1") == ["cancelled"]
    assert bench.outbox.claim("pacs", 60) == []
    (job,) = bench.claim()
    assert len(job.instances) == 2, "all that is kept of the study"
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1") == ["cancelled", "pending"]


def test_the_same_image_again_of_the_same_patient_takes_nothing_back(bench: StoreBench) -> None:
    bench.screened("1.2.1", PACS)
    assert bench.keep("1.2.1", 1, b"coerced") is Disposition.AGAIN
    assert _states(bench, "1.2.1") == ["pending"]


def test_a_correction_of_an_image_reaches_what_comes_back_from_a_senders_hand(
    bench: StoreBench,
) -> None:
    bench.screened("1.2.1", PACS)
    (row,) = bench.outbox.claim("pacs", 60)
    bench.wait(1)
    bench.keep("1.2.1", 1, b"corrected", **OTHER)
    bench.outbox.retry(row, 5, "the peer is away")
    bench.wait(6)
    peer = Peer()
    pipeline.deliver(bench.outbox.claim("pacs", 60), route(bench, peer))
    assert peer.sent == []
    assert _states(bench, "1.2.1") == ["cancelled"]
    (job,) = bench.claim()
    assert len(job.instances) == 2, "all that is kept of the study"


def test_a_correction_reaches_what_was_claimed_and_not_begun(bench: StoreBench) -> None:
    for study in ("1.2.1", "1.2.2"):
        bench.screened(study, PACS)
    bench.wait(1)
    peer = Peer()
    peer.before_each = lambda: bench.keep("1.2.2", 2, **OTHER)
    pipeline.deliver(bench.outbox.claim("pacs", 60, 2), route(bench, peer))
    assert len(peer.sent) == 1
    assert _states(bench, "1.2.1") == ["delivered"]
    assert _states(bench, "1.2.2") == ["cancelled"]


def _alternate(bench: StoreBench, number: int, while_screening: bool) -> None:
    """One more image of the study, every second one of another patient, and its job."""
    who: dict[str, Any] = OTHER if number % 2 else {}
    if while_screening and (jobs := bench.claim()):
        bench.keep("1.2.1", number, **who)
        bench.settle(jobs[0], PACS)
        return
    bench.keep("1.2.1", number, **who)
    if not while_screening:
        (job,) = bench.claim()
        bench.settle(job, PACS)


@pytest.mark.parametrize("while_screening", [True, False])
def test_who_alternates_patients_does_not_postpone_a_report_for_ever(
    bench: StoreBench, while_screening: bool
) -> None:
    for number in range(disputes.MOST):
        _alternate(bench, number, while_screening)
    assert reader.parked(bench.engine) == ()
    for number in range(disputes.MOST, disputes.MOST + 2):
        _alternate(bench, number, while_screening)
    (parked,) = reader.parked(bench.engine)
    assert parked["error"].startswith("identity disputed: ")
    for number in range(disputes.MOST + 2, disputes.MOST + 6):
        _alternate(bench, number, while_screening)
        assert len(reader.parked(bench.engine)) == 1, "the newest alone"
    told = audit.events(bench.engine, kind="study.identity_disputed")
    assert told[0].detail == {"reports_overtaken": disputes.MOST}
    assert set(_states(bench, "1.2.1")) == {"cancelled", "parked"}


def _disputed(bench: StoreBench) -> None:
    for number in range(disputes.MOST + 2):
        _alternate(bench, number, while_screening=False)


def test_what_is_disputed_is_not_sent_with_what_else_is_parked(bench: StoreBench) -> None:
    _disputed(bench)
    with pytest.raises(NotThere, match="nothing is parked"):
        bench.outbox.unpark("me", "the archive has room again")


def test_a_person_has_a_disputed_report_made_anew(bench: StoreBench) -> None:
    _disputed(bench)
    bench.queue.rescreen("1.2.1", "me", "it was corrected in the archive")
    (job,) = bench.claim()
    bench.settle(job, PACS)
    assert _states(bench, "1.2.1")[-1] == "pending"
    assert reader.parked(bench.engine) == ()


def test_a_dispute_is_over_after_a_day(bench: StoreBench) -> None:
    _disputed(bench)
    bench.wait(disputes.WITHIN.total_seconds())
    _alternate(bench, 100, while_screening=False)
    assert _states(bench, "1.2.1")[-1] == "pending"


def test_a_silent_report_is_nobodys_predecessor(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    bench.screened("1.2.1", PACS)
    assert _states(bench, "1.2.1") == ["held"]
    bench.keep("1.2.1", 2)
    (job,) = bench.claim()
    assert job.predecessor_job_id is None


def test_a_hold_stops_what_was_claimed_already(bench: StoreBench) -> None:
    for study in ("1.2.1", "1.2.2", "1.2.3"):
        bench.screened(study, PACS)
    peer = Peer()
    peer.before_each = lambda: bench.destinations.hold("pacs", "me", "looks wrong")
    pipeline.deliver(bench.outbox.claim("pacs", 60, 3), route(bench, peer))
    assert len(peer.sent) == 1
    bench.destinations.release("pacs", "me", "looked into")
    bench.wait(1)
    left = bench.outbox.claim("pacs", 60, 3)
    assert [row.attempt for row in left] == [1, 1], "they were not tried"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("cannot encode"), "parked"),
        (FileNotFoundError(2, "No such file"), "parked"),
        (OSError(24, "Too many open files"), "pending"),
    ],
)
def test_an_object_that_cannot_be_sent_stops_nothing_behind_it(
    bench: StoreBench, error: Exception, state: str
) -> None:
    bench.screened("1.2.1", PACS)
    bench.screened("1.2.2", PACS)
    claimed = bench.outbox.claim("pacs", 60, 2)
    poison = claimed[0].path.name
    peer = Peer({poison: error})

    pipeline.deliver(claimed[:1], route(bench, peer))
    pipeline.deliver(claimed[1:], route(bench, Peer()))
    assert _states(bench, "1.2.1") == [state]
    assert _states(bench, "1.2.2") == ["delivered"]


def test_a_rescreen_takes_the_newest_version_of_an_instance(bench: StoreBench) -> None:
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.1", 1, b"corrected", patient_id="CANARYRIGHT")
    (job,) = bench.claim()
    again = job.instances[-1]
    bench.queue.settle(
        job, Outcome.SCREENED, None, [Answer(again, _answer(again), Disposition.REVISION)], [], []
    )
    bench.queue.rescreen("1.2.1", "me", "test")
    (rebuilt,) = bench.claim()
    assert [instance.instance_id for instance in rebuilt.instances] == [again.instance_id]


def _answer(instance: Instance) -> ImageResult:
    return result(instance.sop_instance_uid, instance.study_instance_uid)


def test_results_of_another_job_of_that_number_are_set_aside(bench: StoreBench) -> None:
    bench.keep("1.2.1", 1)
    (job,) = bench.claim()
    draft = bench.spool.draft(job.job_id)
    (draft / "manifest.json").write_text('{"study_instance_uid": "9.9", "answers": []}')
    bench.spool.publish(job.job_id, draft)
    assert reporting.published(job, bench.spool) is None
    assert bench.spool.results(job.job_id) is None
    assert list((bench.spool.root / "quarantine").glob("*.reason"))
    assert audit.verify(bench.engine).whole


class NoPixels:
    """Decodes nothing."""

    def read_all(self, paths: Sequence[Path], digested: bool = True) -> list[Any]:
        return [UnusableImage("cut short", reason="truncated") for _ in paths]


def _instance(number: int, disposition: Disposition, pixels: str | None) -> Instance:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return Instance(
        number, "1.2", "1.3", "1.4", "1.5", "1.6", "", 1, Path("x"), "CR", now,
        disposition=disposition, pixel_sha256=pixels,
    )  # fmt: skip


def test_a_copy_that_does_not_decode_takes_nothing_back() -> None:
    first = _instance(1, Disposition.NEW, "abc")
    again = lightbox.Image(_instance(2, Disposition.AGAIN, None), header=_header())
    told = screening._told_apart(again, [], NoPixels(), lambda uid: [first])
    assert told.disposition is Disposition.CONFLICT
    assert told.answer.result is None


def test_where_the_first_did_not_decode_the_second_is_the_first() -> None:
    first = _instance(1, Disposition.NEW, None)
    readable = lightbox.Image(
        _instance(2, Disposition.AGAIN, None), header=_header(), radiograph=_radiograph()
    )
    told = screening._told_apart(readable, [], NoPixels(), lambda uid: [first])
    assert told.disposition is Disposition.NEW


def test_the_age_of_a_radiograph_counts_to_when_it_first_came() -> None:
    came = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    first = _instance(1, Disposition.NEW, None)
    header = _header(acquired=came - datetime.timedelta(hours=47), patient_age=50.0)
    instance = Instance(**{**vars(first), "received_at": came})
    image = screening._asked(lightbox.Image(instance, header=header), Scope(), None)
    assert image.refused is None, "however long ago that is by now"
    old = _header(acquired=came - datetime.timedelta(hours=49), patient_age=50.0)
    refused = screening._asked(lightbox.Image(instance, header=old), Scope(), None).refused
    assert refused == (Outcome.OUT_OF_SCOPE, "prior")


def _header(**values: Any) -> Header:
    return Header("1.5", "1.4", "1.3", "1.2", modality="CR", **values)


def _radiograph() -> Radiograph:
    return Radiograph(_header(), np.zeros((4, 4), dtype=np.float32), (4, 4), None, "abc")


def test_a_job_that_failed_says_out_of_scope_of_what_was_never_in_it(tmp_path: Path) -> None:
    path = tmp_path / "knee.dcm"
    path.write_bytes(part10(data_set(ramp(), BodyPartExamined="KNEE")))
    instance = Instance(**{**vars(_instance(1, Disposition.NEW, None)), "path": path})
    image = screening.given_up(instance, "error", None)
    assert image.refused == (Outcome.OUT_OF_SCOPE, "body_part")
