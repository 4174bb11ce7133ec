"""A report that a correction overtook: its study was told to be another's while it was made.

Functions on a connection.
"""

from __future__ import annotations

import datetime

from sqlalchemy import Connection, Select, and_, bindparam, func, or_, select

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.arrival import open_job
from prescreen.store.images import fill, screenable
from prescreen.store.prepared import Prepared
from prescreen.study import Disposition, Job


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
