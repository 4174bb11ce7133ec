"""What ends: files whose time is over, and patients who are to be forgotten."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Engine,
    Row,
    and_,
    delete,
    exists,
    or_,
    select,
    update,
)

from prescreen.errors import StoreError
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import data_dir, empty_log, reading, writing
from prescreen.store.queue import utc_now
from prescreen.study import OutboxState, Stage


class Retention:
    """Forgets what is over. The paths returned are the caller's to remove from the spool.

    The rows say so first: a process killed in between leaves files that `Spool.sweep`, asked
    with `knows`, removes later.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock
        self._data_dir = data_dir(engine)

    def expire(self, before: datetime.datetime, limit: int = 500) -> list[Path]:
        """Received files and results folders that are over, at most `limit` of each.

        Results: of jobs done before `before`. Received files: come before `before`, and every job
        they are in is over. Parked rows are waiting for a person, and what no peer has promised to
        keep may have to be sent again: their jobs are not over.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            jobs = _expire_jobs(connection, before, now, limit)
            files = _expire_instances(connection, before, now, limit)
        folders = [self._data_dir / "spool" / "results" / str(row.job_id) for row in jobs]
        return [*folders, *(self._data_dir / row.path for row in files)]

    def knows(self, path: Path) -> bool | None:
        """True: the received file has a row; False: its time is over; None: it has no row."""
        relative = path.absolute().relative_to(self._data_dir).as_posix()
        columns = select(t.instance.c.removed_at).where(t.instance.c.path == relative)
        with reading(self._engine) as connection:
            row = connection.execute(columns).one_or_none()
        return None if row is None else row.removed_at is None

    def erase(self, study_instance_uid: str, who: str, why: str) -> list[Path]:
        """Forget the patient of a study: identity, answers, files; the audit chain stays whole.

        The log of writes is emptied too, or by the next housekeeping where others read in it.
        Pending rows are cancelled. Raises StoreError where the study is unknown, or is being
        worked on or sent at this moment.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            study_id = _study(connection, study_instance_uid)
            _refuse_if_leased(connection, study_id, study_instance_uid, now)
            _stop_work(connection, study_id, now)
            jobs, files = _forget(connection, study_id, study_instance_uid, now)
            detail = {"who": who, "why": why, "files": len(files), "results": len(jobs)}
            uid = study_instance_uid
            audit.append(connection, "study.erased", now, study_instance_uid=uid, detail=detail)
        empty_log(self._engine)
        folders = [self._data_dir / "spool" / "results" / str(number) for number in jobs]
        return [*folders, *(self._data_dir / path for path in files)]


def _expire_jobs(
    connection: Connection, before: datetime.datetime, now: datetime.datetime, limit: int
) -> Sequence[Row[Any]]:
    job = t.job.c
    waiting = or_(t.outbox.c.state == OutboxState.PARKED, t.outbox.c.commit_due_at.is_not(None))
    needed = exists().where(t.outbox.c.job_id == job.job_id, waiting)
    over = and_(job.stage == Stage.DONE, job.done_at < before, job.removed_at.is_(None), ~needed)
    chosen = select(job.job_id).where(over).order_by(job.job_id).limit(limit)
    statement = (
        update(t.job)
        .where(job.job_id.in_(chosen.scalar_subquery()))
        .values(removed_at=now)
        .returning(job.job_id, job.study_id)
    )
    rows = connection.execute(statement).all()
    for row in rows:
        uid = _uid(connection, row.study_id)
        audit.append(connection, "job.removed", now, study_instance_uid=uid, job_id=row.job_id)
    return rows


def _expire_instances(
    connection: Connection, before: datetime.datetime, now: datetime.datetime, limit: int
) -> Sequence[Row[Any]]:
    instance = t.instance.c
    needed = (
        exists()
        .where(t.job_instance.c.instance_id == instance.instance_id)
        .where(t.job_instance.c.job_id == t.job.c.job_id, t.job.c.removed_at.is_(None))
    )
    over = and_(instance.removed_at.is_(None), instance.received_at < before, ~needed)
    chosen = select(instance.instance_id).where(over).order_by(instance.instance_id).limit(limit)
    columns = (instance.path, instance.study_id, instance.sop_instance_uid, instance.instance_id)
    statement = (
        update(t.instance)
        .where(instance.instance_id.in_(chosen.scalar_subquery()))
        .values(removed_at=now)
        .returning(*columns)
    )
    rows = connection.execute(statement).all()
    for row in rows:
        audit.append(
            connection,
            "instance.removed",
            now,
            study_instance_uid=_uid(connection, row.study_id),
            sop_instance_uid=row.sop_instance_uid,
            detail={"instance_id": row.instance_id},
        )
    return rows


