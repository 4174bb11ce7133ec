"""What `report` writes: for each audience in use one report of the study and its captures.

All objects of a job are written into a draft folder, with the manifest, and become its results by
one rename. What exists may have been sent, so it never changes.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prescreen import screening
from prescreen.audience import for_audience, reaches_bar
from prescreen.dicom import capture, report
from prescreen.dicom.wording import is_other_view
from prescreen.errors import StoreError
from prescreen.screening import Image
from prescreen.settings import Report, Settings
from prescreen.store.queue import Queue
from prescreen.store.results import Results, read_manifest, write_manifest
from prescreen.store.settlement import audience_of
from prescreen.store.spool import Spool
from prescreen.study import (
    LABELS,
    Audience,
    ImageResult,
    Job,
    Model,
    Outcome,
    ResultObject,
    generate_uid,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What the reports of jobs are written with; `made` is the instant they carry, aware."""

    settings: Settings
    queue: Queue
    spool: Spool
    model: Model
    made: datetime.datetime


def write(job: Job, images: Sequence[Image], desk: Desk) -> Results:
    """Write the results of a job and publish them; durable on return, and final.

    The outcome is that of the study so far, earlier answers included, as the report is of the
    study so far. A job of which nothing is in scope, or whose images were all seen before, has no
    objects and no folder: its results are the answers alone. What an earlier attempt published
    stands.
    """
    earlier = published(job, desk.spool)
    if earlier is not None:
        return earlier
    answers = tuple(image.answer for image in images)
    told = _newest([image for image in images if image.answer.result is not None])
    new = [image.result for image in told]
    own = new or [image.result for image in images]
    outcome, reason = screening.outcome_of([*own, *_carried_over(new, job.earlier)])
    alone, why = screening.outcome_of(own)
    results = Results(outcome, reason if told else why, answers, ())
    readable = [image for image in told if image.source is not None]
    if alone is Outcome.OUT_OF_SCOPE or not readable:
        return results
    draft = desk.spool.draft(job.job_id)
    objects: list[ResultObject] = []
    for audience in audiences(job, desk.settings):
        objects += _write_set(job, readable, audience, desk, draft)
    results = replace(results, objects=tuple(objects))
    names = [destination.name for destination in desk.settings.destinations]
    write_manifest(draft, job, results, names)
    desk.spool.publish(job.job_id, draft)
    return results


def _carried_over(new: Sequence[ImageResult], earlier: Sequence[ImageResult]) -> list[ImageResult]:
    """Of earlier answers those on images that are not answered anew."""
    uids = {result.header.sop_instance_uid for result in new}
    return [result for result in earlier if result.header.sop_instance_uid not in uids]


def published(job: Job, spool: Spool) -> Results | None:
    """What an earlier attempt at this job published, if one did.

    A folder of its number that is of another job (the database is an older copy than the spool)
    is set aside for a person.
    """
    folder = spool.results(job.job_id)
    if folder is None:
        return None
    try:
        return read_manifest(folder, job)
    except StoreError as error:
        logger.error("%s; it is set aside in quarantine", error)
        spool.quarantine(folder, "not_of_this_job")
        return None


def _newest(images: Sequence[Image]) -> list[Image]:
    """One image for each SOP instance, the newest version, in the order in which they came."""
    newest: dict[str, Image] = {}
    for image in sorted(images, key=lambda image: image.instance.instance_id):
        newest[image.instance.sop_instance_uid] = image
    return list(newest.values())


def audiences(job: Job, settings: Settings) -> list[Audience]:
    """The audiences of this job's destinations; where there are none, the silent one."""
    used = {audience_of(destination, job) for destination in settings.destinations}
    return sorted(used or {Audience.EVALUATION})


def _write_set(
    job: Job, images: Sequence[Image], audience: Audience, desk: Desk, draft: Path
) -> list[ResultObject]:
    edition = Edition(
        desk.model,
        desk.settings.report,
        audience,
        desk.made,
        held=job.held_findings,
        replaced=_replaced(job, audience, desk.queue),
    )
    found = []
    for item in objects(images, edition, job.earlier):
        (draft / item.described.file_name).write_bytes(item.part10)
        found.append(item.described)
    return found


@dataclass(frozen=True)
class Replaced:
    """The report of this study and audience that came before, and when its job was settled."""

    described: ResultObject
    made: datetime.datetime | None


