"""Every change of state of every job, each one transaction with its audit events.

A job is open while images may join it, closed by its first claim, settled with an outcome, and
done when nothing of it is left to deliver. The stage names the work that is next; the lease says
whether someone is on it. An expired lease is simply due again, and whoever held it is fenced off
by its token.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    bindparam,
    exists,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from prescreen.errors import LeaseLost, NotThere
from prescreen.settings import Destination
from prescreen.store import audit, rebuild, rejections, settlement, stages, withdrawal
from prescreen.store import schema as t
from prescreen.store.answers import Answer, earlier_results
from prescreen.store.arrival import Arrival, arrive, instance_of
from prescreen.store.database import data_dir, reading, writing
from prescreen.store.images import corrections
from prescreen.store.intake import Kept
from prescreen.store.prepared import Prepared
from prescreen.study import (
    Disposition,
    Identity,
    ImageResult,
    Incoming,
    Instance,
    Job,
    Outcome,
    Priority,
    Rejection,
    ResultObject,
    Stage,
    Withdrawn,
)


def utc_now() -> datetime.datetime:
    """The wall clock, aware, in UTC."""
    return datetime.datetime.now(datetime.UTC)


class Queue:
    """The jobs of one database.

    `clock` gives aware UTC instants; `crash` is called with the name of each crash point. Any
    method may raise StoreError; it is `retryable` where the database is merely locked or full.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime.datetime] = utc_now,
        crash: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._crash = crash
        self._data_dir = data_dir(engine)

    def keep(
        self,
        identity: Identity,
        kept: Kept,
        incoming: Incoming,
        *,
        quiet_period: float,
        quiet_cap: float,
        screenable: bool = True,
        reason: str | None = None,
        priority: int = Priority.ROUTINE,
        rejection: Rejection | None = None,
    ) -> Disposition:
        """Take a file of the spool into the database; what is returned is durable.

        NEW and AGAIN (other bytes under a known UID) join the study's open job, which is due
        after `quiet_period` seconds without a further image and `quiet_cap` seconds after its
        first at the latest; STAT is due at once. What is not `screenable` (`reason` says why) is
        IGNORED: kept, no job. DUPLICATE: nothing was taken, remove the file.
        Raises OutOfResources where the database is locked, full or failing.
        """
        path = kept.path.relative_to(self._data_dir).as_posix()
        arrival = Arrival(
            identity, kept, path, incoming, quiet_period, quiet_cap, screenable, reason, priority
        )
        with writing(self._engine, refuses=True) as connection:
            disposition = arrive(connection, arrival, self._clock())
            if rejection is not None and disposition is not Disposition.DUPLICATE:
                rejections.reject(connection, rejection, self._clock())
            self._crash("keep.before_commit")
        self._crash("keep.committed")
        return disposition

    def is_due(self) -> bool:
        """Whether a job may be due: cheaper to ask than to claim."""
        with reading(self._engine) as connection:
            return _DUE.scalar(connection, {"now": self._clock()}) is not None

    def claim(
        self,
        worker: str,
        lease: float,
        limit: int = 1,
        *,
        max_attempts: int = 3,
        weights: Mapping[str, str] | None = None,
        rules: str = "",
    ) -> list[Job]:
        """Up to `limit` due jobs, closed and leased to `worker` for `lease` seconds.

        The attempt is counted before the work. A job that was tried before comes alone, so that
        an image that kills its worker takes nothing else down; one that was tried `max_attempts`
        times is settled as failed (`too_many_attempts`) instead. `weights` (network -> sha256)
        and `rules` (version) are frozen into the job. Of one study one job at a time is out.
        """
        terms: dict[str, Any] = {
            "weights": json.dumps(dict(weights or {}), sort_keys=True),
            "rules": rules,
        }
        with writing(self._engine) as connection:
            now, lasts = self._clock(), datetime.timedelta(seconds=lease)
            here = {"now": now, "ahead": now + 2 * lasts}
            _give_up(connection, now, {**here, "most": max_attempts})
            terms |= {**here, "worker": worker, "lease_until": now + lasts}
            jobs = self._claim_up_to(connection, now, limit, terms)
        if jobs:
            self._crash("screen.claimed")
        return jobs

    def _claim_up_to(
        self,
        connection: Connection,
        now: datetime.datetime,
        limit: int,
        terms: Mapping[str, Any],
    ) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < limit:
            claim = _CLAIM_FRESH if jobs else _CLAIM
            row = claim.first(connection, {**terms, "lease_token": uuid.uuid4().hex})
            if row is None:
                break
            jobs.append(self._claimed(connection, row, now))
            if row.attempts > 1:
                break
        return jobs

    def _claimed(self, connection: Connection, row: Row[Any], now: datetime.datetime) -> Job:
        frozen = settlement.freeze(connection, row, now)
        uid = _STUDY_UID.scalar(connection, {"the_study": row.study_id})
        audit.append(
            connection,
            "job.claimed",
            now,
            study_instance_uid=uid,
            job_id=row.job_id,
            detail={"attempt": row.attempts, "worker": row.worker, "rules": row.rules}
            | {"weights": json.loads(row.weights)},
        )
        return Job(
            job_id=row.job_id,
            study_instance_uid=str(uid),
            stage=Stage.SCREEN,
            instances=_instances(connection, self._data_dir, row.job_id),
            attempt=row.attempts,
            lease_token=row.lease_token,
            priority=row.priority,
            predecessor_job_id=frozen.predecessor_job_id,
            earlier=earlier_results(connection, row.study_id, row.job_id),
            live_destinations=frozen.live_destinations,
            held_findings=frozen.held_findings,
            cause=row.cause,
            withdrawn=self._withdrawn(connection, row),
        )

    def _withdrawn(self, connection: Connection, row: Row[Any]) -> tuple[Withdrawn, ...]:
        if row.cause not in (rejections.REJECTED, withdrawal.RECALLED):
            return ()
        results = self._data_dir / "spool" / "results"
        return rejections.withdrawn_by(connection, row.job_id, results)

    def renew(self, job: Job, lease: float) -> None:
        """Hold the job for another `lease` seconds from now; LeaseLost if someone else has it."""
        with writing(self._engine) as connection:
            until = self._clock() + datetime.timedelta(seconds=lease)
            _change(connection, job, {"lease_until": until})

    def retry(
        self,
        job: Job,
        error: str,
        delay: float,
        reason: str | None = None,
        *,
        counts: bool = True,
    ) -> None:
        """Put the job back, due in `delay` seconds; `error` (may hold a traceback) is kept.

        The attempt `counts` unless what went wrong was the node's own and passes (a full disk).
        The audit gets `reason`, a code, alone. Raises LeaseLost.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            due_at = now + datetime.timedelta(seconds=delay)
            tried = t.job.c.attempts if counts else t.job.c.attempts - 1
            _change(
                connection,
                job,
                {"due_at": due_at, "error": error, "attempts": tried, **_FREE},
            )
            detail = {"attempt": job.attempt, "delay": delay, "reason": reason}
            _append(connection, "job.retried", job, now, detail)

    def hand_back(self, job: Job) -> None:
        """Put a job back that was not begun: the attempt does not count. Raises LeaseLost."""
        with writing(self._engine) as connection:
            now = self._clock()
            _change(connection, job, {"attempts": t.job.c.attempts - 1, **_FREE})
            _append(connection, "job.handed_back", job, now, {})

    def settle(
        self,
        job: Job,
        outcome: Outcome,
        reason: str | None = None,
        answers: Iterable[Answer | tuple[Instance, ImageResult]] = (),
        objects: Sequence[ResultObject] = (),
        destinations: Sequence[Destination] = (),
        error: str | None = None,
    ) -> None:
        """Write the job's outcome, answers, objects and outbox rows down; durable on return.

        A row per object and destination that wants it: pending where the destination was live
        when the job was claimed or is for tests, else held for ever. `audience_of` says which
        audience's objects a destination gets. Instances without an answer get the job's outcome
        (in a screened job `not_screened`, `no_answer`). Raises LeaseLost.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            done = {"outcome": outcome, "reason": reason, "error": error, "settled_at": now}
            _change(connection, job, {**done, **_FREE})
            detail = {"reason": reason, "attempt": job.attempt, "instances": len(job.instances)}
            _append(connection, f"job.{outcome}", job, now, detail)
            given = [Answer(*answer) for answer in answers]
            settlement.write_answers(connection, job, given, (outcome, reason), now)
            settlement.write_objects(connection, job, objects, destinations, now)
            stage = stages.next_stage(connection, job.job_id)
            stages.advance(connection, job.job_id, job.study_instance_uid, stage, now)
        self._crash("screen.settled")

    def rescreen(self, study_instance_uid: str, who: str, why: str) -> int:
        """A job, due now, over all images kept of a study; returns its id.

        Earlier objects of which no row was attempted are cancelled in the same transaction.
        Raises StoreError where the study is unknown or its images are no longer kept.
        """
        with writing(self._engine) as connection:
            detail = {"who": who, "why": why}
            now = self._clock()
            return rebuild.rebuild(connection, study_instance_uid, "rescreen", now, detail)

    def retry_failed(self, job_id: int, who: str, why: str) -> int:
        """A new job over the study of a job that failed; returns its id. Raises StoreError."""
        with writing(self._engine) as connection:
            joined = t.job.join(t.study)
            statement = select(t.study.c.study_instance_uid, t.job.c.outcome)
            row = connection.execute(
                statement.select_from(joined).where(t.job.c.job_id == job_id)
            ).one_or_none()
            if row is None or row.outcome != Outcome.FAILED:
                raise NotThere(f"job {job_id}: there is no failed job of that number")
            detail = {"who": who, "why": why, "failed_job_id": job_id}
            now = self._clock()
            return rebuild.rebuild(connection, row.study_instance_uid, "retry", now, detail)

    def objects(self, job_id: int) -> tuple[ResultObject, ...]:
        """The objects of a settled job, as they were given to `settle`."""
        statement = select(t.result_object).where(t.result_object.c.job_id == job_id)
        with reading(self._engine) as connection:
            rows = connection.execute(statement.order_by(t.result_object.c.object_id))
            return tuple(settlement.object_of(row) for row in rows)

    def settled_at(self, job_id: int) -> datetime.datetime | None:
        """When a job was settled, or None if it has not been."""
        with reading(self._engine) as connection:
            statement = select(t.job.c.settled_at).where(t.job.c.job_id == job_id)
            return connection.scalar(statement)

    def versions(self, sop_instance_uid: str) -> tuple[Instance, ...]:
        """Every kept file under a SOP Instance UID, oldest first, to tell them apart."""
        with reading(self._engine) as connection:
            statement = _instance_rows().where(
                t.instance.c.sop_instance_uid == sop_instance_uid,
                t.instance.c.removed_at.is_(None),
            )
            rows = connection.execute(statement.order_by(t.instance.c.instance_id))
            return tuple(instance_of(row, self._data_dir) for row in rows)