def _uid(connection: Connection, study_id: int) -> str | None:
    uid = select(t.study.c.study_instance_uid).where(t.study.c.study_id == study_id)
    return connection.scalar(uid)


def _study(connection: Connection, study_instance_uid: str) -> int:
    columns = t.study.c
    study_id = connection.scalar(
        select(columns.study_id).where(columns.study_instance_uid == study_instance_uid)
    )
    if study_id is None:
        raise StoreError(f"study {study_instance_uid}: is not known; see `prescreen audit list`")
    return int(study_id)


def _refuse_if_leased(
    connection: Connection, study_id: int, study_instance_uid: str, now: datetime.datetime
) -> None:
    jobs = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    leased_job = jobs.where(t.job.c.lease_until > now)
    leased_row = select(t.outbox.c.outbox_id).where(
        t.outbox.c.job_id.in_(jobs), t.outbox.c.lease_until > now
    )
    if connection.scalar(leased_job) is not None or connection.scalar(leased_row) is not None:
        raise StoreError(f"study {study_instance_uid}: is being worked on; try again in a minute")


def _stop_work(connection: Connection, study_id: int, now: datetime.datetime) -> None:
    """Nothing of the study is screened or sent any more."""
    job = t.job.c
    connection.execute(
        update(t.job)
        .where(job.study_id == study_id, job.stage == Stage.SCREEN)
        .values(outcome="failed", reason="erased", settled_at=now, open=False)
    )
    connection.execute(
        update(t.job)
        .where(job.study_id == study_id, job.stage != Stage.DONE)
        .values(stage=Stage.DONE, done_at=now, lease_token=None, lease_until=None)
    )
    jobs = select(job.job_id).where(job.study_id == study_id)
    waiting = or_(t.outbox.c.state == OutboxState.PENDING, t.outbox.c.state == OutboxState.PARKED)
    connection.execute(
        update(t.outbox)
        .where(t.outbox.c.job_id.in_(jobs), waiting)
        .values(state=OutboxState.CANCELLED, settled_at=now)
    )
    connection.execute(
        update(t.outbox)
        .where(t.outbox.c.job_id.in_(jobs), t.outbox.c.commit_due_at.is_not(None))
        .values(commit_due_at=None)
    )


def _forget(
    connection: Connection, study_id: int, study_instance_uid: str, now: datetime.datetime
) -> tuple[list[int], list[str]]:
    """Blank identity, answers and event data; returns the jobs and paths to remove."""
    job, instance = t.job.c, t.instance.c
    jobs = select(job.job_id).where(job.study_id == study_id)
    _forget_identities(connection, study_id, now)
    connection.execute(update(t.result).where(t.result.c.job_id.in_(jobs)).values(numbers=None))
    connection.execute(update(t.job).where(job.study_id == study_id).values(error=None))
    told = select(t.event.c.event_id).where(t.event.c.study_instance_uid == study_instance_uid)
    connection.execute(delete(t.event_phi).where(t.event_phi.c.event_id.in_(told)))
    gone = (
        update(t.job)
        .where(job.study_id == study_id, job.removed_at.is_(None))
        .values(removed_at=now)
        .returning(job.job_id)
    )
    removed = list(connection.scalars(gone))
    files = (
        update(t.instance)
        .where(instance.study_id == study_id, instance.removed_at.is_(None))
        .values(removed_at=now)
        .returning(instance.path)
    )
    return removed, list(connection.scalars(files))


def _forget_identities(connection: Connection, study_id: int, now: datetime.datetime) -> None:
    """Blank the identities of the study that no other study has."""
    of_study = _identities(t.instance.c.study_id == study_id)
    of_others = _identities(t.instance.c.study_id != study_id)
    identity, told = t.identity.c, t.correction.c
    connection.execute(
        update(t.correction).where(told.study_id == study_id).values(patient_sex=None)
    )
    mine = and_(identity.identity_id.in_(of_study), identity.identity_id.not_in(of_others))
    ids = connection.scalars(select(identity.identity_id).where(mine)).all()
    blank = dict.fromkeys(
        column.name
        for column in t.identity.columns
        if column.name not in ("identity_id", "digest", "erased_at")
    )
    for number in ids:
        values = {**dict.fromkeys(blank, ""), "digest": f"erased {number}", "erased_at": now}
        connection.execute(
            update(t.identity).where(identity.identity_id == number).values(**values)
        )


def _identities(chosen: ColumnElement[bool]) -> CompoundSelect[Any]:
    """The identities of instances, those that they had before a correction included."""
    former = t.correction_item.join(t.instance)
    before = select(t.correction_item.c.former_identity_id).select_from(former)
    return select(t.instance.c.identity_id).where(chosen).union(before.where(chosen))
