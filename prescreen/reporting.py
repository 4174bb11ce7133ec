"""What `report` writes: for each audience in use one report of the study and its captures.

All objects of a job are written into a draft folder, with the manifest, and become its results by
one rename. What exists may have been sent, so it never changes.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prescreen import rejecting, screening
from prescreen.dicom import egress
from prescreen.dicom.attributes import Attributes
from prescreen.edition import Edition, Replaced, Written, carried_over, objects
from prescreen.errors import StoreError, UnfitObject
from prescreen.lightbox import Image
from prescreen.settings import MODERN, Settings
from prescreen.store.intake import mapped, write_file
from prescreen.store.queue import Queue
from prescreen.store.results import Results, read_manifest, write_manifest
from prescreen.store.settlement import audience_of
from prescreen.store.spool import Spool
from prescreen.study import Audience, Job, Model, Outcome, ResultObject

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
    objects and no folder: its results are the answers alone. One that takes results back writes
    rejection notes beside the rest. What an earlier attempt published stands.
    """
    earlier = published(job, desk.spool)
    if earlier is not None:
        return earlier
    answers = tuple(image.answer for image in images)
    told = _newest([image for image in images if image.answer.result is not None])
    new = [image.result for image in told]
    own = new or [image.result for image in images]
    outcome, reason = screening.outcome_of([*own, *carried_over(new, job.earlier)])
    alone, why = screening.outcome_of(own)
    if not images:  # all were rejected, or are no longer kept
        outcome, why = Outcome.OUT_OF_SCOPE, "rejected"
    results = Results(outcome, reason if told else why, answers, ())
    readable = [image for image in told if image.source is not None]
    is_silent = alone is Outcome.OUT_OF_SCOPE or not readable
    if is_silent and not job.withdrawn:
        return results
    draft = desk.spool.draft(job.job_id)
    objects: list[ResultObject] = []
    digests: dict[str, str] = {}
    for audience in [] if is_silent else audiences(job, desk.settings):
        objects += _write_set(job, readable, audience, desk, draft, digests)
    objects += _write_notes(job, desk, draft)
    results = replace(results, objects=tuple(objects))
    names = [destination.name for destination in desk.settings.destinations]
    write_manifest(draft, job, results, names, digests)
    desk.spool.publish(job.job_id, draft)
    return results


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
    """One image for each SOP instance, the newest version, in the order in which those came.

    The last one says whose the report is: what names no patient goes before what names one.
    """
    newest: dict[str, Image] = {}
    for image in sorted(images, key=lambda image: image.instance.instance_id):
        newest.pop(image.instance.sop_instance_uid, None)  # or it would keep the older one's place
        newest[image.instance.sop_instance_uid] = image
    return sorted(newest.values(), key=_names_a_patient)


def _names_a_patient(image: Image) -> bool:
    return image.source is not None and Attributes(image.source).text("PatientID") is not None


def audiences(job: Job, settings: Settings) -> list[Audience]:
    """The audiences of this job's destinations; where there are none, the silent one."""
    used = {audience_of(destination, job) for destination in settings.destinations}
    return sorted(used or {Audience.EVALUATION})


def kinds(job: Job, audience: Audience, settings: Settings) -> frozenset[str]:
    """The kinds of objects that the destinations of this audience get, all of them together."""
    wanted = [d.objects for d in settings.destinations if audience_of(d, job) is audience]
    return frozenset(kind for objects in wanted or [MODERN] for kind in objects)


def _write_set(
    job: Job,
    images: Sequence[Image],
    audience: Audience,
    desk: Desk,
    draft: Path,
    digests: dict[str, str],
) -> list[ResultObject]:
    """Write the objects of one audience, each looked at and digested as it goes to its file."""
    edition = Edition(
        desk.model,
        desk.settings.report,
        audience,
        desk.made,
        held=job.held_findings,
        replaced=_replaced(job, audience, desk.queue),
        kinds=kinds(job, audience, desk.settings),
    )
    found = []
    for item in objects(images, edition, job.earlier):
        path = draft / item.described.file_name
        with mapped(draft):
            write_file(path, item.part10)
        digests[path.name] = hashlib.sha256(item.part10).hexdigest()
        _pass(item, images[-1], path, desk.spool)
        found.append(item.described)
    return found


def _pass(item: Written, newest: Image, path: Path, spool: Spool) -> None:
    """Let an object through, or set it aside and raise UnfitObject."""
    try:
        egress.check(item.part10, item.described, newest.source)
    except UnfitObject as error:
        logger.error("%s; it is set aside in quarantine", error)
        spool.quarantine(path, f"unfit_object: {error}")
        raise


def _write_notes(job: Job, desk: Desk, draft: Path) -> Iterator[ResultObject]:
    """The rejection notes; one that may not leave is set aside, and the notice goes without it."""
    for item, content, rejected in rejecting.notes(job, desk.settings, desk.made):
        path = draft / item.file_name
        with mapped(draft):
            path.write_bytes(content)
        try:
            egress.check(content, item, rejected)
        except UnfitObject as error:
            logger.error("%s; it is set aside in quarantine", error)
            desk.spool.quarantine(path, f"unfit_object: {error}")
            continue
        yield item


def _replaced(job: Job, audience: Audience, queue: Queue) -> Replaced | None:
    """What came before for this audience, one object of each kind of which there is one a study."""
    if job.predecessor_job_id is None:
        return None
    found = [o for o in queue.objects(job.predecessor_job_id) if o.audience is audience]
    if not found:
        return None
    by_kind = {item.kind: item for item in found}
    return Replaced(by_kind, queue.settled_at(job.predecessor_job_id))
