"""A study's report made again: a new job over all its images, and what happens to the old rows."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, select, update

from prescreen.errors import NotThere
from prescreen.store import arrival, audit
from prescreen.store import schema as t
from prescreen.store.images import fill, screenable
from prescreen.store.withdrawal import FINDING_HELD, withdraw
from prescreen.study import Priority


def rebuild(
    connection: Connection,
    study_instance_uid: str,
    cause: str,
    now: datetime.datetime,
    detail: Mapping[str, Any],
    priority: int = Priority.ROUTINE,
) -> int:
    """A job, due now, over all images kept of a study; returns its id.

    An open job of the study is used for it. Rows of earlier jobs of which none was attempted are
    cancelled. Raises NotThere where the study is unknown or its images are no longer kept.
    """
    columns = t.study.c
    study_id = connection.scalar(
        select(columns.study_id).where(columns.study_instance_uid == study_instance_uid)
    )
    if study_id is None:
        raise NotThere(f"study {study_instance_uid}: is not known; see `prescreen audit list`")
    instance_ids = screenable(connection, study_id)
    if not instance_ids:
        raise NotThere(
            f"study {study_instance_uid}: its images are no longer kept; send them again"
        )
    uid = study_instance_uid
    job_id = _open_or_new(connection, study_id, uid, cause, now, dict(detail), priority)
    fill(connection, job_id, instance_ids)
    superseded = cause == FINDING_HELD
    withdraw(connection, study_id, study_instance_uid, now, attempted=superseded)
    return job_id


def _open_or_new(
    connection: Connection,
    study_id: int,
    study_instance_uid: str,
    cause: str,
    now: datetime.datetime,
    detail: dict[str, Any],
    priority: int,
) -> int:
    is_open = and_(t.job.c.study_id == study_id, t.job.c.open)
    job_id = connection.scalar(
        update(t.job).where(is_open).values(due_at=now, cause=cause).returning(t.job.c.job_id)
    )
    if job_id is None:
        return arrival.open_job(
            connection, study_id, study_instance_uid, now, now, now, priority, cause, detail
        )
    audit.append(
        connection,
        "job.widened",
        now,
        study_instance_uid=study_instance_uid,
        job_id=job_id,
        detail={"cause": cause, **detail},
    )
    return int(job_id)