_EARLIER = t.job.alias("earlier")
_NOW, _AHEAD = bindparam("now", type_=t.Instant), bindparam("ahead", type_=t.Instant)
#: A lease given up.
_FREE: dict[str, Any] = {"lease_token": None, "lease_until": None, "worker": None}


def _claimable() -> ColumnElement[bool]:
    """Due `now`, free or its lease run out, and no earlier job of the study still to be settled.

    A lease that ends after `ahead`, long after one that is given now, was given by a clock that was
    ahead, and is void.
    """
    job = t.job.c
    waits = exists().where(
        _EARLIER.c.study_id == job.study_id,
        _EARLIER.c.stage == Stage.SCREEN,
        _EARLIER.c.job_id < job.job_id,
    )
    free = or_(job.lease_until.is_(None), job.lease_until <= _NOW, job.lease_until > _AHEAD)
    return and_(job.stage == Stage.SCREEN, job.due_at <= _NOW, free, ~waits)


def _claim_one(due: ColumnElement[bool]) -> ReturningUpdate[Any]:
    """One atomic statement: lease, count the attempt, close."""
    order = (t.job.c.priority.desc(), t.job.c.due_at, t.job.c.job_id)
    first = select(t.job.c.job_id).where(due).order_by(*order).limit(1)
    return (
        update(t.job)
        .where(t.job.c.job_id == first.scalar_subquery(), due)
        .values(open=False, attempts=t.job.c.attempts + 1)
        .returning(*t.job.c)
    )


