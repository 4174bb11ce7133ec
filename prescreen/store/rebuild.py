"""A study's report made again: a new job over all its images, and what happens to the old rows."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, exists, insert, select, update

from prescreen.errors import NotThere
from prescreen.store import arrival, audit, settlement
from prescreen.store import schema as t
from prescreen.study import Disposition, OutboxState, Priority


def rebuild(
    connection: Connection,
    study_instance_uid: str,
    cause: str,
    now: datetime.datetime,
    detail: Mapping[str, Any],
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
    instance_ids = _screenable(connection, study_id)
    if not instance_ids:
        raise NotThere(
            f"study {study_instance_uid}: its images are no longer kept; send them again"
        )
    job_id = _open_or_new(connection, study_id, study_instance_uid, cause, now, dict(detail))
    _fill(connection, job_id, instance_ids)
    cancel_unattempted(connection, study_id, study_instance_uid, now)
    return job_id


def _screenable(connection: Connection, study_id: int) -> list[int]:
    wanted = (Disposition.NEW, Disposition.AGAIN, Disposition.REVISION)
    statement = select(t.instance.c.instance_id).where(
        t.instance.c.study_id == study_id,
        t.instance.c.removed_at.is_(None),
        t.instance.c.disposition.in_(wanted),
    )
    return list(connection.scalars(statement.order_by(t.instance.c.instance_id)))


def _open_or_new(
    connection: Connection,
    study_id: int,
    study_instance_uid: str,
    cause: str,
    now: datetime.datetime,
    detail: dict[str, Any],
) -> int:
    is_open = and_(t.job.c.study_id == study_id, t.job.c.open)
    job_id = connection.scalar(
        update(t.job).where(is_open).values(due_at=now, cause=cause).returning(t.job.c.job_id)
    )
    if job_id is None:
        return arrival.open_job(
            connection, study_id, study_instance_uid, now, now, now, Priority.ROUTINE, cause, detail
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


def _fill(connection: Connection, job_id: int, instance_ids: list[int]) -> None:
    there = select(t.job_instance.c.instance_id).where(t.job_instance.c.job_id == job_id)
    present = set(connection.scalars(there))
    missing = [number for number in instance_ids if number not in present]
    if missing:
        rows = [{"job_id": job_id, "instance_id": number} for number in missing]
        connection.execute(insert(t.job_instance), rows)


def cancel_unattempted(
    connection: Connection, study_id: int, study_instance_uid: str, now: datetime.datetime
) -> int:
    """Cancel the pending rows of a study's jobs of which no row was attempted; how many."""
    attempted = t.outbox.alias("attempted")
    began = exists().where(attempted.c.job_id == t.outbox.c.job_id, attempted.c.attempts > 0)
    of_study = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    statement = (
        update(t.outbox)
        .where(t.outbox.c.job_id.in_(of_study), t.outbox.c.state == OutboxState.PENDING, ~began)
        .values(state=OutboxState.CANCELLED, settled_at=now)
        .returning(t.outbox.c.outbox_id, t.outbox.c.job_id, t.outbox.c.destination)
    )
    rows = connection.execute(statement).all()
    for row in rows:
        audit.append(
            connection,
            "object.cancelled",
            now,
            study_instance_uid=study_instance_uid,
            job_id=row.job_id,
            detail={"outbox_id": row.outbox_id, "destination": row.destination},
        )
    for job_id in sorted({row.job_id for row in rows}):
        stage = settlement.next_stage(connection, job_id)
        settlement.advance(connection, job_id, study_instance_uid, stage, now)
    return len(rows)
