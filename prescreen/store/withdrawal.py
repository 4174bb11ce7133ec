"""Rows of the outbox that are taken back before they are sent. Functions on a connection."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, func, or_, select, update

from prescreen.store import audit, stages
from prescreen.store import schema as t
from prescreen.study import Delivery, OutboxState, Reference

#: Comprehensive SR (PS3.4 B.5): the class of every fallback.
FALLBACK_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"
#: Why a job was opened: a notice in place of what was recalled, a report without a finding on hold.
RECALLED, FINDING_HELD = "recalled", "finding_held"
#: What a person reads beside an object that a later report overtook.
OVERTAKEN = (
    "overtaken: job {later} answered its study anew, and that was delivered; it is not sent any "
    "more; `prescreen rescreen` makes the report once more"
)


def sent_reference(row: Row[Any]) -> Reference:
    """The object of an outbox row, joined with its object and study, as it went over the wire."""
    fallback = row.uses_fallback
    return Reference(
        sop_class_uid=FALLBACK_CLASS if fallback else row.sop_class_uid,
        sop_instance_uid=row.fallback_sop_instance_uid if fallback else row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
    )


def is_note() -> ColumnElement[bool]:
    """The row's object is a rejection note."""
    item = t.result_object.c
    return exists().where(item.object_id == t.outbox.c.object_id, item.kind == "rejection")


def let_go(
    connection: Connection,
    delivery: Delivery,
    now: datetime.datetime,
    *,
    alone: bool = False,
    later_job_id: int | None = None,
) -> None:
    """Cancel a row that was claimed, and what was claimed with it of its study unless `alone`.

    Nobody sends them: the try does not count. Rejection notes stay, as in `withdraw`. A person
    reads beside them which later job overtook them, where one did.
    """
    row = t.outbox.c
    of_study = (
        select(t.job.c.job_id)
        .join(t.study, t.job.c.study_id == t.study.c.study_id)
        .where(t.study.c.study_instance_uid == delivery.study_instance_uid)
    )
    chosen = row.outbox_id == delivery.outbox_id if alone else row.job_id.in_(of_study)
    ours = (row.lease_token == delivery.lease_token, row.state == OutboxState.PENDING)
    freed = {"attempts": row.attempts - 1, "lease_token": None, "lease_until": None}
    statement = (
        update(t.outbox)
        .where(*ours, chosen, ~is_note())
        .values(state=OutboxState.CANCELLED, settled_at=now, **freed, **_words(later_job_id))
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    rows = connection.execute(statement).all()
    why = {} if later_job_id is None else {"overtaken_by": later_job_id}
    _cancelled(connection, rows, delivery.study_instance_uid, now, why)


def _words(later_job_id: int | None) -> dict[str, str]:
    return {} if later_job_id is None else {"error": OVERTAKEN.format(later=later_job_id)}


def pass_over(
    connection: Connection,
    outbox_id: int,
    study_instance_uid: str,
    later_job_id: int,
    told: Mapping[str, str],
    now: datetime.datetime,
) -> None:
    """Cancel a parked row that a later job overtook; `told` is who asked for it, and why."""
    row = t.outbox.c
    statement = (
        update(t.outbox)
        .where(row.outbox_id == outbox_id, row.state == OutboxState.PARKED)
        .values(state=OutboxState.CANCELLED, settled_at=now, **_words(later_job_id))
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    rows = connection.execute(statement).all()
    _cancelled(connection, rows, study_instance_uid, now, {**told, "overtaken_by": later_job_id})


def overtake(
    connection: Connection, study_id: int, study_instance_uid: str, now: datetime.datetime
) -> int:
    """Withdraw what a correction overtook, with its event if there is anything; how many rows.

    Those in a sender's hand are counted: it asks again before it sends them.
    """
    number = withdraw(connection, study_id, study_instance_uid, now, attempted=True)
    of_study = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    left = (t.outbox.c.job_id.in_(of_study), t.outbox.c.state == OutboxState.PENDING, ~is_note())
    in_hand = connection.scalars(select(func.count()).select_from(t.outbox).where(*left)).one()
    if number or in_hand:
        uid, detail = study_instance_uid, {"withdrawn": number, "in_hand": in_hand}
        audit.append(connection, "report.overtaken", now, study_instance_uid=uid, detail=detail)
    return number + in_hand


def withdraw(
    connection: Connection,
    study_id: int,
    study_instance_uid: str,
    now: datetime.datetime,
    *,
    attempted: bool = False,
) -> int:
    """Cancel the pending rows of a study's jobs of which no row was attempted; how many.

    Rejection notes stay: what they take back stays taken back. With `attempted` also those rows
    that were tried: their report must not arrive any more. What a sender has in hand at this
    moment goes on.
    """
    row, other = t.outbox.c, t.outbox.alias("other")
    began = exists().where(other.c.job_id == row.job_id, other.c.attempts > 0)
    in_hand = ~or_(row.lease_until.is_(None), row.lease_until <= now)
    of_study = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    statement = (
        update(t.outbox)
        .where(row.job_id.in_(of_study), row.state == OutboxState.PENDING)
        .where(~in_hand if attempted else ~began, ~is_note())
        .values(state=OutboxState.CANCELLED, settled_at=now)
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    rows = connection.execute(statement).all()
    _cancelled(connection, rows, study_instance_uid, now)
    return len(rows)


def give_up(
    connection: Connection,
    chosen: Mapping[str, Any],
    states: Collection[OutboxState],
    detail: Mapping[str, str],
    now: datetime.datetime,
) -> int:
    """Cancel rows that a person gives up, those of a number or a destination; how many.

    Nobody asks for a promise to keep what was delivered with them either. What a sender has in hand
    at this moment goes on.
    """
    row = t.outbox.c
    same = [row[name] == value for name, value in chosen.items()]
    idle = or_(row.lease_until.is_(None), row.lease_until <= now)
    statement = (
        update(t.outbox)
        .where(*same, row.state.in_(states), idle)
        .values(state=OutboxState.CANCELLED, settled_at=now, commit_due_at=None)
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    rows = connection.execute(statement).all()
    for job_id in sorted({cancelled.job_id for cancelled in rows}):
        of_job = [cancelled for cancelled in rows if cancelled.job_id == job_id]
        _cancelled(connection, of_job, _study_of(connection, job_id), now, detail)
    return len(rows)


def _study_of(connection: Connection, job_id: int) -> str:
    joined = t.job.join(t.study, t.job.c.study_id == t.study.c.study_id)
    uid = select(t.study.c.study_instance_uid).select_from(joined)
    return str(connection.scalars(uid.where(t.job.c.job_id == job_id)).one())


def _cancelled(
    connection: Connection,
    rows: Sequence[Row[Any]],
    study_instance_uid: str,
    now: datetime.datetime,
    why: Mapping[str, Any] | None = None,
) -> None:
    """The events of rows that were cancelled, and what is next for their jobs."""
    for cancelled in rows:
        audit.append(
            connection,
            "object.cancelled",
            now,
            study_instance_uid=study_instance_uid,
            job_id=cancelled.job_id,
            detail={
                "outbox_id": cancelled.outbox_id,
                "destination": cancelled.destination,
                **(why or {}),
            },
        )
    for job_id in sorted({cancelled.job_id for cancelled in rows}):
        stage = stages.next_stage(connection, job_id)
        stages.advance(connection, job_id, study_instance_uid, stage, now)
