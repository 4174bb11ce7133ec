"""What fails the last look is set aside with its reason, and the study gets a notice instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prescreen import pipeline, reporting, settings
from prescreen.dicom import capture, narrative, regions, report
from prescreen.dicom.document import Document
from prescreen.dicom.rejection import rejection_note
from prescreen.errors import UnfitObject
from prescreen.lightbox import Image
from prescreen.pipeline import Tools
from prescreen.store import reader
from prescreen.study import Job, Outcome, Reference, Withdrawn
from tests import results
from tests.peers.made import every_kind
from tests.store_bench import PACS, StoreBench
from tests.unit.test_destinations_get_what_they_ask_for import made_image

STUDY = "1.2.1"


@pytest.fixture
def bench(tmp_path: Path) -> StoreBench:
    return StoreBench(tmp_path)


def _claimed(bench: StoreBench) -> tuple[Job, Image]:
    """A job of one real chest, and that chest as screening hands it on."""
    bench.keep(STUDY, 1)
    (job,) = bench.claim()
    instance = replace(job.instances[0], path=results.chest_path())
    return replace(job, instances=(instance,)), replace(made_image(), instance=instance)


def _tools(bench: StoreBench) -> Tools:
    nobody: Any = None
    loaded = settings.load(scope={"acquired_within_hours": 1e7, "unknown_age": "screen"})
    now = results.MADE
    tools = (loaded, bench.queue, bench.spool, nobody, nobody, results.model(), lambda: now)
    return Tools(*tools)


def _break_the_first(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the next findings claim to be verified, which nothing of ours may."""
    whole, left = report.measurement_report, [times]

    def broken(document: Document, *args: Any, **more: Any) -> bytes:
        made = whole(document, *args, **more)
        left[0] -= 1
        return made.replace(b"UNVERIFIED", b"VERIFIED  ") if left[0] >= 0 else made

    monkeypatch.setattr(report, "measurement_report", broken)


def test_it_is_quarantined_with_a_reason_a_person_can_read(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, image = _claimed(bench)
    _break_the_first(monkeypatch, 1)
    with pytest.raises(UnfitObject, match="claims to be verified"):
        reporting.write(job, [image], _tools(bench).desk())
    (reason,) = (bench.spool.root / "quarantine").glob("*.reason")
    assert reason.read_text() == "unfit_object: sr: it claims to be verified\n"
    assert pydicom.dcmread(reason.with_suffix(".dcm")).VerificationFlag == "VERIFIED"
    assert bench.spool.results(job.job_id) is None


def test_the_study_gets_a_notice_that_says_so(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, image = _claimed(bench)
    _break_the_first(monkeypatch, 1)
    pipeline._reported(job, [image], _tools(bench))
    study = reader.show(bench.engine, STUDY).study
    assert (study["outcome"], study["reason"]) == (Outcome.FAILED, "unfit_object")
    folder = bench.spool.results(job.job_id)
    assert folder is not None
    notice = pydicom.dcmread(folder / "evaluation-report.dcm")
    assert notice.SeriesDescription.endswith("NOT SCREENED")
    assert b"did not pass the check" in (folder / "evaluation-report.dcm").read_bytes()


def test_where_not_even_the_notice_passes_nothing_is_published(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, image = _claimed(bench)
    _break_the_first(monkeypatch, 2)
    pipeline._reported(job, [image], _tools(bench))
    assert bench.spool.results(job.job_id) is None
    assert reader.show(bench.engine, STUDY).study["outcome"] == Outcome.FAILED
    assert len(list((bench.spool.root / "quarantine").glob("*.reason"))) == 2


def test_a_note_that_may_not_leave_is_set_aside_and_the_rest_goes(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, image = _claimed(bench)
    reported = tmp_path / "report.dcm"
    reported.write_bytes(every_kind(results.chest())["sr"])
    ds = pydicom.dcmread(reported)
    uids = (ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID)
    taken = Withdrawn("pacs", "", (Reference(*map(str, uids)),), reported)
    tools = _tools(bench)
    tools = replace(tools, settings=tools.settings.model_copy(update={"destinations": (PACS,)}))
    whole = rejection_note

    def broken(*args: Any, **more: Any) -> bytes:
        return whole(*args, **more).replace(b"113037", b"113000")

    monkeypatch.setattr("prescreen.rejecting.rejection_note", broken)
    written = reporting.write(replace(job, withdrawn=(taken,)), [image], tools.desk())
    assert {item.kind for item in written.objects} == {"sr", "regions", "capture"}
    (reason,) = (bench.spool.root / "quarantine").glob("*.reason")
    assert reason.read_text() == "unfit_object: rejection: its title rejects nothing\n"


def _breaking(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let objects of a kind come out wrong; a capture without a word on how it was derived."""
    if kind == "capture":
        whole = capture.capture
        monkeypatch.setattr(
            capture,
            "capture",
            lambda *a, **more: _without_derivation(whole(*a, **more)),
        )
        return
    module, name = {
        "regions": (regions, "regions_report"),
        "text": (narrative, "narrative_report"),
    }[kind]
    made = getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda *a, **more: made(*a, **more).replace(b"UNVERIFIED", b"VERIFIED  ")
    )


def _without_derivation(page: Any) -> Any:
    tag = b"\x08\x00\x11\x21"  # (0008,2111) Derivation Description
    return replace(page, part10=page.part10.replace(tag, b"\x08\x00\x12\x21", 1))


@pytest.mark.parametrize("kind", ["regions", "text", "capture"])
def test_one_unfit_object_of_any_kind_keeps_the_whole_set_from_leaving(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    job, image = _claimed(bench)
    asked = PACS.model_copy(update={"objects": ("sr", "regions", "text", "capture")})
    tools = _tools(bench)
    tools = replace(tools, settings=tools.settings.model_copy(update={"destinations": (asked,)}))
    _breaking(kind, monkeypatch)
    with pytest.raises(UnfitObject, match=f"^{kind}: "):
        reporting.write(job, [image], tools.desk())
    (reason,) = (bench.spool.root / "quarantine").glob("*.reason")
    assert reason.read_text().startswith(f"unfit_object: {kind}: ")
    assert bench.spool.results(job.job_id) is None
