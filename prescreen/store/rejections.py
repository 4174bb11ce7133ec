"""Results that are taken back: because a note rejected their images, or a person their weights.

Whatever was not sent is cancelled in the same transaction that opens the job which tells the
destinations about the rest; so nothing that an outage held back arrives after its rejection.
Functions on a connection.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, or_, select, update

from prescreen.store import audit, stages
from prescreen.store import schema as t
from prescreen.store.images import fill, screenable
from prescreen.store.prepared import add
from prescreen.store.withdrawal import sent_reference, withdraw
from prescreen.study import OutboxState, Priority, Rejection, Stage, Withdrawn

#: Why a job takes results back: it is the reason of what it cannot answer any more, too.
REJECTED = "rejected"

#: The note of objects whose time is over: they are to be kept nowhere.
EXPIRED = "113039"

#: The kind of result object that is a rejection note.
NOTE = "rejection"

_AT_A_TIME = 500  # UIDs in one statement


def reject(connection: Connection, rejection: Rejection, now: datetime.datetime) -> None:
    """Obey a rejection note: its instances are not screened any more, and not spoken of.

    What was sent about them is taken back, and the study answered again without them. Instances
    that come later are rejected when they come. 113039 ends their time in the spool as well.
    Where it names results of ours nothing more is sent of them.
    """
    uids = list(dict.fromkeys(reference.sop_instance_uid for reference in rejection.references))
    rows: list[Row[Any]] = []
    for begin in range(0, len(uids), _AT_A_TIME):
        some = uids[begin : begin + _AT_A_TIME]
        new = _remember(connection, some, rejection.code, now)
        _follow(connection, new, rejection.code, now)
        rows += _mark(connection, some, rejection.code, now)
    detail = {"code": rejection.code, "named": len(uids), "matched": len(rows)}
    audit.append(connection, "rejection.received", now, detail=detail)
    for row in rows:
        _instance_rejected(connection, row, rejection.code, now)
    for study_id in sorted({row.study_id for row in rows}):
        ids = [row.instance_id for row in rows if row.study_id == study_id]
        _answer_without(connection, study_id, ids, rejection.code, now)


def _remember(
    connection: Connection, uids: Sequence[str], code: str, now: datetime.datetime
) -> list[str]:
    """Write down what is named; returns what was not named before."""
    uid = t.rejection.c.sop_instance_uid
    known = set(connection.scalars(select(uid).where(uid.in_(uids))))
    new = [{"sop_instance_uid": one, "code": code, "at": now} for one in uids if one not in known]
    if new:
        connection.execute(insert(t.rejection), new)
    return [str(row["sop_instance_uid"]) for row in new]


def _follow(connection: Connection, uids: Sequence[str], code: str, now: datetime.datetime) -> None:
    """Somebody rejected results of ours: mark them, and send nothing more of their jobs.

    What other destinations have of them stays there, and nothing new is said of the images: to
    take back what the node said of a study, or to say it again, is for a person to ask.
    """
    item, row = t.result_object.c, t.outbox.c
    named = or_(item.sop_instance_uid.in_(uids), item.fallback_sop_instance_uid.in_(uids))
    columns = (item.object_id, item.kind, item.job_id, item.sop_instance_uid, t.job.c.study_id)
    statement = select(*columns).select_from(t.result_object.join(t.job)).where(named)
    for found in connection.execute(statement.order_by(item.object_id)).all():
        if found.kind == NOTE:
            continue
        words = f"rejected by a note of the PACS ({code})"
        mark = update(t.outbox).where(row.object_id == found.object_id)
        connection.execute(mark.values(error=words))
        detail = {"kind": found.kind, "code": code}
        detail["cancelled"] = _cancel_job(connection, found.job_id, now)
        uid = _uid(connection, found.study_id)
        audit.append(
            connection,
            "result.rejected",
            now,
            study_instance_uid=uid,
            sop_instance_uid=found.sop_instance_uid,
            job_id=found.job_id,
            detail=detail,
        )
        stage = stages.next_stage(connection, found.job_id)
        stages.advance(connection, found.job_id, uid, stage, now)


def _cancel_job(connection: Connection, job_id: int, now: datetime.datetime) -> int:
    """Cancel what of a job is held, pending or parked, rejection notes not; how many rows.

    Of what was delivered no proof is asked for any more: what a peer lost is not sent again.
    """
    row = t.outbox.c
    connection.execute(update(t.outbox).where(row.job_id == job_id).values(commit_due_at=None))
    notes = select(t.result_object.c.object_id).where(t.result_object.c.kind == NOTE)
    waiting = (OutboxState.PENDING, OutboxState.HELD, OutboxState.PARKED)
    in_hand = ~or_(row.lease_until.is_(None), row.lease_until <= now)
    statement = (
        update(t.outbox)
        .where(row.job_id == job_id, row.state.in_(waiting), ~in_hand, row.object_id.not_in(notes))
        .values(state=OutboxState.CANCELLED, settled_at=now)
    )
    return int(connection.execute(statement).rowcount)


def _mark(
    connection: Connection, uids: Sequence[str], code: str, now: datetime.datetime
) -> list[Row[Any]]:
    instance = t.instance.c
    values: dict[str, Any] = {"rejected_at": now, "rejected_code": code}
    if code == EXPIRED:
        values["removed_at"] = now
    statement = (
        update(t.instance)
        .where(instance.sop_instance_uid.in_(uids), instance.rejected_at.is_(None))
        .values(**values)
        .returning(instance.instance_id, instance.study_id, instance.sop_instance_uid)
    )
    return list(connection.execute(statement).all())


def _instance_rejected(
    connection: Connection, row: Row[Any], code: str, now: datetime.datetime
) -> None:
    audit.append(
        connection,
        "instance.rejected",
        now,
        study_instance_uid=_uid(connection, row.study_id),
        sop_instance_uid=row.sop_instance_uid,
        detail={"instance_id": row.instance_id, "code": code},
    )


def _answer_without(
    connection: Connection,
    study_id: int,
    instance_ids: Sequence[int],
    code: str,
    now: datetime.datetime,
) -> None:
    """A job over what is left of a study, where one that was claimed spoke of the rest."""
    item = t.job_instance.c
    spoke = select(item.job_id).where(
        item.instance_id.in_(instance_ids), item.job_id == t.job.c.job_id
    )
    first = connection.scalar(
        select(t.job.c.job_id)
        .where(t.job.c.study_id == study_id, t.job.c.claimed_at.is_not(None), spoke.exists())
        .order_by(t.job.c.job_id)
        .limit(1)
    )
    if first is not None:
        later = _reported_since(connection, study_id, first)
        take_back(connection, study_id, later, code, REJECTED, now, {"code": code})


def _reported_since(connection: Connection, study_id: int, first: int) -> list[int]:
    """Jobs of a study from a number on that have results which were not taken back yet.

    The reports are cumulative: later ones speak of what earlier ones spoke of.
    """
    job = t.job.c
    has_object = exists().where(t.result_object.c.job_id == job.job_id)
    taken = exists().where(t.withdrawal.c.withdrawn_job_id == job.job_id)
    statement = select(job.job_id).where(job.study_id == study_id, job.job_id >= first)
    return list(connection.scalars(statement.where(has_object, ~taken).order_by(job.job_id)))


def take_back(
    connection: Connection,
    study_id: int,
    job_ids: Iterable[int],
    code: str,
    cause: str,
    now: datetime.datetime,
    detail: Mapping[str, Any],
) -> int:
    """Cancel what was not sent of jobs; returns the job, due now, that takes the rest back.

    It is over what is kept of the study and was not rejected, maybe nothing. `code` is that of
    the rejection note, empty where each destination's own is to be used.
    """
    uid = _uid(connection, study_id)
    withdrawn = list(job_ids)
    cancel(connection, study_id, withdrawn, now)
    row = {
        "study_id": study_id,
        "stage": Stage.SCREEN,
        "open": False,
        "cause": cause,
        "priority": Priority.HIGH,
        "opened_at": now,
        "due_at": now,
        "cap_at": now,
    }
    job_id = add(connection, t.job, row)
    fill(connection, job_id, screenable(connection, study_id))
    for number in withdrawn:
        taken = {"withdrawn_job_id": number, "job_id": job_id, "code": code}
        connection.execute(insert(t.withdrawal), taken)
    told = {"cause": cause, "withdraws": withdrawn, **detail}
    audit.append(connection, "job.opened", now, study_instance_uid=uid, job_id=job_id, detail=told)
    return job_id


def cancel(
    connection: Connection, study_id: int, job_ids: Sequence[int], now: datetime.datetime
) -> int:
    """Cancel what is pending of a study and what is parked of jobs of it; how many rows.

    Of what was delivered no proof is asked for any more: it shall not be sent again.
    """
    uid = _uid(connection, study_id)
    number = withdraw(connection, study_id, uid, now, attempted=True)
    row = t.outbox.c
    connection.execute(update(t.outbox).where(row.job_id.in_(job_ids)).values(commit_due_at=None))
    parked = (
        update(t.outbox)
        .where(row.job_id.in_(job_ids), row.state == OutboxState.PARKED)
        .values(state=OutboxState.CANCELLED)
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    for one in connection.execute(parked).all():
        detail = {"outbox_id": one.outbox_id, "destination": one.destination}
        audit.append(
            connection,
            "object.cancelled",
            now,
            study_instance_uid=uid,
            job_id=one.job_id,
            detail=detail,
        )
        number += 1
    for job_id in job_ids:
        stage = stages.next_stage(connection, job_id)
        stages.advance(connection, job_id, uid, stage, now)
    return number


def withdrawn_by(connection: Connection, job_id: int, results: Path) -> tuple[Withdrawn, ...]:
    """What a job takes back, by destination: all that was sent there, or may have been."""
    joined = (
        t.withdrawal.join(t.outbox, t.outbox.c.job_id == t.withdrawal.c.withdrawn_job_id)
        .join(t.result_object, t.outbox.c.object_id == t.result_object.c.object_id)
        .join(t.job, t.outbox.c.job_id == t.job.c.job_id)
        .join(t.study, t.job.c.study_id == t.study.c.study_id)
    )
    item = t.result_object.c
    columns = (
        *t.outbox.c,
        t.withdrawal.c.code,
        item.sop_class_uid,
        item.sop_instance_uid,
        item.series_instance_uid,
        item.fallback_sop_instance_uid,
        item.file_name,
        t.study.c.study_instance_uid,
    )
    statement = (
        select(*columns)
        .select_from(joined)
        .where(t.withdrawal.c.job_id == job_id, t.outbox.c.attempts > 0, item.kind != NOTE)
    )
    rows = connection.execute(statement.order_by(t.outbox.c.outbox_id)).all()
    return tuple(_by_destination(rows, results))


def _by_destination(rows: Sequence[Row[Any]], results: Path) -> Iterator[Withdrawn]:
    for name in dict.fromkeys(row.destination for row in rows):
        mine = [row for row in rows if row.destination == name]
        newest = mine[-1]
        path = results / str(newest.job_id) / newest.file_name
        yield Withdrawn(name, newest.code, tuple(sent_reference(row) for row in mine), path)


def _uid(connection: Connection, study_id: int) -> str:
    uid = select(t.study.c.study_instance_uid).where(t.study.c.study_id == study_id)
    return str(connection.scalar(uid))
