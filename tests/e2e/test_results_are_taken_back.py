"""Rejection notes of the PACS, and `recall`: what must go does, and what must not come does not.

No screening here: every study is answered with a notice, which is a result like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prescreen import pipeline
from prescreen.dicom.rejection import KEY_OBJECT_SELECTION, rejection, rejection_note
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.dicom.send import Sender
from prescreen.line import Line
from prescreen.settings import Peer, Receive
from prescreen.store import audit, reader
from prescreen.store.queue import utc_now
from prescreen.store.recalls import Recalls
from prescreen.study import Incoming, Reference, Rejection, generate_uid
from tests import results
from tests.e2e.blind import answer, answered, kept
from tests.e2e.house import UNCLOSED, House, chest, house, listening

pytestmark = pytest.mark.filterwarnings(UNCLOSED)
LISTED = pytest.mark.shows_patients("a recall prints whose results to look for")

SHA = results.model().findings.sha256
LONG_AGO = "2020-01-01"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path, listens=False) as found:
        yield found


@contextmanager
def pacs(home: House) -> Iterator[None]:
    with listening(home.pacs, home.settings.destination("pacs").port):
        yield


def deliver(home: House) -> None:
    """Send all that is due, as the deliverer does."""
    to, engine = home.settings.destination("pacs"), home.store().engine
    with Sender(to, "PRESCREEN") as sender:
        line = Line(to, sender, "PRESCREEN", engine)
        while work := line.claim():
            line.deliver(work)


def note(path: Path, code: str) -> Path:
    """A rejection note as a PACS would write it, of the instance in a file."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    reference = Reference(
        str(ds.SOPClassUID),
        str(ds.SOPInstanceUID),
        str(ds.SeriesInstanceUID),
        str(ds.StudyInstanceUID),
    )
    part10 = rejection_note(
        path.read_bytes(),
        Rejection(code, (reference,)),
        manufacturer="PACS",
        made=utc_now(),
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        series_number=1,
    )
    written = pydicom.dcmread(BytesIO(part10))
    written.ManufacturerModelName = "archive"
    found = path.with_name(f"note-{code}-{path.name}")
    written.save_as(found)
    return found


def states(home: House, study: str) -> list[tuple[str, str]]:
    rows = reader.show(home.store().engine, study).deliveries
    return [(row["kind"], row["state"]) for row in rows]


def sent_notes(home: House, study: str) -> list[Rejection]:
    found = []
    for ds in home.pacs.of_study(study, KEY_OBJECT_SELECTION):
        stream = BytesIO()
        ds.save_as(stream)
        read = rejection(stream.getvalue())
        assert read is not None
        found.append(read)
    return found


def kinds(home: House, study: str | None = None) -> list[str]:
    events = audit.events(home.store().engine, study_instance_uid=study)
    return [event.kind for event in events]


def delivered_uids(home: House, study: str) -> set[str]:
    objects = home.pacs.of_study(study)
    return {str(ds.SOPInstanceUID) for ds in objects if ds.SOPClassUID != KEY_OBJECT_SELECTION}


# --- rejection notes of the PACS --------------------------------------------------------------


@pytest.mark.parametrize("code", ["113037", "113038", "113001", "113039"])
def test_what_was_sent_of_a_rejected_image_is_rejected_too(
    home: House, tmp_path: Path, code: str
) -> None:
    path = chest(tmp_path)
    study = answered(home, path)
    with pacs(home):
        deliver(home)
        sent = delivered_uids(home, study)
        assert len(sent) == 2
        kept(home, note(path, code))
        answer(home)
        deliver(home)
    (told,) = sent_notes(home, study)
    assert told.code == code
    assert {reference.sop_instance_uid for reference in told.references} == sent
    record = reader.show(home.store().engine, study)
    assert (record.study["outcome"], record.study["reason"]) == ("out_of_scope", "rejected")
    (image,) = [i for i in record.instances if i["disposition"] == "new"]
    assert image["rejected_code"] == code
    assert (image["removed_at"] is not None) == (code == "113039"), "its time is over here too"
    assert kinds(home).count("rejection.received") == 1
    assert audit.verify(home.store().engine).whole