def _give_up(connection: Connection, now: datetime.datetime, terms: Mapping[str, Any]) -> None:
    """Settle what was tried too often and whose last worker did not come back to say so."""
    reason = "too_many_attempts"
    failed = {"outcome": Outcome.FAILED, "reason": reason, "settled_at": now, **_FREE}
    for row in _GIVE_UP.all(connection, {**terms, **failed}):
        uid = _STUDY_UID.scalar(connection, {"the_study": row.study_id})
        settlement.fail_instances(connection, row.job_id, reason)
        audit.append(
            connection,
            "job.failed",
            now,
            study_instance_uid=uid,
            job_id=row.job_id,
            detail={"reason": reason, "attempt": row.attempts},
        )
        stages.advance(connection, row.job_id, str(uid), Stage.DONE, now)


def _change(connection: Connection, job: Job, values: Mapping[str, Any]) -> None:
    """Change a job that is still ours; LeaseLost where it is not."""
    whose = {"the_job": job.job_id, "the_token": job.lease_token}
    if _CHANGE.run(connection, {**values, **whose}) != 1:
        raise LeaseLost(f"job {job.job_id}: someone else owns it now")


def _append(
    connection: Connection, kind: str, job: Job, now: datetime.datetime, detail: Mapping[str, Any]
) -> None:
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=job.study_instance_uid,
        job_id=job.job_id,
        detail={key: value for key, value in detail.items() if value is not None},
    )


