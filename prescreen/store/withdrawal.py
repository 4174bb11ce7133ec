"""Rows of the outbox that are taken back before they are sent. Functions on a connection."""

from __future__ import annotations

import datetime

from sqlalchemy import Connection, exists, or_, select, update

from prescreen.store import audit, stages
from prescreen.store import schema as t
from prescreen.study import OutboxState


def withdraw(
    connection: Connection,
    study_id: int,
    study_instance_uid: str,
    now: datetime.datetime,
    *,
    attempted: bool = False,
) -> int:
    """Cancel the pending rows of a study's jobs of which no row was attempted; how many.

    With `attempted` also those that were: their report must not arrive any more. What a sender
    has in hand at this moment goes on.
    """
    row, other = t.outbox.c, t.outbox.alias("other")
    began = exists().where(other.c.job_id == row.job_id, other.c.attempts > 0)
    in_hand = ~or_(row.lease_until.is_(None), row.lease_until <= now)
    of_study = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    statement = (
        update(t.outbox)
        .where(row.job_id.in_(of_study), row.state == OutboxState.PENDING)
        .where(~in_hand if attempted else ~began)
        .values(state=OutboxState.CANCELLED, settled_at=now)
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    rows = connection.execute(statement).all()
    for cancelled in rows:
        audit.append(
            connection,
            "object.cancelled",
            now,
            study_instance_uid=study_instance_uid,
            job_id=cancelled.job_id,
            detail={"outbox_id": cancelled.outbox_id, "destination": cancelled.destination},
        )
    for job_id in sorted({cancelled.job_id for cancelled in rows}):
        stage = stages.next_stage(connection, job_id)
        stages.advance(connection, job_id, study_instance_uid, stage, now)
    return len(rows)
