"""A report that was overtaken before it was sent: by a correction, or by a later report.

Its study was told to be another's while it was made, or a later report of the study was delivered
while it waited. Functions on a connection.
"""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
)

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.arrival import open_job
from prescreen.store.images import fill, screenable
from prescreen.store.prepared import Prepared
from prescreen.study import Disposition, Job, OutboxState


def left_to_the_next(connection: Connection, job: Job, now: datetime.datetime) -> bool:
    """Whether an image of another identity came since; then the next job is over the whole study.

    So it is where an archive has told of another identity since: that opened a later job.
    The identity is that of the job's newest image, whichever attempt wrote the report. What came
    again and was not told apart yet counts: whether its header or its pixels differ, the next job
    finds out, and its report is then the one that is right. To be asked after the job's own
    images were told apart.
    """
    uid = job.study_instance_uid
    study_id = _STUDY.scalar(connection, {"the_job": job.job_id})
    told = _TOLD.first(connection, {"the_job": job.job_id})
    came = told is not None and _came_since(connection, *told)
    if not came and _CORRECTED.scalar(connection, {"the_job": job.job_id}) is None:
        return False
    next_job = _OPEN.scalar(connection, {"the_study": study_id})
    if next_job is None:
        next_job = open_job(connection, study_id, uid, now, now, now, job.priority)
    fill(connection, next_job, screenable(connection, study_id))
    detail = {"next_job_id": next_job}
    audit.append(
        connection,
        "report.overtaken",
        now,
        study_instance_uid=uid,
        job_id=job.job_id,
        detail=detail,
    )
    return True


def _came_since(connection: Connection, study_id: int, newest: int, identity_id: int) -> bool:
    here = {"the_study": study_id, "the_newest": newest, "the_identity": identity_id}
    return _LATER.scalar(connection, here) is not None


_ITEM = t.instance.c
#: What speaks of a study: not what was ignored, rejected, or kept aside.
_SPEAKS = (
    _ITEM.removed_at.is_(None),
    _ITEM.rejected_at.is_(None),
    _ITEM.disposition.in_((Disposition.NEW, Disposition.AGAIN, Disposition.REVISION)),
)
_OF_JOB = select(t.job_instance.c.instance_id).where(
    t.job_instance.c.job_id == bindparam("the_job")
)
_TOLD = Prepared(
    select(_ITEM.study_id, _ITEM.instance_id, _ITEM.identity_id)
    .where(_ITEM.instance_id.in_(_OF_JOB), *_SPEAKS)
    .order_by(_ITEM.instance_id.desc())
    .limit(1)
)
_LATER = Prepared(
    select(_ITEM.instance_id)
    .where(
        _ITEM.study_id == bindparam("the_study"),
        _ITEM.instance_id > bindparam("the_newest"),
        _ITEM.identity_id != bindparam("the_identity"),
        *_SPEAKS,
    )
    .limit(1)
)
_STUDY_OF_JOB = select(t.job.c.study_id).where(t.job.c.job_id == bindparam("the_job"))
_STUDY = Prepared(_STUDY_OF_JOB)
_CORRECTED = Prepared(
    select(t.correction.c.correction_id)
    .where(t.correction.c.study_id == _STUDY_OF_JOB.scalar_subquery())
    .where(t.correction.c.job_id > bindparam("the_job"))
    .limit(1)
)
_OPEN = Prepared(
    select(t.job.c.job_id).where(t.job.c.study_id == bindparam("the_study"), t.job.c.open)
)


def _since_written() -> Select[tuple[int]]:
    """What took the study `uid` from its patient after the report of the row `the_id` was written.

    In the order of the chain: a clock that was put back puts nothing out of order. By the clock
    where the chain does not know of the report: it was restored from the spool.
    """
    written = t.event.alias("written")
    place = (
        select(func.max(written.c.event_id))
        .where(written.c.study_instance_uid == bindparam("uid"))
        .where(written.c.job_id == t.outbox.c.job_id, written.c.kind == "report.written")
        .scalar_subquery()
    )
    since = or_(
        t.event.c.event_id > place,
        and_(place.is_(None), t.event.c.at > t.outbox.c.created_at),
    )
    return (
        select(t.event.c.event_id)
        .where(
            t.event.c.study_instance_uid == bindparam("uid"),
            t.outbox.c.outbox_id == bindparam("the_id"),
        )
        .where(t.event.c.kind.in_(("study.identity_changed", "report.overtaken")))
        .where(since)
        .limit(1)
    )


SINCE_WRITTEN = Prepared(_since_written())


def later_report(connection: Connection, outbox_id: int) -> int | None:
    """The job whose delivered objects say what that of a row says; None where there is none."""
    found: int | None = _LATER_REPORT.scalar(connection, {"the_id": outbox_id})
    return found


def overtaken_on_its_way(connection: Connection, outbox_id: int) -> int | None:
    """As `later_report`; but what the peer had, and lost, is given to it again (clinic.md 30)."""
    found: int | None = _ON_ITS_WAY.scalar(connection, {"the_id": outbox_id})
    return found


def _later_reports() -> Select[Any]:
    """The newest later job of which something was delivered where the row `the_id` goes.

    Reports are cumulative, so that one replaces any that was made before it. What is of images
    alone (captures, regions) is replaced by a job that answered all of these again: that of a late
    image is not.
    """
    item, sent, said = t.result_object.c, t.outbox.alias("sent"), t.result_object.alias("said")
    later = t.job.alias("later")
    joined = (
        t.outbox.join(t.result_object, t.outbox.c.object_id == item.object_id)
        .join(t.job, t.outbox.c.job_id == t.job.c.job_id)
        .join(later, and_(later.c.study_id == t.job.c.study_id, later.c.job_id > t.job.c.job_id))
        .join(sent, sent.c.job_id == later.c.job_id)
        .join(said, sent.c.object_id == said.c.object_id)
    )
    is_report = and_(item.kind.in_(_REPORTS), said.c.kind.in_(_REPORTS))
    # of an expression, so that SQLite does not go through all that a destination ever got
    there = sent.c.destination.concat("") == t.outbox.c.destination
    return (
        select(func.max(later.c.job_id))
        .select_from(joined)
        .where(t.outbox.c.outbox_id == bindparam("the_id"), item.kind != _NOTE)
        .where(there, sent.c.state.in_(_SENT))
        .where(said.c.kind != _NOTE, or_(is_report, ~_left_out(later)))
    )


def _left_out(later: FromClause) -> ColumnElement[bool]:
    """An image that the row's object is of has no answer in a later job."""
    own, other = t.job_instance.alias("own"), t.job_instance.alias("other")
    mine, its = t.instance.alias("mine"), t.instance.alias("its")
    answered = (
        select(its.c.sop_instance_uid)
        .join(other, other.c.instance_id == its.c.instance_id)
        .where(other.c.job_id == later.c.job_id)
        .correlate(later)
    )
    source = t.result_object.c.source_sop_instance_uid
    return exists().where(
        own.c.job_id == t.outbox.c.job_id,
        own.c.instance_id == mine.c.instance_id,
        or_(source.is_(None), mine.c.sop_instance_uid == source),
        mine.c.sop_instance_uid.not_in(answered),
    )


_SENT = (OutboxState.DELIVERED, OutboxState.COMMITTED)
#: Kinds of objects that speak of the study so far; those of the others, of images at hand.
_REPORTS, _NOTE = ("sr", "text"), "rejection"
_LATER_REPORT = Prepared(_later_reports())
_ON_ITS_WAY = Prepared(_later_reports().where(t.outbox.c.losses == 0))