def _instance_rows() -> Any:
    joined = t.instance.join(t.study, t.instance.c.study_id == t.study.c.study_id).join(
        t.identity, t.instance.c.identity_id == t.identity.c.identity_id
    )
    columns = (*t.instance.c, t.study.c.study_instance_uid, t.identity.c.digest)
    return select(*columns).select_from(joined)


def _instances(connection: Connection, folder: Path, job_id: int) -> tuple[Instance, ...]:
    rows = _INSTANCES.all(connection, {"the_job": job_id})
    told = corrections(connection, job_id)
    found = (instance_of(row, folder) for row in rows)
    return tuple(replace(one, correction=told.get(one.instance_id)) for one in found)


def _instances_of_a_job() -> Any:
    of_job = select(t.job_instance.c.instance_id).where(
        t.job_instance.c.job_id == bindparam("the_job")
    )
    statement = _instance_rows().where(
        t.instance.c.instance_id.in_(of_job), t.instance.c.rejected_at.is_(None)
    )
    return statement.order_by(t.instance.c.instance_id)


_INSTANCES = Prepared(_instances_of_a_job())
_DUE = Prepared(
    select(t.job.c.job_id).where(t.job.c.stage == Stage.SCREEN, t.job.c.due_at <= _NOW).limit(1)
)
_STUDY_UID = Prepared(
    select(t.study.c.study_instance_uid).where(t.study.c.study_id == bindparam("the_study"))
)
_CLAIM = Prepared(_claim_one(_claimable()))
_CLAIM_FRESH = Prepared(_claim_one(and_(_claimable(), t.job.c.attempts == 0)))
_GIVE_UP = Prepared(
    update(t.job)
    .where(_claimable(), t.job.c.attempts >= bindparam("most"))
    .returning(t.job.c.job_id, t.job.c.study_id, t.job.c.attempts)
)
_CHANGE = Prepared(
    update(t.job).where(
        t.job.c.job_id == bindparam("the_job"),
        t.job.c.lease_token == bindparam("the_token"),
        t.job.c.stage == Stage.SCREEN,
    )
)


__all__ = ["Answer", "Queue", "utc_now"]