def _replaced(job: Job, audience: Audience, queue: Queue) -> Replaced | None:
    if job.predecessor_job_id is None:
        return None
    for item in queue.objects(job.predecessor_job_id):
        if item.kind == "sr" and item.audience is audience:
            return Replaced(item, queue.settled_at(job.predecessor_job_id))
    return None


@dataclass(frozen=True)
class Edition:
    """What all objects of one study for one audience share; `made` is aware."""

    model: Model
    settings: Report
    audience: Audience
    made: datetime.datetime
    held: frozenset[str] = frozenset()
    replaced: Replaced | None = None

    def shown(self, result: ImageResult) -> ImageResult:
        """The result as this audience may see it."""
        return for_audience(result, self.model, self.audience, self.settings, self.held)

    def below_bar(self, results: Sequence[ImageResult]) -> frozenset[str]:
        """Labels to be marked as evaluation only, for any of the views at hand."""
        views = {result.header.view for result in results if result.findings}
        return frozenset(
            label
            for label in LABELS
            if not all(reaches_bar(self.model, label, view, self.settings) for view in views)
        )


@dataclass(frozen=True, eq=False)
class Written:
    """One object: what it is, its Part 10 bytes, and its page (RGB pixels) where it has one."""

    described: ResultObject
    part10: bytes
    page: Any = None


def objects(
    images: Sequence[Image], edition: Edition, earlier: Sequence[ImageResult] = ()
) -> Iterator[Written]:
    """The report of one study, then a capture of each of its images that is in scope.

    `images` have a source each, oldest first: patient and study are taken from the newest, which
    carries the corrections. `earlier` are the answers of the study's earlier reports: those
    on images that are not among `images` are carried over. Beside a frontal image that was
    screened a lateral one stands in the report alone: it needs no notice.
    """
    kept = _carried_over([image.result for image in images], earlier)
    shown = [edition.shown(image.result) for image in images]
    yield _report(images, shown, [edition.shown(result) for result in kept], edition)
    series = generate_uid()
    is_screened = any(result.outcome is Outcome.SCREENED for result in [*shown, *kept])
    for number, (image, result) in enumerate(zip(images, shown, strict=True), start=1):
        listed_only = is_screened and is_other_view(result)
        if result.outcome is not Outcome.OUT_OF_SCOPE and not listed_only:
            yield _capture(image, result, series, number, edition, images[-1].source)


def _report(
    images: Sequence[Image],
    shown: Sequence[ImageResult],
    kept: Sequence[ImageResult],
    edition: Edition,
) -> Written:
    item = ResultObject(
        kind="sr",
        audience=edition.audience,
        sop_class_uid=report.COMPREHENSIVE_3D_SR,
        sop_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        file_name=f"{edition.audience}-report.dcm",
        fallback_sop_instance_uid=generate_uid(),
    )
    study = shown[0].header.study_instance_uid
    replaced = edition.replaced
    content = report.measurement_report(
        [image.source for image in reversed(images)],
        [*shown, *kept],
        edition.model,
        settings=edition.settings,
        made=edition.made,
        series_instance_uid=item.series_instance_uid,
        sop_instance_uid=item.sop_instance_uid,
        predecessors=[_predecessor(replaced.described, study, bool(kept))] if replaced else [],
        below_bar=edition.below_bar([*shown, *kept]),
    )
    return Written(item, content)


def _predecessor(replaced: ResultObject, study: str, adds: bool) -> report.Predecessor:
    return report.Predecessor(
        replaced.sop_class_uid,
        replaced.sop_instance_uid,
        replaced.series_instance_uid,
        study,
        addended=adds,
    )


def _capture(
    image: Image, result: ImageResult, series: str, number: int, edition: Edition, patient: Any
) -> Written:
    item = ResultObject(
        kind="capture",
        audience=edition.audience,
        sop_class_uid=capture.SECONDARY_CAPTURE,
        sop_instance_uid=generate_uid(),
        series_instance_uid=series,
        file_name=f"{edition.audience}-capture-{number}.dcm",
        source_sop_instance_uid=result.header.sop_instance_uid,
    )
    anatomy = image.screening.anatomy if image.screening else None
    page = capture.capture(
        image.source,
        image.radiograph,
        anatomy,
        result,
        edition.model,
        settings=edition.settings,
        made=edition.made,
        series_instance_uid=series,
        sop_instance_uid=item.sop_instance_uid,
        instance_number=number,
        replaces=edition.replaced.made if edition.replaced else None,
        below_bar=edition.below_bar([result]),
        patient=patient,
    )
    return Written(item, page.part10, page.pixels)