def test_what_is_still_queued_never_leaves(home: House, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = answered(home, path)
    kept(home, note(path, "113037"))
    answer(home)
    with pacs(home):
        deliver(home)
    assert {state for _, state in states(home, study)} == {"cancelled"}
    assert home.pacs.received == [], "nobody has seen anything: there is nothing to take back"


def test_an_image_rejected_before_it_is_screened_is_not(home: House, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = kept(home, path)
    kept(home, note(path, "113038"))
    answer(home)
    assert states(home, study) == []
    assert home.row(study)["reason"] == "rejected"


def test_a_note_that_comes_before_its_image_counts(home: House, tmp_path: Path) -> None:
    path = chest(tmp_path)
    kept(home, note(path, "113037"))
    study = kept(home, path)
    answer(home)
    assert states(home, study) == []
    assert home.row(study)["outcome"] == "out_of_scope"


def test_the_rest_of_a_study_is_answered_again_without_it(home: House, tmp_path: Path) -> None:
    first = chest(tmp_path)
    uid = str(pydicom.dcmread(first).StudyInstanceUID)
    second = chest(tmp_path, StudyInstanceUID=uid)
    kept(home, first)
    study = answered(home, second)
    with pacs(home):
        deliver(home)
        before = delivered_uids(home, study)
        kept(home, note(first, "113037"))
        answer(home)
        deliver(home)
    (told,) = sent_notes(home, study)
    assert {reference.sop_instance_uid for reference in told.references} == before
    report = home.pacs.of_study(study, COMPREHENSIVE_3D_SR)[-1]
    assert str(report.SOPInstanceUID) not in before
    evidence = str(report.CurrentRequestedProcedureEvidenceSequence)
    named = [str(pydicom.dcmread(path).SOPInstanceUID) in evidence for path in (first, second)]
    assert named == [False, True]


def test_quality_rejections_are_site_policy(tmp_path: Path) -> None:
    with house(tmp_path, listens=False, more="") as home:
        ignoring = home.settings.screen.model_copy(update={"quality_rejections": "ignore"})
        path = chest(tmp_path)
        study = answered(home, path)
        _keep(home, note(path, "113001"), ignoring)
        assert {state for _, state in states(home, study)} == {"pending"}
        _keep(home, note(path, "113037"), ignoring)
        assert {state for _, state in states(home, study)} == {"cancelled"}


def test_who_may_not_reject_takes_nothing_back(home: House, tmp_path: Path) -> None:
    path = chest(tmp_path)
    study = answered(home, path)
    peers = Peer(ae_title="PACS", may_reject=False), Peer(ae_title="OTHER")
    receive = Receive(peers=peers)
    _keep(home, note(path, "113037"), home.settings.screen, receive.may_reject)
    assert {state for _, state in states(home, study)} == {"pending"}
    shown = reader.show(home.store().engine, study).instances[-1]
    assert (shown["disposition"], shown["removed_at"]) == ("ignored", None)
    (event,) = audit.events(home.store().engine, kind="instance.ignored")
    told = event.detail["calling_ae_title"], event.detail["reason"]
    assert told == ("PACS", "may_not_reject")
    assert not receive.may_reject("FORGOTTEN"), "it may have been any of them"
    _keep(home, note(path, "113038"), home.settings.screen, lambda calling: calling == "PACS")
    assert {state for _, state in states(home, study)} == {"cancelled"}


def _keep(
    home: House, path: Path, screen: Any, may_reject: Callable[[str], bool] = lambda calling: True
) -> None:
    ds = pydicom.dcmread(path)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID)
    incoming = Incoming(*uids, path.read_bytes(), "PACS", "PRESCREEN", "127.0.0.1")
    store = home.store()
    pipeline.keep(
        incoming,
        spool=store.spool,
        queue=store.queue,
        screen=screen,
        minimum_free=0,
        may_reject=may_reject,
    )


def test_a_key_object_selection_that_rejects_nothing_is_kept_and_ignored(
    home: House, tmp_path: Path
) -> None:
    path = chest(tmp_path)
    study = answered(home, path)
    harmless = pydicom.dcmread(note(path, "113037"))
    harmless.ConceptNameCodeSequence[0].CodeValue = "113000"  # Of Interest
    harmless.save_as(tmp_path / "of-interest.dcm")
    kept(home, tmp_path / "of-interest.dcm")
    assert {state for _, state in states(home, study)} == {"pending"}
    assert "rejection.received" not in kinds(home)


# --- recall -----------------------------------------------------------------------------------


def studies(home: House, folder: Path, number: int) -> list[str]:
    return [answered(home, chest(folder)) for _ in range(number)]


def recall(home: House, *more: str) -> tuple[int, str]:
    arguments = ("--weights", SHA[:12], "--since", LONG_AGO, "--why", "wrong threshold", *more)
    done = home.command("recall", *arguments)
    return done.returncode, done.stdout + done.stderr


@LISTED
def test_a_recall_cancels_first_then_rejects_and_replaces(home: House, tmp_path: Path) -> None:
    with pacs(home):
        (seen,) = studies(home, tmp_path, 1)
        deliver(home)
        had = delivered_uids(home, seen)
    (waiting,) = studies(home, tmp_path, 1)
    code, said = recall(home, "--dry-run")
    assert code == 0
    assert seen in said
    assert waiting in said
    assert {state for _, state in states(home, waiting)} == {"pending"}, "a dry run changes nothing"

    code, said = recall(home)
    assert code == 0, said
    assert {state for _, state in states(home, waiting)} == {"cancelled"}
    answer(home)
    with pacs(home):
        deliver(home)
    (told,) = sent_notes(home, seen)
    assert told.code == "113037"
    assert {reference.sop_instance_uid for reference in told.references} == had
    assert sent_notes(home, waiting) == []
    notice = home.pacs.of_study(seen, COMPREHENSIVE_3D_SR)[-1]
    (before,) = notice.PredecessorDocumentsSequence
    replaced = before.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert str(replaced.ReferencedSOPInstanceUID) in had
    assert home.row(seen)["reason"] == "recalled"
    assert len(home.pacs.of_study(waiting, COMPREHENSIVE_3D_SR)) == 1, "its notice alone"
    assert kinds(home).count("recall.started") == 1
    assert audit.verify(home.store().engine).whole

    code, said = recall(home)
    assert code == 2
    assert "left to be taken back" in said


@LISTED
def test_a_recall_that_was_cut_off_goes_on_where_it_stopped(home: House, tmp_path: Path) -> None:
    three = studies(home, tmp_path, 3)
    with pacs(home):
        deliver(home)
    taken: list[str] = []

    def dies(point: str) -> None:
        taken.append(point)
        if taken.count("recall.study") == 1:
            raise KeyboardInterrupt

    engine = home.store().engine
    since = reader.status(engine, utc_now()).at.replace(year=2020)
    with pytest.raises(KeyboardInterrupt):
        Recalls(engine, crash=dies).recall(SHA, since, "me", "test")
    left = Recalls(engine).affected(SHA, since)
    assert len(left) == 2
    code, said = recall(home, "--json")
    assert code == 0
    assert {one["study_instance_uid"] for one in json.loads(said)} < set(three)
    answer(home)
    with pacs(home):
        deliver(home)
    assert [len(sent_notes(home, study)) for study in three] == [1, 1, 1]


@LISTED
def test_a_destination_without_rejection_notes_gets_the_notice_and_is_on_the_list(
    home: House, tmp_path: Path
) -> None:
    home.config.write_text(
        home.config.read_text().replace('name = "pacs"', 'name = "pacs"\nrejection = "none"')
    )
    studies(home, tmp_path, 1)
    with pacs(home):
        deliver(home)
    code, said = recall(home)
    assert code == 0
    assert "pacs gets no rejection notes: reject them there by hand" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "3a", "--since", LONG_AGO), "8 to 64 hexadecimal digits"),
        (("--weights", SHA, "--since", "yesterday"), "is a date or an instant"),
        (("--weights", SHA, "--since", "0001-01-01T00:00+14:00"), "is a date or an instant"),
        (("--weights", "deadbeef", "--since", LONG_AGO), "weights that gave results: none"),
    ],
)
def test_what_cannot_be_recalled_is_said(home: House, arguments: Sequence[str], words: str) -> None:
    done = home.command("recall", *arguments, "--why", "test")
    assert done.returncode == 2
    assert words in done.stderr
