"""Rows made again from what lies in the spool: files as received, results with their manifests.

Functions on a connection. What is made again keeps every UID and number that the files carry; what
no file tells (whether a peer has an object) is taken as not done, so that it is done again under
the same UIDs.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update

from prescreen.settings import Destination
from prescreen.store import arrival, audit, settlement, stages
from prescreen.store import schema as t
from prescreen.store.answers import Answer
from prescreen.store.prepared import add
from prescreen.store.results import Told
from prescreen.study import Disposition, Identity, Job, OutboxState, Priority, Stage

#: States of an outbox row that nothing sends any more.
ENDED = (OutboxState.DELIVERED, OutboxState.COMMITTED, OutboxState.CANCELLED, OutboxState.HELD)


@dataclass(frozen=True)
class Unaccounted:
    """What the spool has and the database does not: relative paths, and numbers of folders."""

    files: tuple[str, ...]
    results: tuple[int, ...]


def kept(connection: Connection) -> dict[str, str]:
    """Relative path -> SHA-256 of every file that is kept."""
    columns = (t.instance.c.path, t.instance.c.sha256)
    rows = connection.execute(select(*columns).where(t.instance.c.removed_at.is_(None)))
    return {row.path: row.sha256 for row in rows}


def results_kept(connection: Connection) -> set[str]:
    """Relative path of the results folder of every job whose retention is not over."""
    jobs = connection.scalars(select(t.job.c.job_id).where(t.job.c.removed_at.is_(None)))
    return {f"spool/results/{number}" for number in jobs}


def paths(connection: Connection) -> set[str]:
    """Every path that has a row, those of files removed since included."""
    return set(connection.scalars(select(t.instance.c.path)))


def newest_event(connection: Connection) -> datetime.datetime | None:
    """When the newest audit event was written."""
    newest = select(t.event.c.at).order_by(t.event.c.event_id.desc()).limit(1)
    return connection.scalar(newest)


def knows_study(connection: Connection, study_instance_uid: str) -> bool:
    """Whether a study has a row."""
    here = t.study.c.study_instance_uid == study_instance_uid
    return connection.scalar(select(t.study.c.study_id).where(here)) is not None


def is_taken(connection: Connection, told: Told) -> bool:
    """Whether the number of a results folder belongs to another job than its own by now."""
    joined = t.job.join(t.study, t.job.c.study_id == t.study.c.study_id)
    columns = (t.job.c.settled_at, t.study.c.study_instance_uid)
    here = t.job.c.job_id == told.job_id
    row = connection.execute(select(*columns).select_from(joined).where(here)).one_or_none()
    if row is None:
        return False
    return row.settled_at is not None or row.study_instance_uid != told.study_instance_uid


def last_job(connection: Connection) -> int:
    """The highest number a job has."""
    return int(connection.scalars(select(func.coalesce(func.max(t.job.c.job_id), 0))).one())


def lose(connection: Connection, path: str, now: datetime.datetime) -> None:
    """Say of a file that it is gone, so that it is kept when it comes again."""
    here = (t.instance.c.path == path, t.instance.c.removed_at.is_(None))
    for number in connection.scalars(select(t.instance.c.instance_id).where(*here)).all():
        arrival.lose(connection, number, now)


def add_study(connection: Connection, identity: Identity, now: datetime.datetime) -> None:
    """A row for a study of which no image is left, with the identity its results carry."""
    identity_id, _ = arrival.identity_row(connection, identity)
    uid = identity.study_instance_uid
    row = {"study_instance_uid": uid, "identity_id": identity_id, "first_received_at": now}
    add(connection, t.study, row)


def unaccounted(
    connection: Connection, files: Iterable[str], folders: Mapping[int, Told]
) -> Unaccounted:
    """Of the files and results folders that are there, those without rows of their own."""
    known = set(connection.scalars(select(t.instance.c.path)))
    missing = tuple(sorted(path for path in files if path not in known))
    results = (number for number, told in folders.items() if not _is_settled(connection, told))
    return Unaccounted(missing, tuple(sorted(results)))


def _is_settled(connection: Connection, told: Told) -> bool:
    """Whether the job of a results folder is settled with just these objects."""
    uids = select(t.result_object.c.sop_instance_uid)
    rows = set(connection.scalars(uids.where(t.result_object.c.job_id == told.job_id)))
    return rows == {item.sop_instance_uid for item in told.objects}


def owner(connection: Connection, told: Told) -> int | None:
    """The job that has a row for an object of this results folder."""
    uids = [item.sop_instance_uid for item in told.objects]
    of_job = select(t.result_object.c.job_id).where(t.result_object.c.sop_instance_uid.in_(uids))
    return connection.scalar(of_job.limit(1))


def results_gone(connection: Connection, there: set[int]) -> list[int]:
    """Jobs with objects still to be sent, or parked, whose results folder is not there."""
    wanted = t.outbox.c.state.in_([OutboxState.PENDING, OutboxState.PARKED])
    jobs = set(connection.scalars(select(t.outbox.c.job_id).where(wanted)))
    return sorted(jobs - there)


def _put_off(until: datetime.datetime) -> list[tuple[Any, Any]]:
    """Table and condition of what waits until later than an instant."""
    of_job = (t.job.c.stage == Stage.SCREEN) & (t.job.c.due_at > until)
    of_row = (t.outbox.c.state == OutboxState.PENDING) & (t.outbox.c.due_at > until)
    return [(t.job, of_job), (t.outbox, of_row)]


def put_off(connection: Connection, until: datetime.datetime) -> int:
    """How many jobs and outbox rows are not due before an instant."""
    counts = [
        select(func.count()).select_from(table).where(late) for table, late in _put_off(until)
    ]
    return sum(connection.scalars(count).one() for count in counts)


def make_due(connection: Connection, until: datetime.datetime, now: datetime.datetime) -> int:
    """Make due now what would wait until later than an instant, and end every lease; how many.

    Only while no role runs: nobody holds a lease then, whatever its row says.
    """
    changed = 0
    for table, late in _put_off(until):
        changed += int(connection.execute(update(table).where(late).values(due_at=now)).rowcount)
    for table in (t.job, t.outbox):
        held = table.c.lease_until.is_not(None)
        free = {"lease_until": None, "lease_token": None}
        connection.execute(update(table).where(held).values(**free))
    return changed


def restore(
    connection: Connection,
    told: Told,
    destinations: Sequence[Destination],
    now: datetime.datetime,
) -> None:
    """The job of a results folder, settled as its manifest says, under the folder's number.

    Its objects are pending for the destinations that were live or are for tests, and held for the
    others, as when it was settled. A job of that number that was not settled yet makes room. The
    study and the instances must have rows; an instance that has none gets no answer.
    """
    study_id = connection.scalars(
        select(t.study.c.study_id).where(t.study.c.study_instance_uid == told.study_instance_uid)
    ).one()
    _make_room(connection, told.job_id)
    answers = _answers(connection, told)
    job = _job(connection, told, study_id, [answer.instance for answer in answers], now)
    settled = (told.outcome, told.reason)
    settlement.write_answers(connection, job, answers, settled, now)
    wanted = [d for d in destinations if d.name in told.destinations]
    settlement.write_objects(connection, job, told.objects, wanted, now)
    _append(connection, "job.recovered", told, now, {"objects": len(told.objects)})
    stage = stages.next_stage(connection, told.job_id)
    stages.advance(connection, told.job_id, told.study_instance_uid, stage, now)


def _make_room(connection: Connection, job_id: int) -> None:
    """Remove a job that is not settled, and nothing else: its images find their job below."""
    for table in (t.job_instance, t.result):
        connection.execute(delete(table).where(table.c.job_id == job_id))
    connection.execute(delete(t.job).where(t.job.c.job_id == job_id))


def _answers(connection: Connection, told: Told) -> list[Answer]:
    answers = []
    for sop_instance_uid, sha256, disposition, pixels, result in told.answers:
        rows = _versions(connection, sop_instance_uid)
        row = next((row for row in rows if row.sha256 == sha256), rows[0] if rows else None)
        if row is not None:
            instance = arrival.instance_of(row, Path())
            answers.append(Answer(instance, result, disposition, pixels))
    return answers


def _versions(connection: Connection, sop_instance_uid: str) -> list[Row[Any]]:
    joined = t.instance.join(t.study, t.instance.c.study_id == t.study.c.study_id).join(
        t.identity, t.instance.c.identity_id == t.identity.c.identity_id
    )
    columns = (*t.instance.c, t.study.c.study_instance_uid, t.identity.c.digest)
    here = t.instance.c.sop_instance_uid == sop_instance_uid
    statement = select(*columns).select_from(joined).where(here)
    return list(connection.execute(statement.order_by(t.instance.c.instance_id)))


def _job(
    connection: Connection,
    told: Told,
    study_id: int,
    instances: Sequence[Any],
    now: datetime.datetime,
) -> Job:
    live = told.live or frozenset()
    predecessor = connection.scalar(
        select(t.job.c.job_id).where(t.job.c.job_id == told.predecessor_job_id)
    )
    row = {
        "job_id": told.job_id,
        "study_id": study_id,
        "stage": Stage.DELIVER,
        "open": False,
        "cause": "recovered",
        "priority": told.priority,
        **dict.fromkeys(("opened_at", "due_at", "cap_at", "claimed_at", "settled_at"), now),
        "attempts": 1,
        "live_destinations": json.dumps(sorted(live)),
        "held_findings": json.dumps(sorted(told.held_findings)),
        "predecessor_job_id": predecessor,
        "outcome": told.outcome,
        "reason": told.reason,
    }
    add(connection, t.job, row)
    for instance in instances:
        pair = {"job_id": told.job_id, "instance_id": instance.instance_id}
        connection.execute(insert(t.job_instance), pair)
    return Job(
        job_id=told.job_id,
        study_instance_uid=told.study_instance_uid,
        stage=Stage.SCREEN,
        instances=tuple(instances),
        attempt=1,
        lease_token="",
        priority=told.priority,
        predecessor_job_id=predecessor,
        live_destinations=live,
        held_findings=told.held_findings,
    )


def unseen(folders: Mapping[int, Told]) -> set[int]:
    """Jobs whose report nobody has: the study's next one does not name them as its predecessor.

    They were cancelled before they were tried, or held in silence; they stay so.
    """
    found = set()
    newest: dict[str, int] = {}
    for number, told in sorted(folders.items()):
        before = newest.get(told.study_instance_uid)
        if before is not None and told.predecessor_job_id != before:
            found.add(before)
        newest[told.study_instance_uid] = number
    return found


def cancel(connection: Connection, job_ids: Iterable[int], now: datetime.datetime) -> None:
    """Cancel what is pending of jobs whose report was withdrawn before it was sent."""
    for job_id in sorted(job_ids):
        here = (t.outbox.c.job_id == job_id, t.outbox.c.state == OutboxState.PENDING)
        values = {"state": OutboxState.CANCELLED, "settled_at": now}
        if connection.execute(update(t.outbox).where(*here).values(**values)).rowcount:
            _moved_on(connection, job_id, now)


def mark(
    connection: Connection,
    known: Mapping[tuple[str, str], str],
    now: datetime.datetime,
) -> int:
    """Set pending rows to what is known of them: (SOP Instance UID, destination) -> state."""
    joined = t.outbox.join(t.result_object, t.outbox.c.object_id == t.result_object.c.object_id)
    columns = (t.outbox.c.outbox_id, t.outbox.c.job_id, t.outbox.c.destination)
    statement = select(*columns, t.result_object.c.sop_instance_uid).select_from(joined)
    rows = connection.execute(statement.where(t.outbox.c.state == OutboxState.PENDING)).all()
    changed = [
        (row, known[row.sop_instance_uid, row.destination])
        for row in rows
        if known.get((row.sop_instance_uid, row.destination)) in ENDED
    ]
    for row, state in changed:
        values = {"state": state, "settled_at": now}
        here = t.outbox.c.outbox_id == row.outbox_id
        connection.execute(update(t.outbox).where(here).values(**values))
    for job_id in sorted({row.job_id for row, _ in changed}):
        _moved_on(connection, job_id, now)
    return len(changed)


def _moved_on(connection: Connection, job_id: int, now: datetime.datetime) -> None:
    joined = t.job.join(t.study, t.job.c.study_id == t.study.c.study_id)
    uid = connection.scalar(
        select(t.study.c.study_instance_uid).select_from(joined).where(t.job.c.job_id == job_id)
    )
    stages.advance(connection, job_id, str(uid), stages.next_stage(connection, job_id), now)


def open_waiting(connection: Connection, now: datetime.datetime) -> int:
    """Put kept images that are in no job into their study's open one, due now; how many."""
    instance = t.instance.c
    in_a_job = exists().where(t.job_instance.c.instance_id == instance.instance_id)
    waiting = (
        select(instance.instance_id, instance.study_id, t.study.c.study_instance_uid)
        .select_from(t.instance.join(t.study, instance.study_id == t.study.c.study_id))
        .where(instance.removed_at.is_(None), instance.rejected_at.is_(None), ~in_a_job)
        .where(instance.disposition.in_([Disposition.NEW, Disposition.AGAIN]))
        .order_by(instance.instance_id)
    )
    rows = connection.execute(waiting).all()
    for row in rows:
        is_open = (t.job.c.study_id == row.study_id, t.job.c.open)
        job_id = connection.scalar(select(t.job.c.job_id).where(*is_open))
        if job_id is None:
            job_id = arrival.open_job(
                connection,
                row.study_id,
                row.study_instance_uid,
                now,
                now,
                now,
                Priority.ROUTINE,
                "recovered",
            )
        pair = {"job_id": job_id, "instance_id": row.instance_id}
        connection.execute(insert(t.job_instance), pair)
    return len(rows)


def _append(
    connection: Connection, kind: str, told: Told, now: datetime.datetime, detail: dict[str, Any]
) -> None:
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=told.study_instance_uid,
        job_id=told.job_id,
        detail=detail,
    )
